"""The bundled weights match their checksums."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from s2vnet.errors import CheckpointError
from s2vnet.model import bundled
from s2vnet.model.checkpoint import DESCRIPTION, WEIGHTS, load_model


def test_checksums_cover_every_file() -> None:
    checksums = dict(line.split("  ", 1)[::-1] for line in bundled.CHECKSUMS.read_text().splitlines())
    files = [file for file in bundled.WEIGHTS_FOLDER.rglob("*") if file.suffix in (".json", ".safetensors")]
    assert checksums == {
        f.relative_to(bundled.WEIGHTS_FOLDER).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, bundled.CHECKSUMS.name])
@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
def test_changed_files_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    model = tmp_path / "hippocampus-mr"
    shutil.copytree(bundled.WEIGHTS_FOLDER / model.name, model)
    monkeypatch.setattr(bundled, "WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(bundled, "CHECKSUMS", tmp_path / bundled.CHECKSUMS.name)
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {model.name}/{f.name}" for f in model.iterdir()]
    bundled.CHECKSUMS.write_text("\n".join(lines) + "\n")
    assert load_model(model).sha256
    file = bundled.CHECKSUMS if name == bundled.CHECKSUMS.name else model / name
    raw = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(raw[:30] if damage == "cut off" else bytes([raw[0] ^ 1]) * 64 + raw[64:])
    with pytest.raises(CheckpointError, match="install") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
