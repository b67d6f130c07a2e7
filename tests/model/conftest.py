"""Tiny networks for the model's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from s2vnet.config import ModelConfig
from s2vnet.model.s2vnet import S2VNet

MakeModel = Callable[..., S2VNet]


def model_of(**settings: object) -> S2VNet:
    """Network in eval mode with 3 classes and one channel; every weight, zero-initialised ones too, is nonzero."""
    small = {"in_channels": 1, "num_classes": 3, "dim": 32, "mask_dim": 16, "heads": 4}
    torch.manual_seed(0)
    model = S2VNet(ModelConfig.model_validate(small | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def make_model() -> MakeModel:
    """:func:`model_of`, for tests that choose settings."""
    return model_of


@pytest.fixture(scope="session")
def model() -> S2VNet:
    """The default tiny network; tests leave it as it is."""
    return model_of()


@pytest.fixture
def slices() -> torch.Tensor:
    """Two slices (2, 1, 16, 24)."""
    return torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(1))
