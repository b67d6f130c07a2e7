"""Demo on public images: automatic segmentation by a bundled model, then simulated clicks.

There are two scenes. The abdomen is a CT with 13 organs, compared with the labels of another network
(TotalSegmentator). The hippocampus is the left one of the MNI152 template (an average of 152 adults), compared with the
Neuromorphometrics labels of the same space (another protocol than the training data's, one label for the whole). A
simulated user clicks where the result differs from them. Images and labels are downloaded; the package has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from s2vnet.demo.data import BOXES, crop, fetch
from s2vnet.demo.image_sources import SOURCES
from s2vnet.evaluation.simulated_clicks import next_click
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels, write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.prompts import Point
from s2vnet.visualization.overlays import write_overlay

ROUNDS = 5
Labels = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Scene:
    """One image and its reference labels."""

    volume: Volume
    reference: Labels
    """(I, J, K) on the volume's grid."""
    reference_names: Mapping[int, str]
    """Names of those values of `reference` that are not the model's classes; empty if all are."""
    title: str
    """Title of the reference in the picture."""

    def score(self, labels: Labels) -> float:
        """Return the mean Dice over the reference's classes, or that of the foreground if they are not the model's."""
        if self.reference_names:
            return dice(labels > 0, self.reference > 0)
        classes = [int(k) for k in np.unique(self.reference) if k]
        return float(np.mean([dice(labels == k, self.reference == k) for k in classes]))

    def clicks(self, labels: Labels) -> list[Point]:
        """Return the simulated user's clicks of a round: one for every class in the reference."""
        if self.reference_names:
            click = next_click((labels > 0).astype(np.uint8), (self.reference > 0).astype(np.uint8), 1)
            return [] if click is None else [_assign_class(click, labels)]
        classes = [int(k) for k in np.unique(self.reference) if k]
        clicks = [next_click(labels, self.reference, k) for k in classes]
        return list({click.voxel: click for click in clicks if click is not None}.values())


@dataclass
class DemoResult:
    """Scores against the reference and computing times of a demo."""

    seconds_automatic: float
    """Seconds of encoding and both sweeps."""
    dice: list[float] = field(default_factory=list)
    """Dice per round, automatic first."""
    seconds: list[float] = field(default_factory=list)
    """Seconds per round of clicks."""


def abdomen(values: Mapping[str, int]) -> Scene:
    """Fetch a CT of the trunk, 3 mm, and TotalSegmentator's organs. Raises InputError if they cannot be fetched."""
    volume, source = read_image(fetch(SOURCES["trunk-ct"])), SOURCES["trunk-ct-labels"]
    source_labels = read_labels(fetch(source)).data
    reference = np.zeros(source_labels.shape, np.uint8)
    for name, value in source.labels.items():
        reference[source_labels == value] = values[name]
    return Scene(volume, reference, {}, "by TotalSegmentator")


def hippocampus(values: Mapping[str, int]) -> Scene:
    """Fetch the template's left hippocampus and its labels. Raises InputError if they cannot be fetched."""
    volume, atlas = crop(read_image(fetch(SOURCES["mni152"])), BOXES["left"]), SOURCES["neuromorphometrics"]
    reference = _resample_mask(read_labels(fetch(atlas)), atlas.labels["left"], volume.geometry)
    other = max(values.values()) + 1  # a separate class: the whole hippocampus
    labels = reference.astype(np.uint8) * np.uint8(other)
    return Scene(volume, labels, {other: "whole, drawn by others"}, "drawn by others")


SCENES: Mapping[str, tuple[str, Callable[[Mapping[str, int]], Scene]]] = {
    "abdomen": ("abdomen-ct", abdomen),
    "hippocampus": ("hippocampus-mr", hippocampus),
}
"""Model of each scene, and the function that makes the scene from the model's label values by class name."""


def run_demo(
    output: Path, device: str = "auto", scene: str = "abdomen", say: Callable[[str], None] = lambda text: None
) -> DemoResult:
    """Segment a scene's image, correct it by clicks, and write image, labels, prompts and a picture.

    Raises:
        InputError: the image cannot be fetched, or the folder cannot be written.
    """
    say("fetching a public image and its labels (once; checked by hash)")
    model, make = SCENES[scene]
    segmenter = Segmenter.from_pretrained(model, device=device)
    target = make(segmenter.plan.labels)
    start = time.perf_counter()
    session = Session(segmenter, target.volume)
    result = DemoResult(time.perf_counter() - start)
    automatic = session.result
    result.dice.append(target.score(automatic.data))
    say(f"automatic: Dice {result.dice[0]:.3f} in {result.seconds_automatic:.2f} s")
    clicks: list[Point] = []
    for number in range(ROUNDS):
        round_clicks = target.clicks(session.labels)
        if not round_clicks:
            break
        clicks += round_clicks
        start = time.perf_counter()
        session.add(*round_clicks)
        result.seconds.append(time.perf_counter() - start)
        result.dice.append(target.score(session.labels))
        what = "1 click" if len(round_clicks) == 1 else f"{len(round_clicks)} clicks"
        say(f"round {number + 1} ({what}): Dice {result.dice[-1]:.3f} in {result.seconds[-1]:.2f} s")
    output.mkdir(parents=True, exist_ok=True)
    write_image(output / "image.nii.gz", target.volume)
    write_labels(output / "automatic.nii.gz", automatic)
    write_labels(output / "corrected.nii.gz", session.result)
    session.save_log(output / "prompts.json")
    columns = {
        "automatic": automatic,
        f"after {len(clicks)} clicks": session.result,
        target.title: LabelMap(target.reference.astype(np.uint8), target.volume.geometry),
    }
    names = {**segmenter.class_names, **target.reference_names}
    plan = segmenter.plan
    write_overlay(output / "overlay.png", target.volume, columns, names, plan.axis, clicks, channel=plan.channels[0])
    return result


def _assign_class(click: Point, labels: Labels) -> Point:
    """Assign a click on the foreground to background, or to the class of the nearest labelled voxel."""
    if click.class_id == 0 or not labels.any():
        return click
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return Point(class_id=int(labels[tuple(nearest[(slice(None), *click.voxel)])]), voxel=click.voxel)


def _resample_mask(labels: LabelMap, value: int, grid: Geometry) -> npt.NDArray[np.bool_]:
    """Resample the mask of one label to another grid (I, J, K) by linear interpolation, thresholded at one half."""
    ijk = np.indices(grid.shape).reshape(3, -1).T
    voxels = labels.geometry.to_voxel(grid.to_world(ijk))
    weights = ndimage.map_coordinates((labels.data == value).astype(np.float32), voxels.T, order=1)
    mask: npt.NDArray[np.bool_] = weights.reshape(grid.shape) >= 0.5
    return mask
