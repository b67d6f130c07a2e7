"""A phantom that needs context across slices: two tubes of the same appearance that drift through the slices.

Only the first slice distinguishes the classes: class 1 has a hole there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.utils.atomic_write import atomic_write

SIZE = 32
"""Voxels of 1 mm along the first two axes."""


def draw_phantom(depth: int, rng: np.random.Generator) -> tuple[Volume, LabelMap]:
    """Generate an image (1, SIZE, SIZE, depth) and labels: drifting discs of radius 4, class 1 with a hole at first."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((SIZE, SIZE, depth), np.uint8)
    image = rng.normal(0, 0.15, (SIZE, SIZE, depth)).astype(np.float32)
    centres = np.array([[SIZE / 2, SIZE * 0.28], [SIZE / 2, SIZE * 0.72]]) + rng.uniform(-3, 3, (2, 2))
    order = rng.permutation(2)
    start = centres.copy()
    for d in range(depth):
        centres += rng.normal(0, 0.6, (2, 2)) + 0.1 * (start - centres)
        for class_id, centre in zip((1, 2), centres[order], strict=True):
            disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= 16
            image[..., d][disc] += 1.0
            labels[..., d][disc] = class_id
            if d == 0 and class_id == 1:
                image[..., d][(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= 4] -= 1.0
    grid = Geometry((SIZE, SIZE, depth), np.eye(4))
    return Volume(image[None], grid), LabelMap(labels, grid)


def write_dataset(root: Path, training: int, test: int, depth: int, seed: int = 0) -> None:
    """Write phantoms in nnU-Net's raw layout; `dataset.json` is written last, so that it implies complete files.

    Raises:
        InputError: a file cannot be written.
    """
    rng = np.random.default_rng(seed)
    for part, count in (("Tr", training), ("Ts", test)):
        for folder in ("images", "labels"):
            (root / f"{folder}{part}").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, labels = draw_phantom(depth, rng)
            name = f"{part.lower()}{number:03d}"
            write_image(root / f"images{part}" / f"{name}_0000.nii.gz", image)
            write_labels(root / f"labels{part}" / f"{name}.nii.gz", labels)
    content = {
        "name": "Phantom",
        "channel_names": {"0": "mark"},
        "labels": {"background": 0, "left tube": 1, "right tube": 2},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    with atomic_write(root / "dataset.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
