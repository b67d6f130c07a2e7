"""Where errors lie, and the effect of single clicks on all classes.

Sums are kept per case, so that cases are pooled before anything is divided.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from s2vnet.evaluation.protocol import InteractiveSession
from s2vnet.evaluation.simulated_clicks import next_click
from s2vnet.metrics.overlap_and_distance import Labels, Spacing, dice

END_DISTANCES = ("0", "1", "2", "3-5", "6+")
"""Bins of the distance, in slices, between a slice and the nearer end of an organ."""
END_DISTANCE_EDGES = (1, 2, 3, 6)
PARTS = 5
"""Equal parts of a volume along its slices."""


def click_effects(
    session: InteractiveSession, truth: Labels, class_ids: Iterable[int], spacing: Spacing
) -> list[dict[str, float]]:
    """Click once per class, one class after the other, and compare the Dice of all classes before and after each click.

    A click at a false positive names another class than the one it corrects; that class counts as neither.

    Returns:
        Rows with the class, the change of its Dice (``prompted``), the mean change over the other classes in the truth
        (``others``) and the most negative one (``worst``).
    """
    shown = [k for k in class_ids if k and (truth == k).any()]
    before = {k: dice(session.labels == k, truth == k) for k in shown}
    rows = []
    for prompted in shown:
        click = next_click(session.labels, truth, prompted, spacing)
        if click is None:
            continue
        session.add_round([click])
        after = {k: dice(session.labels == k, truth == k) for k in shown}
        others = [after[k] - before[k] for k in shown if k not in (prompted, click.class_id)]
        row = {"class": prompted, "prompted": after[prompted] - before[prompted]}
        rows.append(row | ({"others": float(np.mean(others)), "worst": min(others)} if others else {}))
        before = after
    return rows


def error_counts(predicted: Labels, truth: Labels, class_names: Mapping[int, str]) -> dict[str, Any]:
    """Count errors by place, for label maps (D, H, W); :func:`sum_counts` pools cases, :func:`error_rates` divides.

    Returns:
        ``ends`` and ``parts``: per class, rows of (twice the overlap, sum of both sizes) by distance of a slice from
        the class's nearer end, and by part of the volume; ``false``: per class, (false positive slices, slices without
        the class); ``twins``: per paired class, (voxels labelled as the class of the other side, voxels of the class).
    """
    counts: dict[str, Any] = {"ends": {}, "parts": {}, "false": {}, "twins": {}}
    depth, pairs = len(truth), left_right_pairs(class_names)
    part = np.minimum(np.arange(depth) * PARTS // depth, PARTS - 1)
    for k, name in class_names.items():
        if not k:
            continue
        true, positive = truth == k, predicted == k
        in_truth, in_prediction = true.any((1, 2)), positive.any((1, 2))
        sums = np.stack([2 * (true & positive).sum((1, 2)), true.sum((1, 2)) + positive.sum((1, 2))], 1)
        counts["parts"][name] = [sums[part == p].sum(0).tolist() for p in range(PARTS)]
        counts["false"][name] = [int((in_prediction & ~in_truth).sum()), int((~in_truth).sum())]
        if in_truth.any():
            first, last = np.flatnonzero(in_truth)[[0, -1]]
            distance = np.minimum(np.arange(depth) - first, last - np.arange(depth))
            group = np.where(distance >= 0, np.searchsorted(END_DISTANCE_EDGES, distance, side="right"), -1)
            counts["ends"][name] = [sums[group == g].sum(0).tolist() for g in range(len(END_DISTANCES))]
        if k in pairs:
            counts["twins"][name] = [int((true & (predicted == pairs[k])).sum()), int(true.sum())]
    return counts


def sum_counts(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add nested counts of several cases; a missing entry counts as zero."""
    total: dict[str, Any] = {}
    for counts in several:
        for key, value in counts.items():
            if isinstance(value, Mapping):
                total[key] = sum_counts([total.get(key, {}), value])
            else:
                total[key] = (np.asarray(total[key]) + np.asarray(value)).tolist() if key in total else value
    return total


def error_rates(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Divide the counts of :func:`error_counts`: Dice, share of slices, share of voxels; NaN where undefined."""
    return {key: _divide(value) for key, value in counts.items()}


def _divide(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _divide(inner) for key, inner in value.items()}
    if isinstance(value[0], list):
        return [_divide(row) for row in value]
    return value[0] / value[1] if value[1] else math.nan


def left_right_pairs(class_names: Mapping[int, str]) -> dict[int, int]:
    """Map each class to that of the other side, for names that differ only in left and right (or a final _L and _R)."""
    by_name = {name: k for k, name in class_names.items()}
    pairs: dict[int, int] = {}
    for name, k in by_name.items():
        for left, right in ((r"left", "right"), (r"_L$", "_R")):
            other = by_name.get(re.sub(left, right, name))
            if other is not None and other != k:
                pairs |= {k: other, other: k}
    return pairs
