"""nnInteractive's server protocol, so that its clients connect unchanged (https://github.com/MIC-DKFZ/nnInteractive).

Its clients segment one object at a time and have no classes, so each sees one class at a time: the one in the address,
``/nninteractive/liver``, or with ``/nninteractive`` the class at the first prompt, or the most probable one there. Its
arrays have no orientation: see :mod:`s2vnet.server.protocols.nninteractive.array_geometry`.
"""

from __future__ import annotations

from s2vnet.server.protocols.nninteractive.lease import LeasedClients
from s2vnet.server.protocols.nninteractive.routes import router

__all__ = ["LeasedClients", "router"]
