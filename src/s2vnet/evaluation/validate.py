"""Evaluation of a trained network on labeled cases, automatic and interactive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from s2vnet.data.label_definitions import IGNORED, hide_ignored
from s2vnet.errors import InputError
from s2vnet.evaluation.protocol import run_click_rounds
from s2vnet.evaluation.report import automatic_report, interactive_report
from s2vnet.evaluation.simulated_clicks import FalsePositiveClick
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.metrics.overlap_and_distance import class_metrics, region_metrics
from s2vnet.utils.names import some_names

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
    """Score automatic segmentation and, if `rounds` is above 0, rounds of simulated clicks on each case.

    Voxels whose true label is :data:`s2vnet.data.label_definitions.IGNORED` do not count. The regions of the model's
    plan are scored, too.

    Returns:
        ``{"automatic": {...}, "interactive": {...}}`` as :mod:`s2vnet.evaluation.report` builds them.

    Raises:
        InputError: image and labels have different grids, unknown label values, or an ensemble.
    """
    classes = {k: name for k, name in segmenter.class_names.items() if k}
    regions = segmenter.plan.regions
    scores, region_scores, interactive_scores, seconds = {}, {}, {}, []
    for name, volume, truth in cases:
        volume.geometry.require_same_grid(truth.geometry, f"{name}: image and labels")
        unknown = sorted(set(np.unique(truth.data).tolist()) - {*segmenter.class_names, IGNORED})
        if unknown:
            raise InputError(
                f"{name}: label values {some_names(unknown)} are no classes of the model; correct the labels"
            )
        start = time.perf_counter()
        session = Session(segmenter, volume)
        seconds.append(time.perf_counter() - start)
        spacing = truth.geometry.spacing
        labels = hide_ignored(session.labels, truth.data)
        scores[name] = class_metrics(labels, truth.data, classes, spacing)
        region_scores[name] = region_metrics(labels, truth.data, regions, spacing)
        if rounds:
            interactive_scores[name] = run_click_rounds(
                session, truth.data, classes, spacing, rounds, jitter_mm, seed, false_positive_click, regions=regions
            )
        done(name)
    report = automatic_report(scores, classes, region_scores)
    report["automatic"]["seconds_per_case"] = sum(seconds) / max(1, len(seconds))
    return report | interactive_report(interactive_scores, classes, rounds) if rounds else report
