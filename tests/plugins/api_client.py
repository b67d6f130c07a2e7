"""A client of the HTTP API, and the display of a viewer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi.testclient import TestClient

from s2vnet.io.files import read_labels
from s2vnet.prompts import Entry
from s2vnet.server.schemas import unpack_block

Labels = npt.NDArray[np.uint8]


def open_session(client: TestClient, scan: str = "one.nii.gz") -> str:
    answer = client.post("/api/sessions", json={"image": scan})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session"])


def labels_of(client: TestClient, session: str, tmp_path: Path, ending: str = "nii.gz") -> Labels:
    answer = client.get(f"/api/sessions/{session}/labels", params={"format": ending})
    assert answer.status_code == 200, answer.text
    (tmp_path / f"labels.{ending}").write_bytes(answer.content)
    return read_labels(tmp_path / f"labels.{ending}").data


def add_prompts(client: TestClient, session: str, *entries: Entry) -> dict[str, Any]:
    body = {"entries": [entry.model_dump(mode="json") for entry in entries]}
    answer = client.post(f"/api/sessions/{session}/prompts", json=body)
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


def live(client: TestClient, session: str) -> Any:
    """Connect as a viewer."""
    return client.websocket_connect(f"ws://127.0.0.1:1537/api/sessions/{session}/live")


class Screen:
    """A viewer's display: the latest state, and labels assembled from blocks."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.state, self.problems = socket, {}, []
        self.labels: Labels | None = None
        self.parts = 0

    def until(self, done: Callable[[Screen], bool]) -> Screen:
        while not done(self):
            message = self.socket.receive()
            if message.get("text") is not None:
                found = json.loads(message["text"])
                if found["type"] == "state":
                    self.state = found
                else:
                    self.problems.append(found["detail"])
                if self.labels is None and self.state.get("shape"):
                    self.labels = np.zeros(self.state["shape"], np.uint8)
            else:
                head, labels = unpack_block(message["bytes"])
                assert self.labels is not None
                self.labels[tuple(slice(a, a + n) for a, n in zip(head.start, head.shape, strict=True))] = labels
                self.parts += not head.final
        return self

    def send(self, **operation: Any) -> None:
        self.socket.send_text(json.dumps(operation))


def ready(screen: Screen) -> bool:
    return bool(screen.state.get("status") == "ready")
