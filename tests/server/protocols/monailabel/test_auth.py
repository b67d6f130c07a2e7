"""Log-in as MONAI Label's clients do it: the password is the server's token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from fastapi.testclient import TestClient

TOKEN = "a secret of many characters"


@pytest.mark.parametrize("prefix", ["", "/monailabel"])
def test_a_password_is_exchanged_for_the_token(serve: Callable[..., TestClient], prefix: str) -> None:
    client = serve(token=TOKEN)
    assert client.get(f"{prefix}/auth/").json()["enabled"] is True
    assert client.get(f"{prefix}/info/").status_code == 401
    form = {"username": "any", "password": "wrong", "grant_type": "password"}
    assert client.post(f"{prefix}/auth/token", data=form).status_code == 401
    token = client.post(f"{prefix}/auth/token", data={**form, "password": TOKEN}).json()
    headers = {"authorization": f"{token['token_type']} {token['access_token']}"}
    assert client.get(f"{prefix}/auth/token/valid", headers=headers).status_code == 200
    assert client.get(f"{prefix}/auth/token/valid").status_code == 401
    assert client.get(f"{prefix}/info/", headers=headers).status_code == 200


def test_without_a_token_there_is_nothing_to_log_in_to(client: TestClient) -> None:
    assert client.get("/monailabel/auth/").status_code == 404
    assert client.post("/monailabel/auth/token", data={"username": "a", "password": "b"}).status_code == 404
    assert client.get("/monailabel/auth/token/valid").status_code == 404


def test_an_address_can_contain_the_token(serve: Callable[..., TestClient]) -> None:
    """For clients that can only be given an address, as OHIF and MONAILabelReviewer."""
    client = serve(token=TOKEN)
    for address in (f"/token/{TOKEN}", f"/token/{TOKEN}/monailabel"):
        assert client.get(f"{address}/info/").status_code == 200
        assert client.get(f"{address}/auth/").json()["enabled"] is False  # so Slicer asks for no password
    for wrong in ("/token/wrong/info/", "/token//info/", f"/token/{TOKEN}x/monailabel/info/", "/token/info/"):
        assert client.get(wrong).status_code in (401, 404)
    assert client.get(f"/token/{TOKEN}/../info/").status_code == 401


def test_the_next_sample_is_downloaded_without_a_header(serve: Callable[..., TestClient], data: Path) -> None:
    """3D Slicer's download function sends none; the id that the server gave is enough, for this image only."""
    client, headers = serve(token=TOKEN), {"authorization": f"Bearer {TOKEN}"}
    sample = client.post("/monailabel/activelearning/first", json={}, headers=headers).json()
    answer = client.get(f"/monailabel/datastore/image?image={quote_plus(sample['id'])}")
    assert answer.content == (data / "more" / "two.nii.gz").read_bytes()
    listed = client.get("/monailabel/datastore/?output=all", headers=headers).json()["objects"]
    assert sample["id"] in listed  # where Slicer looks for its labels
    for query in (
        "image=more/two.nii.gz",
        "image=one.nii.gz~" + sample["id"].split("~")[1],
        f"image={sample['id']}&image=one.nii.gz",
    ):
        assert client.get(f"/monailabel/datastore/image?{query}").status_code == 401
    assert client.get(f"/monailabel/datastore/image/info?image={sample['id']}").status_code == 401
    for image in (sample["id"], "more/two.nii.gz"):  # with the token, both are the image
        assert client.get(f"/monailabel/datastore/image/info?image={image}", headers=headers).status_code == 200
