"""Description of the server, as Slicer's and OHIF's plugins read it."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_info_has_what_clients_need(client: TestClient) -> None:
    info = client.get("/monailabel/info/").json()
    assert "config" not in info  # Slicer refuses a server with one
    assert info["labels"] == ["background", "left part", "right"]
    assert [model["type"] for model in info["models"].values()] == ["segmentation", "deepedit"]
    for model in info["models"].values():
        assert model["labels"] == {"background": 0, "left part": 1, "right": 2}
        assert model["dimension"] == 3
    assert info["datastore"]["total"] == 2
    assert client.get("/monailabel/auth/").status_code == 404
