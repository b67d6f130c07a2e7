"""MONAI Label's REST API, so that the plugins of 3D Slicer and OHIF connect unchanged.

Follows its server and client (https://github.com/Project-MONAI/MONAILabel, `endpoints`, `client/client.py`). Each
`infer` request contains all clicks so far. Here the image stays encoded in a session whose log becomes those clicks, so
later requests are fast. One model has two names: ``automatic`` of type `segmentation`, and ``clicks`` of type
`deepedit`.
"""

from s2vnet.server.protocols.monailabel.router import router
from s2vnet.server.protocols.monailabel.service import MonaiLabel

__all__ = ["MonaiLabel", "router"]
