"""MONAI Label's REST API, so that the plugins of 3D Slicer and OHIF connect unchanged.

Follows its server and client (https://github.com/Project-MONAI/MONAILabel, `endpoints`, `client/client.py`). Each
`infer` request contains all clicks so far. Here the image stays encoded in a session whose log becomes those clicks, so
later requests are fast. One model has two names: ``automatic`` of type `segmentation`, and ``clicks`` of type
`deepedit`.
"""

from __future__ import annotations

from fastapi import APIRouter

from s2vnet.server.protocols.monailabel import app_info, datastore, infer, training
from s2vnet.server.protocols.monailabel.service import MonaiLabel

__all__ = ["MonaiLabel", "router"]
router = APIRouter(prefix="/monailabel", include_in_schema=False)
for _module in (app_info, infer, datastore, training):
    router.include_router(_module.router)
