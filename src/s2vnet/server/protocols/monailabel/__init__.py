"""MONAI Label's REST API, so that the plugins of 3D Slicer, OHIF and MITK connect unchanged.

Follows its server and client (https://github.com/Project-MONAI/MONAILabel, `endpoints`, `client/client.py`). Each
`infer` request contains all prompts so far. Here the image stays encoded in a session whose log becomes those prompts,
so later requests are fast. A model has several names, one for each of the types by which clients choose their tools
(:data:`.service.KINDS`).

The routes are at ``/monailabel`` and at the root, for MITK, which is configured with host and port, and for OHIF, which
removes the last part of an address that does not end in a slash.
"""

from __future__ import annotations

from fastapi import APIRouter

from s2vnet._version import __version__
from s2vnet.server.protocols.monailabel import (
    active_learning,
    app_info,
    auth,
    batch,
    datastore,
    dicom_proxy,
    infer,
    labels,
    sessions,
    training,
)
from s2vnet.server.protocols.monailabel.service import MonaiLabel

__all__ = ["MonaiLabel", "router", "welcome"]
router = APIRouter(include_in_schema=False)
for _module in (app_info, auth, infer, sessions, datastore, labels, active_learning, batch, dicom_proxy, training):
    router.include_router(_module.router)


def welcome() -> dict[str, str]:
    """Answer a client that asks whether there is a server at its address."""
    return {"name": "s2vnet", "version": __version__}
