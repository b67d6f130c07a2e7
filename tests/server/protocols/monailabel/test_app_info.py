"""Description of the server, as Slicer's and OHIF's plugins read it."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_info_has_what_clients_need(client: TestClient) -> None:
    info = client.get("/monailabel/info/").json()
    assert "config" not in info  # Slicer refuses a server with one
    assert info["labels"] == ["left part", "right", "background"]  # Slicer numbers segments in this order
    types = {name: model["type"] for name, model in info["models"].items()}
    assert types == {"automatic": "segmentation", "clicks": "deepedit", "object": "deepgrow", "scribbles": "scribbles"}
    for name, model in info["models"].items():
        clicks = {"background": 0} if name == "clicks" else {}  # of which OHIF would take the index of another class
        assert model["labels"] == {"left part": 1, "right": 2} | clicks
        assert model["dimension"] == 3
    assert info["datastore"]["total"] == 2
    assert client.get("/info/").json() == info
    assert client.get("/monailabel/model/info/clicks").json()["checksum"].startswith("SHA256:")
    assert client.get("/monailabel/model/info/unknown").status_code == 404
    for path in ("/monailabel", "/monailabel/"):  # MONAILabelReviewer asks here whether there is a server
        assert client.get(path).status_code == 200
