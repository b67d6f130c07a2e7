"""Folders of images and of their labels, for the tests of batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from s2vnet.batch.jobs import plan_jobs, predict
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import write_image
from s2vnet.io.geometry import LabelMap, Volume

MakePhantom = Callable[..., tuple[Volume, LabelMap]]


def write_images(folder: Path, make_phantom: MakePhantom, count: int) -> Path:
    folder.mkdir()
    for seed in range(count):
        write_image(folder / f"case{seed:02d}_0000.nii.gz", make_phantom(seed=seed)[0])
    return folder


def expect(segmenter: Segmenter, source: Path, target: Path) -> dict[str, bytes]:
    """Files of labels by the path that has no workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert [error for _, error in predict(segmenter, plan_jobs(source, target, 1)) if error] == []
    finally:
        torch.set_num_threads(threads)
    return {file.name: file.read_bytes() for file in sorted(target.iterdir())}


def labels_in(target: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(target.iterdir()) if file.name.endswith(".nii.gz")}
