"""The demo: a real brain image, the shipped hippocampus model, first automatically, then with a few clicks.

The image is the MNI152 template (an average of 152 adults), its left hippocampus. A simulated user clicks where the
result differs from labels that others drew for the same space (Neuromorphometrics, by another protocol than the
training data's, one label for the whole hippocampus). Those labels are fetched for this purpose and never shipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from s2vnet.demo_data import BOXES, crop, fetch
from s2vnet.demo_sources import SOURCES
from s2vnet.evaluate.clicks import next_click
from s2vnet.evaluate.metrics import dice
from s2vnet.infer.pictures import write_overlay
from s2vnet.infer.segmenter import Segmenter
from s2vnet.infer.session import Session
from s2vnet.types import Point
from s2vnet.volume.files import read_image, read_labels, write_image, write_labels
from s2vnet.volume.geometry import Geometry, LabelMap

MODEL = "hippocampus-mr"
ROUNDS = 5


@dataclass
class DemoResult:
    """What the demo found; Dice of the whole hippocampus against the labels that others drew."""

    seconds_automatic: float
    """Encoding and both sweeps."""
    dice: list[float] = field(default_factory=list)
    """Per round, automatic first."""
    seconds: list[float] = field(default_factory=list)
    """Per round of one click."""


def run_demo(output: Path, device: str = "auto", say: Callable[[str], None] = lambda text: None) -> DemoResult:
    """Segment the template's left hippocampus, correct it by clicks, write images, labels, prompts and a picture.

    Raises:
        InputError: the image cannot be fetched, or the folder cannot be written.
    """
    say("fetching the MNI152 template and its labels (once; checked by hash)")
    volume = crop(read_image(fetch(SOURCES["mni152"])), BOXES["left"])
    atlas = SOURCES["neuromorphometrics"]
    reference = _on_grid(read_labels(fetch(atlas)), atlas.hippocampus["left"], volume.geometry)
    segmenter = Segmenter.from_pretrained(MODEL, device=device)
    start = time.perf_counter()
    session = Session(segmenter, volume)
    result = DemoResult(time.perf_counter() - start)
    automatic = session.result
    result.dice.append(dice(automatic.data > 0, reference))
    say(f"automatic: Dice {result.dice[0]:.3f} in {result.seconds_automatic:.2f} s")
    clicks: list[Point] = []
    for number in range(ROUNDS):
        click = _click(session.labels, reference)
        if click is None:
            break
        clicks.append(click)
        start = time.perf_counter()
        session.add(click)
        result.seconds.append(time.perf_counter() - start)
        result.dice.append(dice(session.labels > 0, reference))
        what = segmenter.class_names[click.class_id]
        say(f"click {number + 1} ({what} at {click.voxel}): Dice {result.dice[-1]:.3f} in {result.seconds[-1]:.2f} s")
    output.mkdir(parents=True, exist_ok=True)
    write_image(output / "image.nii.gz", volume)
    write_labels(output / "automatic.nii.gz", automatic)
    write_labels(output / "corrected.nii.gz", session.result)
    session.save_log(output / "prompts.json")
    other = max(segmenter.class_names) + 1  # a class of its own: the whole hippocampus
    columns = {
        "automatic": automatic,
        f"after {len(clicks)} clicks": session.result,
        "drawn by others": LabelMap(reference.astype(np.uint8) * np.uint8(other), volume.geometry),
    }
    names = segmenter.class_names | {other: "whole, drawn by others"}
    write_overlay(output / "overlay.png", volume, columns, names, segmenter.plan.axis, clicks)
    return result


def _click(labels: npt.NDArray[np.uint8], reference: npt.NDArray[np.bool_]) -> Point | None:
    """The simulated user's click: background on excess, else the class of the nearest labelled voxel."""
    click = next_click((labels > 0).astype(np.uint8), reference.astype(np.uint8), 1)
    if click is None or click.class_id == 0 or not labels.any():
        return click
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return Point(class_id=int(labels[tuple(nearest[(slice(None), *click.voxel)])]), voxel=click.voxel)


def _on_grid(labels: LabelMap, value: int, grid: Geometry) -> npt.NDArray[np.bool_]:
    """Where one label is on another grid (I, J, K): linear interpolation of its mask, from one half on."""
    ijk = np.indices(grid.shape).reshape(3, -1).T
    places = labels.geometry.to_voxel(grid.to_world(ijk))
    found = ndimage.map_coordinates((labels.data == value).astype(np.float32), places.T, order=1)
    inside: npt.NDArray[np.bool_] = found.reshape(grid.shape) >= 0.5
    return inside
