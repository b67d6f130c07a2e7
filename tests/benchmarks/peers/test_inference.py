"""Segmentation by slices and by sliding windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.ablation import PHANTOM_PLAN
from benchmarks.peers import inference
from s2vnet.data.preprocess import Case

CPU = torch.device("cpu")


class _Bright(nn.Module):
    """Class 1 where the image is bright."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.full_like(image[:, :1], 0.5), image[:, :1]], 1) * 100


def test_sliding_windows_and_slices_keep_the_grid_of_the_case(cases: list[Case]) -> None:
    case = cases[0]
    wanted = torch.from_numpy(case.image[0] > 0.5)
    scores = inference.segment_volume(_Bright(), torch.from_numpy(case.image), (4, 16, 16), CPU)
    assert torch.equal(scores.argmax(1).bool(), wanted)
    scores = inference.segment_slices(_Bright(), case, PHANTOM_PLAN, (64, 64), CPU)
    assert torch.equal(scores.argmax(1).bool(), wanted)
