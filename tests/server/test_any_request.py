"""No request to a route of any client's protocol fails inside the server, whatever it contains.

`S2VNET_EXAMPLES=2000 pytest tests/server/test_any_request.py` is the long run.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from listening import listening

from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.protocols import itksnap, monailabel, nninteractive
from s2vnet.server.protocols.array_codec import pack
from s2vnet.server.settings import Settings

MOST = int(os.environ.get("S2VNET_EXAMPLES", "10"))
"""Examples a route, and four times as many of those that receive arrays."""
SHAPE = (6, 7, 8)
many = examples(max_examples=4 * MOST, deadline=None, database=None, suppress_health_check=list(HealthCheck))
some = examples(many, max_examples=MOST)

numbers = st.integers(-3, 12) | st.floats(-3, 12) | st.floats() | st.integers()
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)
triples = st.lists(numbers, min_size=3, max_size=3)
boxes = st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=3, max_size=3)
fitting_boxes = st.tuples(*[st.tuples(st.integers(-2, n), st.integers(1, n)) for n in SHAPE])


def forms(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with these fields, some left out or of another type, and anything else."""
    loose = {name: values | json_values for name, values in fields.items()}
    return st.fixed_dictionaries(fields) | st.fixed_dictionaries({}, optional=loose) | json_values


def arrays(dimensions: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Arrays, most of which have the image's shape, or one near it."""
    lead = (1,) * (dimensions - 3)
    shapes = st.just((*lead, *SHAPE)) | st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)
    types = st.sampled_from(["uint8", "bool", "float32", "float64", "int16", "int64"])
    values = st.sampled_from([0, 1, 7, float("nan"), float("inf"), -1e300])

    def make(shape: Any, dtype: str, value: float) -> np.ndarray[Any, Any]:
        with np.errstate(all="ignore"):
            return np.full(shape, value).astype(dtype)

    return st.builds(make, shapes, types, values)


@pytest.fixture(scope="module")
def server(unlimited: Settings, library: ModelLibrary) -> Iterator[httpx.Client]:
    """A client of a server that listens."""
    with (
        listening(create_app(unlimited, library)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def lease(server: httpx.Client) -> dict[str, str]:
    """Of an nnInteractive client with an image."""
    token = server.post("/nninteractive/any/SPL/claim").json()["lease_token"]
    headers = {"x-lease-token": token, "content-type": "application/octet-stream"}
    image = np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32)
    assert server.post("/nninteractive/set_image", content=pack(image), headers=headers).status_code == 200
    return headers


@pytest.fixture(scope="module")
def snap(server: httpx.Client) -> str:
    """Name of an ITK-SNAP client with an image."""
    name = str(server.get("/v2/start_session/s2vnet").json()["session_id"])
    sent = {"file": gzip.compress(np.zeros(SHAPE, "<f4").tobytes())}
    form = {"metadata": json.dumps({"dimensions": SHAPE})}
    assert server.post(f"/v2/upload_raw/{name}", files=sent, data=form).status_code == 200
    return name


def check(answer: httpx.Response) -> None:
    """An error is one line of JSON; the server never fails."""
    assert answer.status_code != 500
    if answer.status_code >= 400:
        assert "\n" not in answer.json()["detail"]


@many
@given(
    route=st.sampled_from(["add_scribble_interaction", "add_lasso_interaction", "add_initial_seg_interaction"]),
    meta=forms(include_interaction=st.booleans(), interaction_bbox=boxes | st.none(), run_prediction=st.booleans()),
    array=arrays(3),
)
def test_drawings(server: httpx.Client, lease: dict[str, str], route: str, meta: Any, array: Any) -> None:
    headers = lease | {"x-meta": json.dumps(meta)}
    check(server.post(f"/nninteractive/{route}", content=pack(array), headers=headers))


@many
@given(box=fitting_boxes, include=st.booleans())
def test_drawings_of_their_boxes_size(server: httpx.Client, lease: dict[str, str], box: Any, include: bool) -> None:
    meta = {"include_interaction": include, "interaction_bbox": [(a, a + n) for a, n in box]}
    array = np.ones([n for _, n in box], np.uint8)
    headers = lease | {"x-meta": json.dumps(meta)}
    check(server.post("/nninteractive/add_lasso_interaction", content=pack(array), headers=headers))
    server.post("/nninteractive/reset_interactions", headers=lease)


@many
@given(
    asked=st.tuples(st.just("add_point_interaction"), forms(coordinates=triples, include_interaction=st.booleans()))
    | st.tuples(st.just("add_bbox_interaction"), forms(bbox_coords=boxes, include_interaction=st.booleans()))
    | st.tuples(st.just("set_target_buffer"), forms(shape=triples, dtype=st.text(max_size=3)))
    | st.tuples(st.sampled_from(["undo", "reset_interactions", "predict", "set_do_autozoom"]), json_values)
)
def test_interactions(server: httpx.Client, lease: dict[str, str], asked: Any) -> None:
    headers = lease | {"content-type": "application/json"}
    check(server.post(f"/nninteractive/{asked[0]}", content=json.dumps(asked[1]), headers=headers))


@many
@given(
    meta=forms(image_properties=forms(spacing=triples, axes=st.sampled_from(["RAS", "SPL", "xx"]), direction=boxes)),
    body=arrays(4).map(pack) | st.binary(max_size=60) | st.binary(max_size=60).map(b"NNIA\x01\x01".__add__),
)
def test_images(server: httpx.Client, meta: Any, body: bytes) -> None:
    token = server.post("/nninteractive/any/SPL/claim").json()["lease_token"]
    headers = {"x-lease-token": token, "content-type": "application/octet-stream", "x-meta": json.dumps(meta)}
    answer = server.post("/nninteractive/set_image", content=body, headers=headers)
    check(answer)
    if answer.status_code == 200:
        check(server.post("/nninteractive/predict", headers=headers))
    server.post("/nninteractive/release", headers=headers)


@many
@given(
    route=st.sampled_from(["upload_raw", "process_scribble_interaction", "process_lasso_interaction"]),
    grid=forms(dimensions=st.just(SHAPE) | triples, spacing=triples, origin=triples, direction=boxes),
    array=arrays(3),
    foreground=st.booleans() | st.text(max_size=2),
)
def test_itksnaps_arrays(server: httpx.Client, snap: str, route: str, grid: Any, array: Any, foreground: Any) -> None:
    with np.errstate(over="ignore"):
        sent = {"file": gzip.compress(array.astype("<f4").tobytes())}
    name = snap if route != "upload_raw" else server.get("/v2/start_session/s2vnet").json()["session_id"]
    form = {"metadata": json.dumps(grid)}
    check(server.post(f"/v2/{route}/{name}", files=sent, data=form, params={"foreground": foreground}))
    if name != snap:
        server.get(f"/v2/end_session/{name}")


def described() -> dict[str, Any]:
    """OpenAPI schema of the protocols' routes, which the server does not publish; a training would start processes."""
    app = FastAPI()
    for prefix, router in (("", itksnap.router), ("", monailabel.router), ("/nninteractive", nninteractive.router)):
        for route in routes_of(router):
            if "train" not in route.path:
                app.add_api_route(prefix + route.path, route.endpoint, methods=list(route.methods or ()))
    return app.openapi()


def routes_of(router: Any) -> Iterator[APIRoute]:
    """All routes of a router and of those that it includes."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from routes_of(route.original_router)


schema = schemathesis.openapi.from_dict(described())


@schema.parametrize()
@some
def test_every_route(case: Any, server: httpx.Client, lease: dict[str, str], snap: str) -> None:
    ends = case.path.endswith(("release", "set_image")) or "end_session" in case.path
    if not ends:
        case.headers = {**(case.headers or {}), "x-lease-token": lease["x-lease-token"]}
        if "name" in (case.path_parameters or {}) and "interaction" in case.path:
            case.path_parameters["name"] = snap
    assert case.call(base_url=str(server.base_url)).status_code != 500
