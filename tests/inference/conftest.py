"""An encoded volume for the tests of sweeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from noise_slices import DEPTH, slices_of

from s2vnet.inference.encoded_volume import EncodedVolume
from s2vnet.model.s2vnet import S2VNet


@pytest.fixture(params=["aggregated", "previous", "none"])
def engine(request: pytest.FixtureRequest, make_model: Callable[..., S2VNet]) -> EncodedVolume:
    """24 slices of noise, encoded, per kind of propagation; weights under which a prompt's reach ends."""
    return EncodedVolume.encode(make_model(reach=0.02, assignment="soft", propagation=request.param), slices_of(DEPTH))
