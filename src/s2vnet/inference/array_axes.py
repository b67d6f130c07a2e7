"""Guess the axes of an array that states none: axis order, front and head, by what a network recognises.

Left and right are never guessed, since most organs have a twin (docs/decisions/008-mirrored-headers.md): the axis
across the body counts as pointing to the left, as in SimpleITK's arrays of DICOM images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from s2vnet.data.preprocess import PreparedSlices, with_neighbours
from s2vnet.inference.encoded_volume import PreviewBatch
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.model.interface import DecoderOutput

SIMPLEITK_AXES = "SPL"
"""Axes of SimpleITK's arrays of DICOM images: to superior, posterior, left."""
NUM_SLICES = (4, 8)
"""Evenly spaced slices by which each orientation is scored, and those that score most."""
MARGIN = 1.1
"""An orientation replaces the usual one when it scores this many times as much."""
_OPPOSITE = dict(zip("RASLPI", "LPIRAS", strict=True))
_FINALISTS = 4


def guess_axes(
    segmenter: Segmenter,
    image: npt.NDArray[np.generic],
    spacing: Sequence[float],
    between: Callable[[], None] = lambda: None,
) -> str:
    """Return the most plausible axis codes of an image, e.g. ``SPL``; one axis always points to the left.

    24 orientations are scored by 4 slices each, and the best ones by 8 (12 s on one core for the abdominal model).

    Args:
        segmenter: whose first network is used.
        image: (C, I, J, K), may be memory-mapped.
        spacing: voxel size in mm along i, j, k.
        between: called after each orientation; may raise to stop.
    """
    finest = min(segmenter.plan.spacing)
    strides = [max(1, round(finest / size)) for size in spacing]  # finer voxels only cost time
    coarse = np.ascontiguousarray(image[(slice(None), *(slice(None, None, n) for n in strides))], np.float32)
    sizes = [n * size for n, size in zip(strides, spacing, strict=True)]
    i, j, k = coarse.shape[1:]

    def score(codes: str, num_slices: int) -> float:
        between()
        return _score(segmenter, Volume(coarse, Geometry.from_codes((i, j, k), sizes, codes)), num_slices)

    return most_plausible(score)


def most_plausible(score: Callable[[str, int], float]) -> str:
    """Return the axis codes of the highest score, or SimpleITK's where no others score clearly more.

    Among the best ones, both ways round of left and right contribute, so that a mirrored image is recognised, too; the
    result does not depend on which of them scores more.

    Args:
        score: returns how much is recognised with three axis codes, by a number of slices.
    """
    few, many = NUM_SLICES
    scores = {codes: score(codes, few) for codes in _orientations()}
    best = {*sorted(scores, key=lambda codes: -scores[codes])[:_FINALISTS], SIMPLEITK_AXES}
    finalists = {codes: max(score(codes, many), score(_flip(codes, "L"), many)) for codes in sorted(best)}
    winner = max(finalists, key=lambda codes: finalists[codes])
    return winner if finalists[winner] > MARGIN * finalists[SIMPLEITK_AXES] else SIMPLEITK_AXES


def _orientations() -> list[str]:
    """All orders of the axes, to the left, and both ways round of the other two."""
    orders = ["".join(order) for order in itertools.permutations(SIMPLEITK_AXES)]
    return [_flip(_flip(codes, a), b) for codes in orders for a in ("", "S") for b in ("", "P")]


def _flip(codes: str, letter: str) -> str:
    """Reverse the axis that points to `letter` or to its opposite."""
    return "".join(_OPPOSITE[c] if letter and c in letter + _OPPOSITE[letter] else c for c in codes)


@torch.inference_mode()
def _score(segmenter: Segmenter, volume: Volume, num_slices: int) -> float:
    """How much is recognised on evenly spaced slices: squared presence times certainty, summed over classes.

    Certainty is the mean probability of a class weighted by itself. Area does not count: a wrong orientation shows
    large organs of little certainty.
    """
    plan = segmenter.plan
    slices = PreparedSlices(volume, plan)
    if plan.mirrored:  # the network knows images whose headers are wrong along this axis
        slices = slices.mirror("RAS".index(plan.mirrored))
    depth = slices.grid.depth
    indices = np.unique((2 * np.arange(num_slices) + 1) * depth // (2 * num_slices)).tolist()
    batch = torch.from_numpy(with_neighbours(slices, indices, plan.context_slices)).to(segmenter.device)
    return recognition(PreviewBatch.compute(segmenter.models[0], indices, batch).decoded)


def recognition(decoded: DecoderOutput) -> float:
    """Sum over classes of the mean over slices of squared presence times certainty."""
    probabilities = decoded.logits.softmax(1)[:, 1:]
    certainty = (probabilities**2).sum((2, 3)) / probabilities.sum((2, 3)).clamp(min=1e-3)
    return float(((decoded.presence[:, 1:].sigmoid() * certainty) ** 2).mean(0).sum())
