"""nnInteractive's server protocol, so that its clients connect unchanged (https://github.com/MIC-DKFZ/nnInteractive).

Its clients segment one object at a time and have no classes, so each sees one class: the one in the address,
``/nninteractive/liver``, or with ``/nninteractive`` one of its own, which its prompts alone segment. Its arrays have no
orientation: see :mod:`s2vnet.server.protocols.nninteractive.array_geometry`.
"""

from __future__ import annotations

from s2vnet.server.protocols.nninteractive.lease import LeasedClients
from s2vnet.server.protocols.nninteractive.routes import router

__all__ = ["LeasedClients", "router"]
