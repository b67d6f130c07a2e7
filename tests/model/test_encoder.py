from __future__ import annotations

import pytest
import torch

from s2vnet.errors import InputError
from s2vnet.model.encoder import ENCODERS, make_encoder


@pytest.mark.parametrize(
    ("name", "stride"),
    [("tiny", 1), ("tiny", 2), ("tiny", 4), ("small", 2), ("resnet18", 1), ("resnet34", 2), ("efficientnet-lite0", 2)],
)
def test_maps_have_strides_s_2s_4s_8s(name: str, stride: int) -> None:
    _check_strides(name, stride)


def test_the_papers_backbone_has_the_same_strides() -> None:
    _check_strides("resnet50", 4)


def _check_strides(name: str, stride: int) -> None:
    encoder = make_encoder(name, in_channels=3, stem_stride=stride).eval()
    height, width = 8 * stride, 16 * stride
    with torch.no_grad():
        maps = encoder(torch.randn(2, 3, height, width))
    for level, (channels, found) in enumerate(zip(encoder.channels, maps, strict=True)):
        assert found.shape == (2, channels, height // (stride * 2**level), width // (stride * 2**level))


@pytest.mark.parametrize("name", ["tiny", "efficientnet-lite0"])
@torch.no_grad()
def test_slices_are_encoded_independently_in_training_mode(name: str) -> None:
    encoder = make_encoder(name, in_channels=1, stem_stride=2).train()
    slices = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for together, alone in zip(encoder(slices), encoder(slices[:1]), strict=True):
        torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)


def test_every_encoder_is_tested() -> None:
    assert set(ENCODERS) == {"tiny", "compact", "small", "resnet18", "resnet34", "resnet50", "efficientnet-lite0"}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown encoder 'vit'; choose one of tiny, .*resnet50"):
        make_encoder("vit", 1, 1)
