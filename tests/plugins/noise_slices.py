"""Slices of noise, clicks on them and their sweeps, for the tests of sweeps."""

from __future__ import annotations

import torch
from torch import Tensor

from s2vnet.inference.sweep import Sweep
from s2vnet.model.prompt_encoder import PROMPT_MAPS

DEPTH, SIZE = 24, 16


def slices_of(depth: int, channels: int = 3) -> Tensor:
    return torch.randn(depth, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def click(class_id: int = 1, place: tuple[int, int] = (5, 9)) -> Tensor:
    """Prompt maps (K, 3, h, w) of one clicked cell."""
    maps = torch.zeros(3, PROMPT_MAPS, SIZE, SIZE)
    maps[class_id, 0, place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2] = 0.5
    maps[class_id, 0, place[0], place[1]] = 1
    return maps


def masks(sweep: Sweep, start: int = 0, stop: int = DEPTH) -> Tensor:
    return torch.cat([sweep[d].masks for d in range(start, stop)])
