"""Peak memory of segmenting a CT by its number of slices (512 x 512 pixels of 0.7 mm, slices 1 mm apart).

python -m benchmarks.memory -n 150 400 800 2000 -o docs/results/memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.measures.environment import processor, provenance, write_json

SIDE = 512
SPACING = (0.7, 0.7, 1.0)
BODY = (0.42, 0.34)
"""Half axes of the body's ellipse, relative to the side."""
SLICE_BYTES = SIDE * SIDE * (2 + 1)
"""Bytes of a slice of the input (int16) and of the label map (uint8)."""
_SEGMENT = """
import json, sys, time
from pathlib import Path
from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.inference.segmenter import Segmenter
from s2vnet.utils.memory import release_large_blocks, peak_memory_mb
model, image, output, limit, runtime = sys.argv[1:]
segmenter = Segmenter.from_pretrained(model, device="cpu", runtime=runtime)
limit = int(limit)
if limit:
    release_large_blocks()
if limit == 1:
    limit = (1 << 60) - segmenter.memory_budget([Path(image)], 1 << 60).available + (16 << 20)
start = time.perf_counter()
for job, error in predict(segmenter, plan_jobs(Path(image), Path(output), 1), max_memory=limit or None):
    if error is not None:
        sys.exit(str(error))
peak = int(peak_memory_mb() * (1 << 20))
result = {"seconds": round(time.perf_counter() - start, 1), "peak_bytes": peak, "max_memory_bytes": limit}
print(json.dumps(result))
"""


def main() -> None:
    """Measure the memory for each number of slices and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="abdomen-ct")
    parser.add_argument("-n", "--slices", type=int, nargs="+", default=[150, 400, 800, 2000])
    parser.add_argument("--max-memory", type=int, default=0, help="bytes; 1: the smallest possible, 0: no limit")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for count in sorted(arguments.slices):
            image, labels = Path(name, "scan.nii"), Path(name, "labels.nii.gz")
            write_ct(image, count)
            command = [
                sys.executable,
                "-c",
                _SEGMENT,
                arguments.model,
                image,
                labels,
                arguments.max_memory,
                arguments.runtime,
            ]
            finished = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
            runs.append({"slices": count, **json.loads(finished.stdout)})
            if len(runs) > 1:
                before, now = runs[-2:]
                growth = (now["peak_bytes"] - before["peak_bytes"]) / (now["slices"] - before["slices"])
                now["growth_beyond_input_and_labels_mb_per_slice"] = round((growth - SLICE_BYTES) / 1e6, 3)
            sys.stdout.write(f"{runs[-1]}\n")
    content = {
        **provenance(processor()),
        "model": arguments.model,
        "runtime": arguments.runtime,
        "side": SIDE,
        "runs": runs,
    }
    write_json(arguments.output, content)


def write_ct(path: Path, count: int) -> None:
    """Write a CT slice by slice (int16): a soft-tissue ellipse with smooth noise, in air."""
    rng = np.random.default_rng(0)
    rows, columns = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    body = (rows / BODY[0]) ** 2 + (columns / BODY[1]) ** 2 < 1
    header = nib.Nifti1Header()
    header.set_data_shape((SIDE, SIDE, count))
    header.set_data_dtype(np.int16)
    header.set_zooms(SPACING)
    header.set_xyzt_units("mm")
    header.set_sform(np.diag([*SPACING, 1.0]), 1)
    header["vox_offset"] = 352
    with path.open("wb") as stream:
        header.write_to(stream)
        stream.write(bytes(4))
        organs = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 20) * 2000
        for _ in range(count):
            organs = 0.98 * organs + ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 20) * 400
            values = np.where(body, 40 + organs + rng.normal(0, 12, (SIDE, SIDE)), -1000)
            stream.write(np.clip(values, -1024, 3000).astype("<i2").tobytes(order="F"))


if __name__ == "__main__":
    main()
