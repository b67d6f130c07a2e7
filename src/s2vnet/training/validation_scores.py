"""Quick validation during training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.optim.swa_utils import AveragedModel

from s2vnet.data.label_definitions import IGNORED, hide_ignored
from s2vnet.data.preprocess import Case
from s2vnet.inference.segmenter import Segmenter
from s2vnet.metrics.overlap_and_distance import dice
from s2vnet.model.checkpoint import TrainedModel
from s2vnet.model.clustering import argmax_class
from s2vnet.model.s2vnet import S2VNet

QUICK_CASES = 6
"""Validation cases scored during training; all cases are scored at its end."""


def quick_scores(average: AveragedModel, cases: Sequence[Case], plan: dict[str, Any], folder: Path) -> dict[str, float]:
    """Score the averaged weights: mean automatic Dice on the mask grid; write ``sample.png`` of the first case.

    Args:
        average: averaged weights.
        cases: labelled cases; an empty dictionary is returned without cases or defined scores.
        plan: preprocessing plan as JSON.
        folder: output folder of the run.
    """
    from s2vnet.training.logging import write_sample

    if not cases:
        return {}
    network = cast(S2VNet, average.module.eval())
    segmenter = Segmenter([TrainedModel(network, plan, {}, "")], device=str(next(network.parameters()).device))
    scores: list[float] = []
    for number, case in enumerate(cases):
        assert case.labels is not None
        predicted = argmax_class(segmenter.segment_case(case).scores).cpu().numpy()
        stride = case.labels.shape[1] // predicted.shape[1]
        truth = case.labels[:, stride // 2 :: stride, stride // 2 :: stride]
        known = hide_ignored(predicted, truth)
        scores += [dice(known == k, truth == k) for k in segmenter.class_names if k]
        if number == 0:
            write_sample(folder / "sample.png", case, predicted, np.where(truth == IGNORED, 0, truth))
    defined = [score for score in scores if not np.isnan(score)]  # undefined for classes absent from both
    return {"dice": float(np.mean(defined))} if defined else {}
