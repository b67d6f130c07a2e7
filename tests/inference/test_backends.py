"""Runtimes of exported graphs: the same labels, in threads, in little memory, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError
from s2vnet.inference.backends import RUNTIMES, ExportedNetwork, fastest_runtime, to_runtime
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import write_image
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.model.checkpoint import TrainedModel, load_model, save_model
from s2vnet.model.corrector import CELL, CELL_MAPS, PIXEL_MAPS, WINDOW, Corrector
from s2vnet.model.onnx_export import FORMAT, GRAPHS, MANIFEST
from s2vnet.model.s2vnet import S2VNet

OTHERS = RUNTIMES[1:]
CPU = torch.device("cpu")


FIRST = """
import sys, torch
from pathlib import Path
from s2vnet.inference.backends import to_runtime
from s2vnet.model.checkpoint import load_model
torch.set_num_threads(4)
folder = Path(sys.argv[1])
for runtime in sys.argv[2:]:
    net = to_runtime(load_model(folder), runtime, torch.device("cpu"), folder)
    print(len(net.encode_slices(torch.zeros(8, net.config.in_channels, 16, 16))))
"""


def test_threads_that_compute_for_the_first_time_do_not_wait_for_each_other(exported: Path) -> None:
    command = [sys.executable, "-c", FIRST, str(exported), *OTHERS]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "8\n" * len(OTHERS)


@pytest.mark.parametrize("runtime", OTHERS)
def test_scans_are_segmented_and_corrected_alike(
    exported: Path, runtime: str, make_phantom: Callable[..., tuple[Volume, LabelMap]]
) -> None:
    volume, _ = make_phantom(seed=0)
    sessions = [
        Session(Segmenter.from_pretrained(exported, device="cpu", runtime=each), volume) for each in ("torch", runtime)
    ]
    for _ in range(2):
        a, b = (session.labels for session in sessions)
        assert np.mean(a != b) < 1e-3  # where two classes tie
        for session in sessions:
            session.add_point(1, (8, 8, 4))
    assert sessions[1].labels[8, 8, 4] == 1


@pytest.mark.parametrize("runtime", OTHERS)
def test_the_corrector_runs_where_the_model_does_and_answers_alike(exported: Path, runtime: str) -> None:
    corrector = Segmenter.from_pretrained(exported, device="cpu", runtime=runtime).corrector
    assert not isinstance(corrector, torch.nn.Module)
    generator = torch.Generator().manual_seed(0)
    depth, height, width = WINDOW
    pixels = torch.randn((1, depth, len(PIXEL_MAPS), height, width), generator=generator)
    cells = torch.randn((1, depth, len(CELL_MAPS), height // CELL, width // CELL), generator=generator)
    with torch.inference_mode():
        expected = Corrector.bundled()(pixels, cells)
    assert expected.std() > 0.1
    torch.testing.assert_close(corrector(pixels, cells), expected, atol=1e-3, rtol=1e-3)


def test_what_cannot_run_is_refused(exported: Path) -> None:
    trained = load_model(exported)
    with pytest.raises(InputError, match="choose one of torch, onnxruntime, openvino"):
        to_runtime(trained, "abacus", CPU, exported)
    with pytest.raises(InputError, match="computes on the CPU"):
        to_runtime(trained, OTHERS[0], torch.device("cuda"), exported)
    unnamed = TrainedModel(S2VNet(ModelConfig(in_channels=1, num_classes=2)), {}, {}, "")
    with pytest.raises(InputError, match="never saved"):
        to_runtime(unnamed, OTHERS[0], CPU)


def test_graphs_are_made_once_and_kept(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2VNET_CACHE", str(tmp_path))
    trained = load_model(exported)
    for older in (trained.sha256, f"{trained.sha256}-{FORMAT - 1}"):  # do not stand in the way
        (tmp_path / "graphs" / older).mkdir(parents=True)
        (tmp_path / "graphs" / older / MANIFEST).write_text(json.dumps({"format": FORMAT - 1}))
    kept = tmp_path / "graphs" / f"{trained.sha256}-{FORMAT}"
    kept.mkdir()
    for file in (*(f"{name}.onnx" for name in GRAPHS), MANIFEST):
        (kept / file).write_bytes((exported / file).read_bytes())
    before = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    to_runtime(trained, OTHERS[0], CPU)
    assert {file.name: file.stat().st_mtime_ns for file in kept.iterdir()} == before


LIMITED = """
import os, resource, sys
import torch
from pathlib import Path
from s2vnet.cli.app import main
from s2vnet.batch.jobs import predict  # it has its place before the limit is set
torch.set_num_threads(1)
torch.nn.functional.conv2d(torch.ones(1, 1, 9, 9), torch.ones(1, 1, 3, 3))
for runtime in ("torch", "onnxruntime", "openvino"):
    if os.fork():
        print(runtime, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        continue
    if runtime != "torch":
        __import__(runtime)
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    room = 500 if runtime == "openvino" else 250  # it compiles for each shape
    resource.setrlimit(resource.RLIMIT_DATA, (held + (room << 20),) * 2)
    given = [*sys.argv[1:], "-o", runtime]
    sys.argv = ["s2vnet", "predict", "--device", "cpu", "--runtime", runtime, *given]
    main()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_image_that_needs_more_memory_than_there_is_is_one_line(
    exported: Path, make_phantom: Callable[..., tuple[Volume, LabelMap]], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, shape in (("a", (40, 40, 9)), ("b", (512, 512, 9))):
        write_image(images / f"{name}_0000.nii.gz", make_phantom(shape)[0])
    command = [sys.executable, "-c", LIMITED, f"-m{exported}", f"-i{images}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    codes = [line for line in ended.stdout.splitlines() if line.split()[0] in RUNTIMES]
    assert codes == [f"{runtime} 1" for runtime in RUNTIMES], ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 2 * len(RUNTIMES)
    for line, total in zip(lines[::2], lines[1::2], strict=True):
        assert line.startswith("error: b: not enough memory")
        assert total.startswith("error: 1 of 2 images failed")
    for runtime in RUNTIMES:
        assert [path.name for path in (tmp_path / runtime).iterdir()] == ["a.nii.gz"]


def test_the_fastest_runtime_that_is_installed_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S2VNET_RUNTIME")
    installed = {"openvino", "onnxruntime", "onnx"}
    monkeypatch.setattr("s2vnet.inference.backends.is_installed", lambda name: name in installed)
    assert fastest_runtime("cpu") == "openvino"
    installed.remove("openvino")
    assert fastest_runtime("cpu") == "onnxruntime"
    installed.remove("onnx")  # without which no graph can be made
    assert fastest_runtime("cpu") == "torch"
    assert fastest_runtime("meta" if torch.cuda.is_available() else "cpu") == "torch"
    monkeypatch.setenv("S2VNET_RUNTIME", "onnxruntime")
    assert fastest_runtime("cpu") == "onnxruntime"


def test_by_default_a_model_of_a_folder_runs_in_the_fastest_runtime(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S2VNET_RUNTIME")
    (model,) = Segmenter.from_pretrained(exported, device="cpu").models
    assert isinstance(model, ExportedNetwork)
    assert isinstance(Segmenter.from_pretrained(exported, device="cpu", runtime="torch").models[0], S2VNet)


def test_where_the_fastest_runtime_fails_torch_computes(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("S2VNET_RUNTIME")
    (tmp_path / "file").touch()
    monkeypatch.setenv("S2VNET_CACHE", str(tmp_path / "file" / "cache"))  # where nothing can be written
    folder = tmp_path / "model"
    trained = load_model(exported)
    folder.mkdir()
    save_model(folder, trained.model, trained.plan, trained.info)
    assert isinstance(Segmenter.from_pretrained(folder, device="cpu").models[0], S2VNet)
    assert "torch computes instead" in caplog.text
