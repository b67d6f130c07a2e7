"""All routes of MONAI Label's API."""

from __future__ import annotations

from fastapi import APIRouter

from s2vnet.server.protocols.monailabel import app_info, datastore, infer, training

router = APIRouter(prefix="/monailabel", include_in_schema=False)
for _part in (app_info, infer, datastore, training):
    router.include_router(_part.router)
