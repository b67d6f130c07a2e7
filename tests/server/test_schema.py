"""The API conforms to its OpenAPI schema, for valid and invalid requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis import strategies as st
from listening import listening
from schemathesis.specs.openapi.checks import positive_data_acceptance

from s2vnet.server.api import router
from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.settings import Settings

MOST = int(os.environ.get("S2VNET_EXAMPLES", "20"))
"""Examples an operation."""


@pytest.fixture(scope="module")
def address(unlimited: Settings, library: ModelLibrary) -> Iterator[str]:
    """A server that listens."""
    with listening(create_app(unlimited, library)) as address:
        yield address


@pytest.fixture(scope="module")
def session(address: str) -> str:
    """One that is open."""
    name = str(requests.post(f"{address}/api/sessions", json={"image": "one.nii.gz"}).json()["session"])
    assert requests.get(f"{address}/api/sessions/{name}/labels").status_code == 200
    return name


described = FastAPI()
described.include_router(router)
schema = schemathesis.openapi.from_dict(described.openapi())


@schema.given(known=st.booleans())
@schema.parametrize()
@examples(
    max_examples=MOST, derandomize=MOST <= 20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
def test_responses_conform_to_the_schema(case: Any, known: bool, session: str, address: str) -> None:
    if known and "name" in (case.path_parameters or {}) and case.method != "DELETE":
        case.path_parameters["name"] = session
    fits = case.meta.generation.mode.is_positive
    if known and fits and case.path == "/api/sessions" and isinstance(case.body, dict):
        case.body["image"] = "one.nii.gz"
    answer = case.call_and_validate(base_url=address, excluded_checks=[positive_data_acceptance])
    assert answer.headers["cache-control"] == ["no-store"]  # of whatever may be a patient's
    if fits and answer.status_code == 422:  # for what it means, such as a place outside of the scan, not for its form
        detail = answer.json()["detail"]
        assert "Value error" in detail or not detail.startswith(("body", "path", "query")), detail


def test_the_server_publishes_this_schema(address: str) -> None:
    assert requests.get(f"{address}/openapi.json").json()["paths"] == described.openapi()["paths"]
