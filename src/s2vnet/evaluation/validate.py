"""A trained network on labelled cases, in both modes: what ``evaluate`` and the end of a training report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from s2vnet.errors import InputError
from s2vnet.evaluation.clicks import FalsePositiveClick
from s2vnet.evaluation.protocol import InteractiveScores, run_click_rounds
from s2vnet.evaluation.report import automatic_report, interactive_report
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.metrics.segmentation import class_metrics

LabelledCase = tuple[str, Volume, LabelMap]


def validate(
    segmenter: Segmenter,
    cases: Iterable[LabelledCase],
    *,
    rounds: int = 5,
    jitter_mm: float = 0.0,
    false_positive_click: FalsePositiveClick = "true-class",
    seed: int = 42,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Automatic scores and, with `rounds` above 0, a simulated user's rounds from the same cached features.

    Returns:
        ``{"automatic": {...}, "interactive": {...}}`` as :mod:`s2vnet.evaluation.report` builds them.

    Raises:
        InputError: image and labels on different grids, label values that the model does not know, or an ensemble.
    """
    classes = {k: name for k, name in segmenter.class_names.items() if k}
    scores, played, first = {}, {}, []
    for name, volume, truth in cases:
        volume.geometry.require_same_grid(truth.geometry, f"{name}: image and labels")
        unknown = sorted(set(np.unique(truth.data).tolist()) - set(segmenter.class_names))
        if unknown:
            raise InputError(f"{name}: the model does not know label values {unknown}; correct the labels")
        start = time.perf_counter()
        session = Session(segmenter, volume)
        first.append(time.perf_counter() - start)
        spacing = truth.geometry.spacing
        scores[name] = class_metrics(session.labels, truth.data, classes, spacing)
        if rounds:
            played[name] = _play(session, truth, list(classes), rounds, jitter_mm, seed, false_positive_click)
        done(name)
    report = automatic_report(scores, classes)
    report["automatic"]["seconds_per_case"] = sum(first) / max(1, len(first))
    return report | interactive_report(played, classes, rounds) if rounds else report


def _play(
    session: Session,
    truth: LabelMap,
    classes: list[int],
    rounds: int,
    jitter_mm: float,
    seed: int,
    false_positive_click: FalsePositiveClick,
) -> InteractiveScores:
    return run_click_rounds(
        session, truth.data, classes, truth.geometry.spacing, rounds, jitter_mm, seed, false_positive_click
    )
