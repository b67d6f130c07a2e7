"""Interactive evaluation of a case by rounds of clicks, as in the CVPR 2025 interactive challenge.

https://github.com/JunMa11/CVPR-MedSegFMCompetition; here round 0 is the automatic result instead of a
box prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from s2vnet.data.label_definitions import hide_ignored
from s2vnet.evaluation.simulated_clicks import FalsePositiveClick, next_click
from s2vnet.metrics.overlap_and_distance import (
    NSD_TOLERANCE_MM,
    Labels,
    Spacing,
    dice,
    require_same_shape,
    surface_dice,
)
from s2vnet.prompts import Point


class InteractiveSession(Protocol):
    """Interface of an interactive method."""

    @property
    def labels(self) -> Labels:
        """Current class of each voxel (I, J, K)."""

    def add_round(self, points: Sequence[Point]) -> None:
        """Add one round of clicks, in voxel indices of :attr:`labels`, and update the result."""


@dataclass(frozen=True)
class InteractiveScores:
    """Scores of one case per round; round 0 is the automatic result."""

    dice: list[dict[int, float]]
    """Dice of each class in the ground truth, per round."""
    nsd: list[dict[int, float]]
    """Normalized surface Dice of these classes, per round."""
    clicks: list[list[Point]]
    """Clicks of each round; empty for round 0 and for rounds without errors."""
    seconds_per_round: list[float]
    """Seconds to update the labels, for each round with clicks."""
    region_dice: list[dict[str, float]] = field(default_factory=list)
    """Dice of each region, per round; empty without regions."""


def run_click_rounds(
    session: InteractiveSession,
    truth: Labels,
    class_ids: Iterable[int],
    spacing: Spacing,
    rounds: int = 5,
    jitter_mm: float = 0.0,
    seed: int = 42,
    false_positive_click: FalsePositiveClick = "true-class",
    tolerance_mm: float = NSD_TOLERANCE_MM,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> InteractiveScores:
    """Score the automatic result and each round of simulated clicks.

    In each round the user clicks once per class, based on the same result, and adds all clicks together; equal clicks
    are added once. Only classes in the ground truth are clicked and scored. A round without errors repeats the scores.

    Args:
        session: session with the automatic result of the case.
        truth: (I, J, K) ground truth on the grid of ``session.labels``; voxels that are
            :data:`s2vnet.data.label_definitions.IGNORED` are neither clicked nor scored.
        class_ids: classes to evaluate; 0 is left out.
        spacing: voxel size in mm along i, j, k.
        rounds: rounds of clicks after the automatic result.
        jitter_mm: see :func:`s2vnet.evaluation.simulated_clicks.next_click`.
        seed: seed of the choice among equally good clicks and of the jitter.
        false_positive_click: see :func:`s2vnet.evaluation.simulated_clicks.next_click`.
        tolerance_mm: tolerance of the normalized surface Dice.
        regions: label values by name of a union of classes whose Dice is reported, too.

    Raises:
        InputError: the shapes differ or are not three-dimensional.
    """
    rng = np.random.default_rng(seed)
    require_same_shape(session.labels, truth)
    labels = hide_ignored(session.labels, truth)
    present = set(np.unique(truth).tolist())
    classes = [c for c in class_ids if c != 0 and c in present]
    scores = InteractiveScores([], [], [[]], [])
    _score(scores, labels, truth, classes, spacing, tolerance_mm, regions or {})
    for _ in range(rounds):
        candidates = (next_click(labels, truth, c, spacing, rng, jitter_mm, false_positive_click) for c in classes)
        clicks = list(dict.fromkeys(click for click in candidates if click is not None))
        scores.clicks.append(clicks)
        if not clicks:
            scores.dice.append(scores.dice[-1])
            scores.nsd.append(scores.nsd[-1])
            scores.region_dice.extend(scores.region_dice[-1:])
            continue
        start = time.perf_counter()
        session.add_round(clicks)
        corrected = session.labels
        scores.seconds_per_round.append(time.perf_counter() - start)
        labels = hide_ignored(corrected, truth)
        _score(scores, labels, truth, classes, spacing, tolerance_mm, regions or {})
    return scores


def auc(per_round: Sequence[float]) -> float:
    """Compute the area under a score over the rounds with clicks (trapezoidal rule, not normalized).

    ``per_round`` starts with round 0, which is left out as in the challenge; for 5 rounds the maximum is 4.
    """
    return float(np.trapezoid(per_round[1:]))


def clicks_to_reach(dice_per_round: Sequence[float], target: float) -> int | None:
    """Return the number of clicks until the Dice of a class is at least ``target``; None if it never is.

    A class gets one click per round; ``dice_per_round`` starts with round 0, the automatic result.
    """
    return next((number for number, score in enumerate(dice_per_round) if score >= target), None)


def _score(
    scores: InteractiveScores,
    labels: Labels,
    truth: Labels,
    classes: Sequence[int],
    spacing: Spacing,
    tolerance_mm: float,
    regions: Mapping[str, Sequence[int]],
) -> None:
    scores.dice.append({c: dice(labels == c, truth == c) for c in classes})
    scores.nsd.append({c: surface_dice(labels == c, truth == c, spacing, tolerance_mm) for c in classes})
    if regions:
        masks = {name: (np.isin(labels, list(v)), np.isin(truth, list(v))) for name, v in regions.items()}
        scores.region_dice.append({name: dice(*pair) for name, pair in masks.items()})
