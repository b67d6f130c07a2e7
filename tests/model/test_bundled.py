"""Weights that come with the package are those that were made."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from s2vnet.errors import CheckpointError
from s2vnet.model import bundled as shipped
from s2vnet.model.checkpoint import DESCRIPTION, WEIGHTS, load_model


def test_the_list_names_every_file_by_its_content() -> None:
    sums = dict(line.split("  ", 1)[::-1] for line in shipped.SUMS.read_text().splitlines())
    there = [file for file in shipped.FOLDER.rglob("*") if file.suffix in (".json", ".safetensors")]
    assert sums == {f.relative_to(shipped.FOLDER).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in there}


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, shipped.SUMS.name])
@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
def test_what_was_tampered_with_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    model = tmp_path / "hippocampus-mr"
    shutil.copytree(shipped.FOLDER / model.name, model)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "SUMS", tmp_path / shipped.SUMS.name)
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {model.name}/{f.name}" for f in model.iterdir()]
    shipped.SUMS.write_text("\n".join(lines) + "\n")
    assert load_model(model).sha256
    file = shipped.SUMS if name == shipped.SUMS.name else model / name
    raw = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(raw[:30] if damage == "cut off" else bytes([raw[0] ^ 1]) * 64 + raw[64:])
    with pytest.raises(CheckpointError, match="install") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
