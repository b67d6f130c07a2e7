"""What the usual scores do not tell: calibration, whether a correction spoils other organs, and where errors lie.

Sums are kept per case, so that cases can be pooled before anything is divided.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from s2vnet.evaluation.clicks import next_click
from s2vnet.evaluation.protocol import InteractiveSession
from s2vnet.metrics.segmentation import Labels, Spacing, dice

BINS = 15
MARGIN = 3
"""Voxels around the foreground that calibration looks at. Without a limit, the air around a patient, which every
network is rightly sure of, would bring any error of calibration to nothing."""
END_DISTANCES = ("0", "1", "2", "3-5", "6+")
"""Slices between a slice and the nearer end of an organ."""
PARTS = 5
"""Equal parts of a volume, from its first slice to its last."""

Floats = npt.NDArray[np.floating[Any]]


def calibration_bins(confidence: Floats, predicted: Labels, truth: Labels) -> dict[str, list[float]]:
    """Per bin of the confidence: voxels, their summed confidence, and how many are right.

    Looks at the union of predicted and true foreground, grown by MARGIN voxels.

    Args:
        confidence: (I, J, K) probability of the predicted class.
        predicted: (I, J, K).
        truth: (I, J, K).
    """
    region = ndimage.binary_dilation((predicted > 0) | (truth > 0), iterations=MARGIN)
    found, right = confidence[region].astype(np.float64), (predicted == truth)[region]
    number = np.minimum((found * BINS).astype(int), BINS - 1)
    weights = {"voxels": None, "confidence": found, "right": right.astype(np.float64)}
    return {key: np.bincount(number, w, minlength=BINS).astype(float).tolist() for key, w in weights.items()}


def calibration_error(bins: Mapping[str, Sequence[float]]) -> float:
    """Expected calibration error: mean over voxels of the distance between a bin's confidence and its accuracy."""
    voxels, confidence, right = (np.asarray(bins[key]) for key in ("voxels", "confidence", "right"))
    return float(np.abs(confidence - right).sum() / voxels.sum()) if voxels.sum() else math.nan


def slice_rank_correlation(uncertainty: Floats, predicted: Labels, truth: Labels) -> float:
    """Spearman's correlation over slices (D, H, W) of the mean uncertainty and the share of wrong voxels."""
    wrong = (predicted != truth).mean((1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)  # no error anywhere: not defined, NaN
        return float(stats.spearmanr(uncertainty.mean((1, 2)), wrong).statistic)


def one_at_a_time(
    session: InteractiveSession, truth: Labels, class_ids: Iterable[int], spacing: Spacing
) -> list[dict[str, float]]:
    """Click once for one organ after the other; what each click did to its organ and to the others, in Dice.

    The organ that the click names, where it is another than the one that it is for, counts as neither.
    ``others`` is the mean change over the other organs that the truth shows, ``worst`` their most negative one.
    """
    shown = [k for k in class_ids if k and (truth == k).any()]
    before = {k: dice(session.labels == k, truth == k) for k in shown}
    found = []
    for prompted in shown:
        click = next_click(session.labels, truth, prompted, spacing)
        if click is None:
            continue
        session.add_round([click])
        after = {k: dice(session.labels == k, truth == k) for k in shown}
        others = [after[k] - before[k] for k in shown if k not in (prompted, click.class_id)]
        row = {"class": prompted, "prompted": after[prompted] - before[prompted]}
        found.append(row | ({"others": float(np.mean(others)), "worst": min(others)} if others else {}))
        before = after
    return found


def failures(predicted: Labels, truth: Labels, class_names: Mapping[int, str]) -> dict[str, Any]:
    """Sums of where errors lie, for label maps as slices (D, H, W); :func:`add` pools cases, :func:`rates` divides.

    ``ends`` and ``parts`` hold, per organ, rows of (twice the overlap, sum of both sizes) by distance of a slice from
    the organ's nearer end, and by part of the volume; ``false`` (false slices, slices without the organ); ``twins``
    (voxels of an organ called its twin, voxels of the organ).
    """
    result: dict[str, Any] = {"ends": {}, "parts": {}, "false": {}, "twins": {}}
    depth, pairs = len(truth), twins(class_names)
    part = np.minimum(np.arange(depth) * PARTS // depth, PARTS - 1)
    for k, name in class_names.items():
        if not k:
            continue
        true, said = truth == k, predicted == k
        shown, claimed = true.any((1, 2)), said.any((1, 2))
        sums = np.stack([2 * (true & said).sum((1, 2)), true.sum((1, 2)) + said.sum((1, 2))], 1)
        result["parts"][name] = [sums[part == p].sum(0).tolist() for p in range(PARTS)]
        result["false"][name] = [int((claimed & ~shown).sum()), int((~shown).sum())]
        if shown.any():
            first, last = np.flatnonzero(shown)[[0, -1]]
            distance = np.minimum(np.arange(depth) - first, last - np.arange(depth))
            group = np.searchsorted([1, 2, 3, 6], distance, side="right")
            inside = distance >= 0
            rows = [sums[inside & (group == g)].sum(0).tolist() for g in range(len(END_DISTANCES))]
            result["ends"][name] = rows
        if k in pairs:
            result["twins"][name] = [int((true & (predicted == pairs[k])).sum()), int(true.sum())]
    return result


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum of several cases' nested lists of numbers; what one case lacks counts as nothing."""
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, Mapping):
                total[key] = add([total.get(key, {}), value])
            else:
                total[key] = (np.asarray(total[key]) + np.asarray(value)).tolist() if key in total else value
    return total


def rates(sums: Mapping[str, Any]) -> dict[str, Any]:
    """The sums of :func:`failures` divided: Dice, share of slices, share of voxels; NaN where there are none."""

    def divided(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: divided(inner) for key, inner in value.items()}
        if isinstance(value[0], list):
            return [divided(row) for row in value]
        return value[0] / value[1] if value[1] else math.nan

    found: dict[str, Any] = divided(sums)
    return found


def twins(class_names: Mapping[int, str]) -> dict[int, int]:
    """Class to class of the other side, for names that differ by left and right (or a last _L and _R) alone."""
    by_name = {name: k for k, name in class_names.items()}
    found: dict[int, int] = {}
    for name, k in by_name.items():
        for one, other in ((r"left", "right"), (r"_L$", "_R")):
            twin = by_name.get(re.sub(one, other, name))
            if twin is not None and twin != k:
                found |= {k: twin, twin: k}
    return found
