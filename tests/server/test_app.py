"""The application: errors of unreadable requests, and requests that wait beside those that do not."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio import to_thread
from api_client import Screen, live, open_session, ready
from fastapi.testclient import TestClient

from s2vnet.io.geometry import Volume
from s2vnet.server.scheduler import CLICK as URGENT


def test_errors_of_unreadable_input_are_one_line(client: TestClient) -> None:
    answer = client.post("/api/sessions", json={"scan": "one.nii.gz"})
    assert answer.status_code == 422
    assert answer.json() == {"type": "problem", "detail": "body.image: Field required"}


@pytest.mark.parametrize(
    "text",
    [
        r'{"image": "\ud800"}',
        r'{"image": "one.nii.gz", "\ud800": 1}',
        r'{"image": "a\u0000.nii.gz"}',
        '{"image": NaN}',
        '{"image": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "\xff",
    ],
)
def test_invalid_json_is_refused(client: TestClient, text: str) -> None:
    head = {"content-type": "application/json"}
    answer = client.post("/api/sessions", content=text.encode("latin-1"), headers=head)
    assert answer.status_code in (400, 404, 422)
    assert answer.json()["type"] == "problem"
    name = open_session(client)
    wrong = r'{"kind": "point", "class_id": 1, "voxel": [1, 1, 1], "\ud800": 1}'
    for entry in (
        wrong,
        wrong.replace(r"\ud800", "x"),
        wrong.replace("[1,", "[" + "9" * 400 + ",").replace(r', "\ud800": 1', ""),
    ):
        answer = client.post(f"/api/sessions/{name}/prompts", content=f'{{"entries": [{entry}]}}', headers=head)
        assert answer.status_code == 422 or answer.json()["status"] == "opening"
    with live(client, name) as socket:
        screen = Screen(socket).until(ready)
        socket.send_text(text)
        screen.until(lambda s: bool(s.problems))


def test_an_operation_over_the_limit_is_not_read(client: TestClient) -> None:
    answer = client.post("/api/sessions", content=b" " * (33 << 20), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_waiting_requests_do_not_block_others(client: TestClient, bordered: Volume) -> None:
    name, few = open_session(client), 4
    app: Any = client.app
    assert client.portal is not None
    client.portal.call(lambda: setattr(to_thread.current_default_thread_limiter(), "total_tokens", few))
    worker, shape = app.state.store.get(name), (18, 20, 13)
    claimed = client.post("/nninteractive/claim").json()["lease_token"]
    lease = app.state.nninteractive.get(claimed)
    lease.attach(worker, shape)
    lease.interactions = 1
    clicking, sending = (client.get("/start_session").json()["session_id"] for _ in range(2))
    snap = app.state.itksnap.get(clicking)
    snap.attach(worker, shape)
    packed = gzip.compress(bordered.data[0].astype("<f4").tobytes(order="F"))
    body = {"files": {"file": ("image.gz", packed), "metadata": (None, json.dumps({"dimensions": shape}))}}
    asked = [lambda what=what: client.get(f"/api/sessions/{name}/{what}") for what in ("labels", "log", "suggestions")]
    asked.append(lambda: client.post("/monailabel/infer/automatic?image=more/two.nii.gz&output=json"))
    asked.append(lambda: client.delete("/monailabel/train/"))
    asked.append(lambda: client.post("/nninteractive/predict", headers={"x-lease-token": claimed}))
    point = "point=5&point=9&point=4&foreground=true"
    asked.append(lambda: client.get(f"/v2/process_point_interaction/{clicking}?{point}"))
    asked.append(lambda: client.post(f"/upload_raw/{sending}", **body))
    waiting = (few + 1) * asked  # of each, more than the server's common threads
    with ThreadPoolExecutor(len(waiting) + 1) as threads:
        # nothing can be opened meanwhile, and no training be stopped
        with app.state.store.scheduler.acquire(URGENT), app.state.monailabel.trainer._lock:
            answers = [threads.submit(ask) for ask in waiting]
            time.sleep(0.5)
            for path in ("/healthz", "/api/info", "/api/scans", f"/api/sessions/{name}"):
                assert threads.submit(client.get, path).result(timeout=2).status_code == 200
            assert not any(answer.done() for answer in answers)
        assert {answer.result(60).status_code for answer in answers} == {200}
