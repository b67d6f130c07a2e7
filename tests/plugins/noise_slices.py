"""Slices of noise, for the tests of sweeps."""

from __future__ import annotations

import torch
from torch import Tensor

DEPTH, SIZE = 24, 16


def slices_of(depth: int, channels: int = 3) -> Tensor:
    return torch.randn(depth, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
