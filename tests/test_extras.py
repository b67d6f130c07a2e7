"""What an installation without extras can do is what docs/get-started.md says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series

from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume

ROOT = Path(__file__).parent.parent
MODULES = {"lightning-fabric": "lightning_fabric", "python-multipart": "multipart"}
"""Modules of distributions with another name."""
CODE = """
import json, sys
modules, commands = json.loads(sys.argv[1])
for module in modules:
    sys.modules[module] = None
from typer.testing import CliRunner
from s2vnet.cli.app import app
from s2vnet.errors import S2VNetError
for command in commands:
    result = CliRunner().invoke(app, command)
    error = result.exception if isinstance(result.exception, S2VNetError) else None
    if result.exit_code and error is None:
        raise result.exception
    print(json.dumps(str(error) if error else ""))
"""


def optional_modules() -> list[str]:
    """Modules that only extras install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = ["train", "dicom", "serve", "onnx", "openvino", "notebook", "parquet", "ray"]
    wanted = [re.split(r"[\[<>=]", line)[0] for name in names for line in project["optional-dependencies"][name]]
    return sorted({MODULES.get(name, name) for name in wanted if name != "s2vnet"})


@pytest.mark.timeout(300)
def test_commands_without_extras_work_or_name_the_extra(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(-100, 200, (24, 20, 6)).astype(np.int16)
    geometry = Geometry((24, 20, 6), np.diag([3.0, 3.0, 3.0, 1.0]))
    scan, labels, series = tmp_path / "scan.nii.gz", tmp_path / "labels", tmp_path / "series"
    write_image(scan, Volume(voxels[None].astype(np.float32), geometry))
    series.mkdir()
    write_series(series, voxels)
    labels.mkdir()
    write_labels(labels / "scan.nii.gz", LabelMap((voxels > 0).astype(np.uint8), geometry))
    model = ["-m", "abdomen-ct", "--any-modality"]
    dataset = _dataset(tmp_path / "Dataset001_Box", geometry)
    log = tmp_path / "prompts.json"
    expected = {
        ("models",): "",
        ("predict", *model, "-i", scan, "-o", tmp_path / "p.nii.gz", "--overlay", "--uncertainty"): "",
        ("predict", *model, "-i", series, "-o", tmp_path / "p.rtstruct.dcm"): "",
        ("interact", *model[:2], "-i", scan, "-o", tmp_path / "i.nii.gz", "--log", log, "--point", "liver,5,5,3"): "",
        ("export-log", log, "-o", tmp_path / "prompts.csv"): "",
        ("evaluate", "-i", labels, "-g", labels, "-o", tmp_path / "report.json"): "",
        ("plan", dataset, "-o", tmp_path / "plan"): "",
        ("predict", *model, "-i", series, "-o", tmp_path / "p.dcm"): "highdicom",
        ("train", dataset, "-o", tmp_path / "run"): "lightning-fabric",
        ("view", scan): "fastapi",
        ("serve", "--data", labels): "fastapi",
        ("export", "-m", "abdomen-ct", "-o", tmp_path / "exported"): "onnx",
    }
    commands = [[str(word) for word in command] for command in expected]
    arguments = json.dumps([optional_modules(), commands])
    done = subprocess.run([sys.executable, "-c", CODE, arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    for (command, package), message in zip(expected.items(), messages, strict=True):
        assert package in message if package else not message, (command[0], message)
        assert "pip install" in message if package else not message


def _dataset(folder: Path, geometry: Geometry) -> Path:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        labels = np.zeros(geometry.shape, np.uint8)
        labels[4:12, 4:12, 1:5] = 1
        image = Volume(labels[None] + np.random.default_rng(number).normal(0, 0.1, (1, *geometry.shape)), geometry)
        write_image(folder / "imagesTr" / f"c{number}_0000.nii.gz", image)
        write_labels(folder / "labelsTr" / f"c{number}.nii.gz", LabelMap(labels, geometry))
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "box": 1}}
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 5, "file_ending": ".nii.gz"}))
    return folder
