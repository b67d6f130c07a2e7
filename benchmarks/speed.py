"""Time, memory and growth of automatic segmentation, beside other networks on the same scans.

python -m benchmarks.speed SCAN -o docs/results/speed.json --slices 64 150 400 800 --sizes 256 512

Scans are derived from one CT: its slices are repeated by reflection, its pixels resized. Each measurement runs in its
own process; methods alternate, and medians are reported. s2vnet is timed from file to file. Of other networks a few
patches are timed and multiplied by the patches of a scan at an overlap of one half, without reading, resampling and
aggregation. Each has its own grid: nnU-Net's plan for abdominal CT (3 x 0.76 x 0.76 mm, patches of 48 x 192 x 192,
slices of 512 x 512; Isensee et al., Nature Methods 2021), MONAI's for the transformers (2 x 1.5 x 1.5 mm, 96 a side),
and nnInteractive's 192 a side, timed at 96 and multiplied by eight.

On the smallest scan the automatic pass is also measured by the number of classes (random weights, torch only), and a
round of prompts by the number of points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.measures.environment import processor, provenance, write_json
from benchmarks.peers.patch_speed import INFERENCE, scan_time
from s2vnet.io.files import read_image, write_image
from s2vnet.io.geometry import Geometry, Volume

RUNTIMES = ("torch", "onnxruntime", "openvino")
SIDE_MM, SLICE_MM = 358.4, 2.0
"""Size of a scan in plane, 512 pixels of 0.7 mm or 256 of 1.4 mm, and distance of its slices."""
CLASS_COUNTS = (2, 8, 14, 32, 64, 128)
PROMPTED_SIZE = (256, 150)
"""Pixels and slices of the scan on which prompts are timed, if it is among the scans; else the smallest."""

Size = tuple[int, int]
"""Pixels a side and slices."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="CT that the scans are made from")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--model", default="abdomen-ct")
    parser.add_argument("--slices", type=int, nargs="+", default=[64, 150, 400, 800])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES))
    parser.add_argument("--others", nargs="*", default=list(INFERENCE))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = _measure(arguments, Path(folder))
    result |= provenance(f"{processor()}, {arguments.threads} threads", arguments.scan)
    write_json(arguments.output, result | {"repeats": arguments.repeats})


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    sizes = [(pixels, slices) for pixels in arguments.sizes for slices in arguments.slices]
    scans = {size: _make_scan(arguments.scan, size, folder) for size in sizes}
    gflops = _run(arguments, "matrix", arguments.scan)["gflops"]
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        for name in arguments.others:
            runs.setdefault(name, []).append(_run(arguments, f"peer:{name}", arguments.scan))
        for size, scan in scans.items():
            for runtime in arguments.runtimes:
                for task in (f"scan:{runtime}", f"encoder:{runtime}"):
                    runs.setdefault(f"{task} {size}", []).append(_run(arguments, task, scan))
    medians = {name: _median(repeats) for name, repeats in runs.items()}
    others = {name: medians[name] for name in arguments.others}
    rows = [_row(size, arguments.runtimes, medians, others) for size in scans]
    return {"matrix_gflops": gflops, "others": others, "scans": rows, **_measure_prompts_and_growth(arguments, scans)}


def _row(
    size: Size, runtimes: Sequence[str], medians: Mapping[str, dict[str, Any]], others: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Times of all networks for a scan."""
    pixels, slices = size
    row: dict[str, Any] = {"pixels": pixels, "slices": slices, "ours": {}, "others": {}}
    for runtime in runtimes:
        encoder = medians[f"encoder:{runtime} {size}"]
        alone = {"encoder_alone": encoder["seconds"], "encoder_alone_cpu_seconds": encoder["cpu_seconds"]}
        row["ours"][runtime] = medians[f"scan:{runtime} {size}"] | alone
    for name, patch in others.items():
        if name != "nninteractive":
            row["others"][name] = scan_time(name, (slices * SLICE_MM, SIDE_MM, SIDE_MM), slices, patch)
    return row


def _measure_prompts_and_growth(arguments: argparse.Namespace, scans: Mapping[Size, Path]) -> dict[str, Any]:
    smallest = min(scans, key=lambda size: size[0] ** 2 * size[1])
    prompted = PROMPTED_SIZE if PROMPTED_SIZE in scans else smallest
    classes = {n: _run(arguments, f"classes:{n}", scans[smallest]) for n in CLASS_COUNTS}
    points = {r: _run(arguments, f"points:{r}", scans[smallest])["rounds"] for r in arguments.runtimes}
    prompts = {r: _run(arguments, f"prompts:{r}", scans[prompted]) for r in arguments.runtimes}
    return {
        "prompts": {"pixels": prompted[0], "slices": prompted[1], "runtimes": prompts},
        "growth": {"pixels": smallest[0], "slices": smallest[1], "classes": classes, "points": points},
    }


def _make_scan(source: Path, size: Size, folder: Path) -> Path:
    """Write a CT of a size, derived from another."""
    pixels, slices = size
    volume = read_image(source)
    data = volume.geometry.canonical()[1].apply(volume.data)[0]
    order = np.pad(np.arange(data.shape[2]), (0, max(0, slices - data.shape[2])), mode="reflect")[:slices]
    zoom = (pixels / data.shape[0], pixels / data.shape[1], 1)
    resized = np.rint(ndimage.zoom(data, zoom, order=1))[:, :, order].astype(np.float32)
    spacing = SIDE_MM / pixels
    path = folder / f"ct_{pixels}_{slices}.nii.gz"
    affine = np.diag([spacing, spacing, SLICE_MM, 1])
    write_image(path, Volume(resized[None], Geometry(resized.shape, affine)))
    return path


def _run(arguments: argparse.Namespace, task: str, scan: Path) -> dict[str, Any]:
    """Run a task of :mod:`benchmarks.measures.speed_worker` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.measures.speed_worker", task, str(scan), arguments.model]
    threads = {"OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if finished.returncode:
        raise SystemExit(f"{task}: {finished.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    print(task, scan.name, {k: round(v, 3) for k, v in result.items() if isinstance(v, float)}, flush=True)  # noqa: T201
    return result


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median of each figure; None if it was not measured."""
    return {
        key: None if first is None else float(np.median([run[key] for run in runs])) for key, first in runs[0].items()
    }


if __name__ == "__main__":
    main()
