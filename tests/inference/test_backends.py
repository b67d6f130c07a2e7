from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from s2vnet.config import ModelConfig
from s2vnet.errors import CheckpointError, InputError
from s2vnet.inference.backends import RUNTIMES, to_runtime
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import write_image
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.checkpoint import TrainedModel, load_model
from s2vnet.model.interface import DecoderOutput, Network, SliceInput
from s2vnet.model.onnx_export import FORMAT, GRAPHS, MANIFEST
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.prompt_encoder import PROMPT_MAPS
from s2vnet.model.s2vnet import S2VNet

pytestmark = pytest.mark.timeout(600)  # exporting takes a minute
OTHERS = RUNTIMES[1:]
CPU = torch.device("cpu")


def encode(net: Network, slices: Tensor) -> Features:
    """Slices as a batch."""
    rows = net.encode_slices(slices)
    return Features.assemble(((range(n, n + 1), row) for n, row in enumerate(rows)), len(rows))


def decode(net: Network, features: Features, state: PropagationState, prompts: Tensor | None) -> DecoderOutput:
    """Slices of a batch, each by itself."""
    rows = [
        SliceInput(
            features.select(one),
            PropagationState(*(part[one] for part in state)),
            None if prompts is None else prompts[one],
        )
        for one in (slice(n, n + 1) for n in range(len(features.mask)))
    ]
    return DecoderOutput.concatenate(net.decode_slices(rows))


def _run(net: Network, slices: Tensor) -> list[Tensor]:
    """All that a network gives of two slices: before a prompt for one of them, with it, and after it."""
    with torch.inference_mode():
        features = encode(net, slices)
        state = net.initial_state(features, torch.tensor([1.0, -1.0]))
        first = decode(net, features, state, None)
        prompts = torch.zeros(2, net.config.num_classes, PROMPT_MAPS, *features.mask.shape[-2:])
        prompts[0, 1, 0, 3:5, 3:5] = 1
        second = decode(net, features, first.state, prompts)
        third = decode(net, features, second.state, None)
    return [*features.tensors, *(x for d in (first, second, third) for x in (d.logits, d.presence, *d.state))]


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize("cells", [(1, 1), (5, 8), (7, 3)])
def test_graphs_give_what_the_network_gives(exported: Path, runtime: str, cells: tuple[int, int]) -> None:
    trained = load_model(exported)
    sides = [n * trained.model.stride for n in cells]
    slices = torch.randn(2, trained.model.config.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    wanted = _run(trained.model, slices)
    for found, expected in zip(_run(to_runtime(trained, runtime, CPU, exported), slices), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("runtime", OTHERS)
def test_a_row_without_prompts_does_not_depend_on_those_that_have_some(exported: Path, runtime: str) -> None:
    net = to_runtime(load_model(exported), runtime, CPU, exported)
    features = encode(net, torch.randn(2, net.config.in_channels, 40, 48))
    state = net.initial_state(features)
    prompts = torch.zeros(2, net.config.num_classes, PROMPT_MAPS, *features.mask.shape[-2:])
    prompts[0, 1, 0, 3:5, 3:5] = 1
    alone, beside = decode(net, features, state, None), decode(net, features, state, prompts)
    assert torch.equal(alone.logits[1], beside.logits[1])
    assert not torch.equal(alone.logits[0], beside.logits[0])


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


def test_graphs_of_other_weights_or_damaged_ones_are_refused(exported: Path, tmp_path: Path) -> None:
    trained = load_model(exported)
    other = TrainedModel(trained.model, trained.plan, trained.info, "0" * 64)
    with pytest.raises(CheckpointError, match="other weights"):
        to_runtime(other, OTHERS[0], CPU, exported)
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = tmp_path / f"{GRAPHS[1]}.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="does not match the hash"):
        to_runtime(trained, OTHERS[0], CPU, tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        to_runtime(trained, OTHERS[0], CPU, tmp_path)


def test_what_cannot_run_is_refused(exported: Path) -> None:
    trained = load_model(exported)
    with pytest.raises(InputError, match="choose one of torch, onnxruntime, openvino"):
        to_runtime(trained, "abacus", CPU, exported)
    with pytest.raises(CheckpointError, match="computes on the CPU"):
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
    assert ended.stdout.splitlines() == [f"{runtime} 1" for runtime in RUNTIMES], ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 2 * len(RUNTIMES)
    for line, total in zip(lines[::2], lines[1::2], strict=True):
        assert line.startswith("error: b: not enough memory")
        assert total.startswith("error: 1 of 2 images failed")
    for runtime in RUNTIMES:
        assert [path.name for path in (tmp_path / runtime).iterdir()] == ["a.nii.gz"]
