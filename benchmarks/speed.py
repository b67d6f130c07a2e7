"""Seconds, memory and growth of automatic segmentation, beside the networks of others on the same scans.

python benchmarks/speed.py SCAN -o docs/results/speed.json --slices 64 150 400 800 --sizes 256 512

Scans are made of one CT: its slices to and fro, its pixels resized. Every measurement is a process of its own; methods
take turns, and medians are shown. Ours is timed from file to file. Of the others some patches are timed and the number
of patches in a scan, with an overlap of one half, does the rest: reading, resampling and putting together are given to
them. Their grids are their own: nnU-Net's plan for abdominal CT (3 x 0.76 x 0.76 mm, patches of 48 x 192 x 192, slices
of 512 x 512; Isensee et al., Nature Methods 2021), MONAI's for the transformers (2 x 1.5 x 1.5 mm, 96 a side), and
nnInteractive's 192 a side, timed at 96 and counted eightfold.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from machine import processor

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
    found: dict[str, Any] = {"scans": [], "others": {}}
    with tempfile.TemporaryDirectory() as folder:
        scans = [
            (size, n, _scan(arguments.scan, size, n, Path(folder)))
            for size in arguments.sizes
            for n in arguments.slices
        ]
        found["matrix_gflops"] = _run(arguments, "matrix", arguments.scan)["gflops"]
        turns: dict[str, list[Any]] = {}
        for _ in range(arguments.repeats):
            for name in arguments.others:
                turns.setdefault(name, []).append(_run(arguments, name, arguments.scan))
            for size, n, scan in scans:
                for runtime in arguments.runtimes:
                    for what in ("scan", "encoder"):
                        key = f"{what}:{runtime}"
                        turns.setdefault(f"{key} {size} {n}", []).append(_run(arguments, key, scan))
        found["others"] = {name: _median(turns[name]) for name in arguments.others}
        for size, n, _ in scans:
            row = {"pixels": size, "slices": n, "ours": {}, "others": {}}
            for runtime in arguments.runtimes:
                ours = _median(turns[f"scan:{runtime} {size} {n}"])
                ours["encoder_alone"] = _median(turns[f"encoder:{runtime} {size} {n}"])["seconds"]
                row["ours"][runtime] = ours
            for name in arguments.others:
                if name != "nninteractive":
                    row["others"][name] = _whole(name, n, found["others"][name])
            found["scans"].append(row)
        middle = next((scan for size, n, scan in scans if n == 150 and size == 256), scans[0][2])
        found["prompts"] = {r: _run(arguments, f"prompts:{r}", middle) for r in arguments.runtimes}
    found |= {
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{processor()}, {arguments.threads} threads",
        "repeats": arguments.repeats,
    }
    from s2vnet.atomic import replacing

    with replacing(arguments.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def _scan(source: Path, size: int, slices: int, folder: Path) -> Path:
    """A CT of so many slices of so many pixels a side."""
    from scipy import ndimage

    from s2vnet.volume.files import read_image, write_image
    from s2vnet.volume.geometry import Geometry, Volume

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
    command = [sys.executable, __file__, str(scan), "-o", "-", "-m", arguments.model, "--worker", what]
    threads = {"OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if ran.returncode:
        raise SystemExit(f"{what}: {ran.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(what, scan.name, {k: round(v, 3) for k, v in result.items() if isinstance(v, float)}, flush=True)  # noqa: T201
    return result


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}


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
        "peak_mb": measured["peak_mb"],
    }


def _work(what: str, scan: Path, model: str) -> dict[str, Any]:
    import resource

    import torch

    if what == "matrix":
        a = torch.randn(3072, 3072)
        seconds = _seconds(lambda: a @ a, 5)
        return {"gflops": 2 * 3072**3 / seconds / 1e9}
    kind, _, runtime = what.partition(":")
    if kind in PATCHES:
        found = {"seconds": _patch(kind)}
    elif kind == "scan":
        found = _ours(scan, model, runtime)
    elif kind == "encoder":
        found = {"seconds": _encoder(scan, model, runtime)}
    else:
        found = _prompts(scan, model, runtime)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {**found, "peak_mb": usage.ru_maxrss / 1024, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def _seconds(do: Callable[[], object], times: int) -> float:
    do()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        do()
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def _ours(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """File to file, after the model has been loaded and has seen one slice."""
    import torch

    from s2vnet.infer.predict import plan_jobs, predict
    from s2vnet.infer.segmenter import Segmenter

    start = time.perf_counter()
    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    loading = time.perf_counter() - start
    spent = {"encoding": 0.0, "decoding": 0.0}
    inner = segmenter.models[0]

    class Timed:
        config, stride = inner.config, inner.stride
        initial_state = staticmethod(inner.initial_state)

        @staticmethod
        def encode(slices: torch.Tensor) -> Any:
            began = time.perf_counter()
            found = inner.encode(slices)
            spent["encoding"] += time.perf_counter() - began
            return found

        @staticmethod
        def decode(*given: Any) -> Any:
            began = time.perf_counter()
            found = inner.decode(*given)
            spent["decoding"] += time.perf_counter() - began
            return found

    segmenter.models = (Timed(),)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = list(predict(segmenter, plan_jobs(scan, Path(folder) / "labels.nii.gz", 1)))
        seconds = time.perf_counter() - start
    assert [error for _, error in done] == [None]
    return {"seconds": seconds, "loading": loading, **spent, "rest": seconds - sum(spent.values())}


def _encoder(scan: Path, model: str, runtime: str) -> float:
    """The same slices through the encoder, and nothing else."""
    import torch

    from s2vnet.data.preprocess import preprocess, with_neighbours
    from s2vnet.infer.segmenter import Segmenter
    from s2vnet.volume.files import read_image

    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    case = preprocess(read_image(scan), segmenter.plan)
    depth, net = case.image.shape[1], segmenter.models[0]
    spent = 0.0
    with torch.inference_mode():
        for n in range(0, depth, 8):
            places = range(n, min(n + 8, depth))
            slices = torch.from_numpy(with_neighbours(case.image, places, segmenter.plan.context_slices))
            start = time.perf_counter()
            net.encode(slices)
            spent += time.perf_counter() - start
    return spent


def _prompts(scan: Path, model: str, runtime: str) -> dict[str, Any]:
    """Seconds of an automatic pass, and of a round of prompts of one class and of every class."""
    from s2vnet.infer.segmenter import Segmenter
    from s2vnet.infer.session import Session
    from s2vnet.types import Point
    from s2vnet.volume.files import read_image

    segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
    volume = read_image(scan)
    start, began = time.perf_counter(), time.process_time()
    session = Session(segmenter, volume)
    automatic, automatic_cpu = time.perf_counter() - start, time.process_time() - began
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {"one": [], "every": []}
    for name, ids in 5 * [("one", [6]), ("every", [k for k in segmenter.class_names if k])]:
        points = []
        for k in ids:
            where = np.argwhere(session.labels == k)
            if len(where):
                i, j, d = where[int(rng.integers(len(where)))].tolist()
                points.append(Point(class_id=k, voxel=(i, j, d)))
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


def _patch(name: str) -> float:
    """Seconds of one patch."""
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
        seconds = _seconds(lambda: net(shown), TIMED)
    return seconds * (8 if name == "nninteractive" else 1)


if __name__ == "__main__":
    main()
