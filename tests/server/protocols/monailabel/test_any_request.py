"""No request of MONAI Label's protocol ends in an error of the server, whatever its parameters are."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2vnet.server.app import create_app
from s2vnet.server.model_library import ModelLibrary
from s2vnet.server.settings import Settings

NAMES = st.sampled_from(["one.nii.gz", "more/two.nii.gz", "own", "", "..", "~", "a\0b", "1.2.3", "x" * 300, "\ud7ff"])
TAGS = st.sampled_from(["final", "original", "v1", "", "..", ".images", "x" * 70])
NUMBERS = st.sampled_from([0, 1, -1, 5, 1e308, -1e308, 2**70, math.nan, math.inf, 0.5, True])
VALUES = st.recursive(
    st.none() | NUMBERS | st.sampled_from(["", "right", "final", ".nii", ".nrrd", "uint8", "[]"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "idx", "id", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *("right", "left part", "background", "foreground", "label", "label_info", "selected_label_name", "save_label"),
        *("label_tag", "result_extension", "result_dtype", "roi", "max_batch_size", "max_epochs", "pretrained", "y"),
    ]
)
PARAMS = st.dictionaries(KEYS, VALUES, max_size=4)
FILES = st.sampled_from(
    [("x.nii.gz", b"no image"), ("x.bin", b"\1" * 4680), ("x.nrrd", b""), ("x.exe", b"MZ"), ("", b"x")]
)
FORMS = [
    *("POST /infer/{model}", "PUT /datastore/", "PUT /datastore/label", "PUT /session/", "PUT /datastore/image/info"),
    *("PUT /datastore/label/info", "PUT /datastore/updatelabelinfo"),
]
BODIES = [
    *("POST /activelearning/{model}", "POST /batch/infer/{model}", "POST /scoring/{model}", "POST /train/{model}")
]
QUERIES = [
    *(
        "GET /datastore/",
        "GET /datastore/image",
        "HEAD /datastore/image",
        "GET /datastore/image/info",
        "GET /datastore/label",
    ),
    *("HEAD /datastore/label", "GET /datastore/label/info", "DELETE /datastore/image", "DELETE /datastore/label"),
    *(
        "GET /datastore/dataset",
        "GET /session/{model}",
        "DELETE /session/{model}",
        "GET /model/info/{model}",
        "GET /train/",
    ),
    *("GET /batch/infer", "GET /scoring/", "GET /logs/", "GET /info/", "GET /auth/token/valid"),
]
MODELS = st.sampled_from(["automatic", "clicks", "object", "scribbles", "first", "random", "dice", "unknown", "%00"])


@pytest.fixture(scope="module")
def shared(unlimited: Settings, library: ModelLibrary) -> Any:
    """A client that raises what the server would log."""
    app = create_app(unlimited, library)
    with TestClient(app, base_url="http://127.0.0.1:1537", client=("127.0.0.1", 50000)) as client:
        yield client


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    call=st.sampled_from(FORMS + BODIES + QUERIES),
    model=MODELS,
    name=NAMES,
    tag=TAGS,
    params=PARAMS,
    file=st.none() | FILES,
)
def test_any_parameters_are_answered(
    shared: TestClient,
    call: str,
    model: str,
    name: str,
    tag: str,
    params: dict[str, Any],
    file: tuple[str, bytes] | None,
) -> None:
    method, _, path = call.partition(" ")
    query = {"image": name, "label": name, "id": name, "tag": tag, "run_sync": "true", "output": params.get("y")}
    query = {key: value for key, value in query.items() if isinstance(value, str)}
    sent: dict[str, Any] = {}
    if call in FORMS:
        sent["data"] = {"params": json.dumps(params), "info": json.dumps(params)}
        if file is not None:
            sent["files"] = {"file": file, "label": file, "files": file}
    elif call in BODIES:
        sent = {"content": json.dumps(params), "headers": {"content-type": "application/json"}}
    answer = shared.request(method, "/monailabel" + path.replace("{model}", model), params=query, **sent)
    assert answer.status_code < 500
