"""Seconds, memory and growth of automatic segmentation, beside the networks of others on the same scans.

python benchmarks/speed.py SCAN -o docs/results/speed.json --slices 64 150 400 800 --sizes 256 512

Scans are made of one CT: its slices to and fro, its pixels resized. Every measurement is a process of its own; methods
take turns, and medians are shown. Ours is timed from file to file. Of the others some patches are timed and the number
of patches in a scan, with an overlap of one half, does the rest: reading, resampling and putting together are given to
them. Their grids are their own: nnU-Net's plan for abdominal CT (3 x 0.76 x 0.76 mm, patches of 48 x 192 x 192, slices
of 512 x 512; Isensee et al., Nature Methods 2021), MONAI's for the transformers (2 x 1.5 x 1.5 mm, 96 a side), and
nnInteractive's 192 a side, timed at 96 and counted eightfold.

On the smallest scan the automatic pass is also measured by classes (networks of random weights, by torch alone, for to
export a graph takes a minute), and a round of prompts by its points.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))

from machine import command, energy, joules, processor

if TYPE_CHECKING:
    from s2vnet.model.s2vnet import Network
    from s2vnet.prompts import Point

OURS = ("torch", "onnxruntime", "openvino")
PATCHES = {
    "nnunet3d": ((48, 192, 192), (3.0, 0.76, 0.76), 8),
    "nnunet2d": ((512, 512), (0.76, 0.76), 4),
    "swinunetr": ((96, 96, 96), (2.0, 1.5, 1.5), 1),
    "unetr": ((96, 96, 96), (2.0, 1.5, 1.5), 1),
    "nninteractive": ((96, 96, 96), (1.0, 1.0, 1.0), 1),
}
"""Of each network of others: patch, cell in mm, and predictions a patch when it is mirrored too."""
SIDE_MM, SLICE_MM = 358.4, 2.0
"""Of the scans: 512 pixels of 0.7 mm, or 256 of 1.4 mm."""
TIMED = 3
"""Patches timed, after a first one."""
CLASSES = 14
GROWING_CLASSES = (2, 8, 14, 32, 64, 128)
GROWING_POINTS = (1, 4, 16, 64)
ROUNDS = 3
"""Of each number of points."""


def main() -> None:
    """Measure in turns and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="A CT to make scans of.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--model", default="abdomen-ct")
    parser.add_argument("--slices", type=int, nargs="+", default=[64, 150, 400, 800])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--runtimes", nargs="+", default=list(OURS))
    parser.add_argument("--others", nargs="*", default=list(PATCHES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(_work(arguments.worker, arguments.scan, arguments.model)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(arguments, Path(folder))
    found |= {
        "command": command(arguments.scan),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {arguments.threads} threads",
        "repeats": arguments.repeats,
    }
    from s2vnet.utils.atomic_write import atomic_write

    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    scans = {(p, n): _scan(arguments.scan, p, n, folder) for p in arguments.sizes for n in arguments.slices}
    found: dict[str, Any] = {"matrix_gflops": _run(arguments, "matrix", arguments.scan)["gflops"]}
    turns: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        for name in arguments.others:
            turns.setdefault(name, []).append(_run(arguments, name, arguments.scan))
        for (pixels, n), scan in scans.items():
            for runtime in arguments.runtimes:
                for what in (f"scan:{runtime}", f"encoder:{runtime}"):
                    turns.setdefault(f"{what} {pixels} {n}", []).append(_run(arguments, what, scan))
    found["others"] = {name: _median(turns[name]) for name in arguments.others}
    found["scans"] = []
    for pixels, n in scans:
        row: dict[str, Any] = {"pixels": pixels, "slices": n, "ours": {}, "others": {}}
        for runtime in arguments.runtimes:
            alone = _median(turns[f"encoder:{runtime} {pixels} {n}"])
            ours = {"encoder_alone": alone["seconds"], "encoder_alone_cpu_seconds": alone["cpu_seconds"]}
            row["ours"][runtime] = _median(turns[f"scan:{runtime} {pixels} {n}"]) | ours
        for name in arguments.others:
            if name != "nninteractive":
                row["others"][name] = _whole(name, n, found["others"][name])
        found["scans"].append(row)
    middle = (256, 150) if (256, 150) in scans else min(scans, key=_cells)
    rounds = {runtime: _run(arguments, f"prompts:{runtime}", scans[middle]) for runtime in arguments.runtimes}
    found["prompts"] = {"pixels": middle[0], "slices": middle[1], "runtimes": rounds}
    least = min(scans, key=_cells)
    found["growth"] = {
        "pixels": least[0],
        "slices": least[1],
        "classes": {n: _run(arguments, f"classes:{n}", scans[least]) for n in GROWING_CLASSES},
        "points": {r: _run(arguments, f"points:{r}", scans[least])["rounds"] for r in arguments.runtimes},
    }
    return found


def _cells(scan: tuple[int, int]) -> int:
    pixels, slices = scan
    return pixels**2 * slices


def _scan(source: Path, size: int, slices: int, folder: Path) -> Path:
    """A CT of so many slices of so many pixels a side."""
    from scipy import ndimage

    from s2vnet.io.files import read_image, write_image
    from s2vnet.io.geometry import Geometry, Volume

    volume = read_image(source)
    data = volume.geometry.canonical()[1].apply(volume.data)[0]
    order = np.pad(np.arange(data.shape[2]), (0, max(0, slices - data.shape[2])), mode="reflect")[:slices]
    zoom = (size / data.shape[0], size / data.shape[1], 1)
    resized = np.rint(ndimage.zoom(data, zoom, order=1))[:, :, order].astype(np.float32)
    step = SIDE_MM / size
    path = folder / f"ct_{size}_{slices}.nii.gz"
    write_image(path, Volume(resized[None], Geometry(resized.shape, np.diag([step, step, SLICE_MM, 1]))))
    return path


def _run(arguments: argparse.Namespace, what: str, scan: Path) -> dict[str, Any]:
    worker = [sys.executable, __file__, str(scan), "-o", "-", "-m", arguments.model, "--worker", what]
    threads = {"OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    ran = subprocess.run(worker, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if ran.returncode:
        raise SystemExit(f"{what}: {ran.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(what, scan.name, {k: round(v, 3) for k, v in result.items() if isinstance(v, float)}, flush=True)  # noqa: T201
    return result


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure; None where it is not told."""
    return {
        key: None if first is None else float(np.median([run[key] for run in runs])) for key, first in runs[0].items()
    }


def _whole(name: str, slices: int, measured: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a network of others for a scan: patches with an overlap of one half, times what one takes."""
    patch, cell, mirrored = PATCHES[name]
    size = [slices * SLICE_MM, SIDE_MM, SIDE_MM][-len(patch) :]
    steps = [max(1, math.ceil((mm / c - p) / (p / 2)) + 1) for mm, c, p in zip(size, cell, patch, strict=True)]
    patches = math.prod(steps) * (slices if len(patch) == 2 else 1)
    seconds = patches * measured["seconds"]
    return {
        "patches": patches,
        "seconds": seconds,
        "mirrored_seconds": mirrored * seconds,
        "cpu_seconds": patches * measured["cpu_seconds"],
        "peak_mb": measured["peak_mb"],
    }


def _work(what: str, scan: Path, model: str) -> dict[str, Any]:
    import torch

    from s2vnet.utils.memory import peak_memory_mb

    if what == "matrix":
        a = torch.randn(3072, 3072)
        return {"gflops": 2 * 3072**3 / _seconds(lambda: a @ a, 5)["seconds"] / 1e9}
    kind, _, which = what.partition(":")
    if kind in PATCHES:
        found = _patch(kind)
    elif kind == "scan":
        found = _ours(scan, model, which)
    elif kind == "encoder":
        found = _encoder(scan, model, which)
    elif kind == "classes":
        found = _classes(scan, model, int(which))
    elif kind == "points":
        found = _points(scan, model, which)
    else:
        found = _prompts(scan, model, which)
    return {**found, "peak_mb": peak_memory_mb()}


def _seconds(do: Callable[[], object], times: int) -> dict[str, float]:
    """Of one time: medians of those by the clock and of the CPU's."""
    do()
    spent = []
    for _ in range(times):
        start, began = time.perf_counter(), time.process_time()
        do()
        spent.append((time.perf_counter() - start, time.process_time() - began))
    wall, cpu = np.median(spent, 0).tolist()
    return {"seconds": wall, "cpu_seconds": cpu}


class Timed:
    """A network whose calls are timed."""

    calls: ClassVar[Mapping[str, str]] = {"encode_slices": "encoding", "decode_slices": "decoding"}

    def __init__(self, network: Network) -> None:
        self.network = network
        self.spent = dict.fromkeys(self.calls.values(), 0.0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.network, name)
        if name not in self.calls:
            return found

        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            result = found(*given)
            self.spent[self.calls[name]] += time.perf_counter() - began
            return result

        return timed


def _ours(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """File to file, after the model has been loaded; a runtime compiles its graphs for the scan's size meanwhile."""
    from s2vnet.batch.jobs import plan_jobs, predict
    from s2vnet.inference.segmenter import Segmenter

    start = time.perf_counter()
    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    loading = time.perf_counter() - start
    timed = Timed(segmenter.models[0])
    segmenter.models = (timed,)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        before, start, began = energy(), time.perf_counter(), time.process_time()
        done = list(predict(segmenter, plan_jobs(scan, Path(folder) / "labels.nii.gz", 1)))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - began
        used = joules(before, energy())
    assert [error for _, error in done] == [None]
    assert all(timed.spent.values()), "the calls that are timed have other names now"
    parts = {"loading": loading, **timed.spent, "rest": seconds - sum(timed.spent.values())}
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "joules": used, **parts}


def _classes(scan: Path, model: str, classes: int) -> dict[str, Any]:
    """As :func:`_ours`, with random weights and so many classes, which are then found everywhere and tidied up."""
    import torch

    from s2vnet.inference.segmenter import find_model
    from s2vnet.model.checkpoint import load_model, save_model
    from s2vnet.model.s2vnet import S2VNet

    shown = load_model(find_model(model))
    labels = {"background": 0, **{f"class {k}": k for k in range(1, classes)}}
    torch.manual_seed(0)
    net = S2VNet(shown.model.config.model_copy(update={"num_classes": classes}))
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), net, {**shown.plan, "labels": labels}, {})
        return _ours(scan, folder, "torch")


def _encoder(scan: Path, model: str, runtime: str) -> dict[str, float]:
    """The same slices through the encoder, and nothing else."""
    import torch

    from s2vnet.data.preprocess import preprocess, with_neighbours
    from s2vnet.inference.encoded_volume import BATCH_SIZE
    from s2vnet.inference.segmenter import Segmenter
    from s2vnet.io.files import read_image

    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    case = preprocess(read_image(scan), segmenter.plan)
    depth, net = case.image.shape[1], segmenter.models[0]
    wall = cpu = 0.0
    with torch.inference_mode():
        for n in range(0, depth, BATCH_SIZE):
            places = range(n, min(n + BATCH_SIZE, depth))
            slices = torch.from_numpy(with_neighbours(case.image, places, segmenter.plan.context_slices))
            start, began = time.perf_counter(), time.process_time()
            net.encode_slices(slices)
            wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - began
    return {"seconds": wall, "cpu_seconds": cpu}


def _prompts(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """Seconds of an automatic pass, and of a round of prompts of one class and of every class."""
    from s2vnet.inference.segmenter import Segmenter
    from s2vnet.interactive.session import Session
    from s2vnet.io.files import read_image

    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    volume = read_image(scan)
    start, began = time.perf_counter(), time.process_time()
    session = Session(segmenter, volume)
    automatic, automatic_cpu = time.perf_counter() - start, time.process_time() - began
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {"one": [], "every": []}
    classes = [k for k in segmenter.class_names if k]
    for name, ids in 5 * [("one", classes[5:6] or classes[-1:]), ("every", classes)]:
        points = [_point(session.labels, k, rng) for k in ids]
        start, began = time.perf_counter(), time.process_time()
        session.add_round(points)
        found[name].append((time.perf_counter() - start, time.process_time() - began))
        session.undo()
    one, every = (np.median(found[name], 0) for name in ("one", "every"))
    return {
        "automatic_seconds": automatic,
        "automatic_cpu_seconds": automatic_cpu,
        "one_prompt_seconds": float(one[0]),
        "one_prompt_cpu_seconds": float(one[1]),
        "prompt_for_every_class_seconds": float(every[0]),
        "prompt_for_every_class_cpu_seconds": float(every[1]),
    }


def _points(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """Of a round of points given at once, by their number: one class after the other of those that are there."""
    from s2vnet.inference.segmenter import Segmenter
    from s2vnet.interactive.session import Session
    from s2vnet.io.files import read_image

    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    session = Session(segmenter, read_image(scan))
    rng = np.random.default_rng(0)
    ids = [k for k in np.unique(session.labels).tolist() if k] or [k for k in segmenter.class_names if k]
    rounds: dict[int, list[tuple[float, float]]] = {count: [] for count in GROWING_POINTS}
    for _ in range(ROUNDS):
        for count, spent in rounds.items():
            points = [_point(session.labels, ids[n % len(ids)], rng) for n in range(count)]
            start, began = time.perf_counter(), time.process_time()
            session.add_round(points)
            spent.append((time.perf_counter() - start, time.process_time() - began))
            session.undo()
    medians = {count: np.median(spent, 0).tolist() for count, spent in rounds.items()}
    return {"rounds": {n: {"seconds": wall, "cpu_seconds": cpu} for n, (wall, cpu) in medians.items()}}


def _point(labels: npt.NDArray[np.uint8], class_id: int, rng: np.random.Generator) -> Point:
    """On one of the class's voxels, or anywhere where there is none."""
    from s2vnet.prompts import Point

    there = np.argwhere(labels == class_id)
    i, j, d = (there[rng.integers(len(there))] if len(there) else rng.integers(labels.shape)).tolist()
    return Point(class_id=class_id, voxel=(i, j, d))


def _patch(name: str) -> dict[str, float]:
    """Of one patch."""
    import torch

    from opponents import build

    patch, cell, _ = PATCHES[name]
    if name == "swinunetr":
        from monai.networks.nets.swin_unetr import SwinUNETR

        net: torch.nn.Module = SwinUNETR(1, CLASSES, feature_size=48)
    elif name == "nninteractive":
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

        # nnU-Net's ResEnc L: https://github.com/MIC-DKFZ/nnUNet, documentation/resenc_presets.md
        net = ResidualEncoderUNet(
            8,
            6,
            (32, 64, 128, 256, 320, 320),
            torch.nn.Conv3d,
            3,
            [1, 2, 2, 2, 2, 2],
            (1, 3, 4, 6, 6, 6),
            2,
            (1,) * 5,
            conv_bias=True,
            norm_op=torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )
    else:
        net = build(name, 1, CLASSES, patch, cell)
    net.eval()
    if hasattr(net, "decoder") and hasattr(net.decoder, "deep_supervision"):
        net.decoder.deep_supervision = False
    channels = 8 if name == "nninteractive" else 1
    shown = torch.randn(1, channels, *patch)
    with torch.inference_mode():
        found = _seconds(lambda: net(shown), TIMED)
    return {key: value * (8 if name == "nninteractive" else 1) for key, value in found.items()}


if __name__ == "__main__":
    main()
