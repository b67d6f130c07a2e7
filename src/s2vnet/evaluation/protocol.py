"""Rounds of clicks on one case, scored after each: the CVPR 2025 interactive challenge from an automatic start.

https://github.com/JunMa11/CVPR-MedSegFMCompetition; here round 0 is the automatic result instead of a box.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2vnet.evaluation.clicks import FalsePositiveClick, next_click
from s2vnet.metrics.segmentation import NSD_TOLERANCE_MM, Labels, Spacing, dice, require_same_shape, surface_dice
from s2vnet.prompts import Point


class InteractiveSession(Protocol):
    """What is played with: a result that clicks change."""

    @property
    def labels(self) -> Labels:
        """Current class of each voxel (I, J, K)."""

    def add_round(self, points: Sequence[Point]) -> None:
        """Take one round of clicks, in voxel indices of :attr:`labels`, and update the result."""


@dataclass(frozen=True)
class InteractiveScores:
    """One case, round by round; index 0 is the automatic result."""

    dice: list[dict[int, float]]
    """Dice of each class that the truth shows, per round."""
    nsd: list[dict[int, float]]
    """Normalised surface Dice, likewise."""
    clicks: list[list[Point]]
    """Clicks that led to each round; empty for round 0 and for rounds without any error."""
    seconds_per_round: list[float]
    """Time to take in the clicks and give the new labels, for each round that had clicks."""


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
) -> InteractiveScores:
    """Score the automatic result, then correct it for some rounds.

    In each round the user clicks once for every class, all from the same result, and hands the clicks over together;
    a click that two classes share is handed over once. Only classes that the truth shows are clicked and scored. A
    round without any error repeats the scores.

    Args:
        session: holds the automatic result of the case.
        truth: (I, J, K) on the grid of ``session.labels``.
        class_ids: classes to play; 0 is left out.
        spacing: voxel size in mm along i, j, k.
        rounds: rounds of clicks after the automatic result.
        jitter_mm: see :func:`s2vnet.evaluation.clicks.next_click`.
        seed: of the draws among equally good clicks and of the jitter.
        false_positive_click: see :func:`s2vnet.evaluation.clicks.next_click`.
        tolerance_mm: of the normalised surface Dice.

    Raises:
        InputError: the shapes differ or are not three-dimensional.
    """
    rng = np.random.default_rng(seed)
    labels = session.labels
    require_same_shape(labels, truth)
    shown = set(np.unique(truth).tolist())
    classes = [c for c in class_ids if c != 0 and c in shown]
    played = InteractiveScores([], [], [[]], [])
    _score(played, labels, truth, classes, spacing, tolerance_mm)
    for _ in range(rounds):
        found = (next_click(labels, truth, c, spacing, rng, jitter_mm, false_positive_click) for c in classes)
        clicks = list(dict.fromkeys(click for click in found if click is not None))
        played.clicks.append(clicks)
        if not clicks:
            played.dice.append(played.dice[-1])
            played.nsd.append(played.nsd[-1])
            continue
        start = time.perf_counter()
        session.add_round(clicks)
        labels = session.labels
        played.seconds_per_round.append(time.perf_counter() - start)
        _score(played, labels, truth, classes, spacing, tolerance_mm)
    return played


def auc(per_round: Sequence[float]) -> float:
    """Area under a score over the rounds with clicks, by trapezoids and not normalised.

    ``per_round`` starts with round 0, which does not count (as in the challenge); with 5 rounds of scores up to 1 the
    largest area is 4.
    """
    return float(np.trapezoid(per_round[1:]))


def clicks_to_reach(dice_per_round: Sequence[float], target: float) -> int | None:
    """Clicks for one class until its Dice is at least ``target``: 0 if the automatic result is; None if never.

    A class gets one click per round, so clicks are rounds; ``dice_per_round`` starts with round 0.
    """
    return next((number for number, score in enumerate(dice_per_round) if score >= target), None)


def _score(
    played: InteractiveScores,
    labels: Labels,
    truth: Labels,
    classes: Sequence[int],
    spacing: Spacing,
    tolerance_mm: float,
) -> None:
    played.dice.append({c: dice(labels == c, truth == c) for c in classes})
    played.nsd.append({c: surface_dice(labels == c, truth == c, spacing, tolerance_mm) for c in classes})
