from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s2vnet.model.pixel_decoder import Features, Index, PixelDecoder


@pytest.fixture
def features() -> Features:
    """Six slices."""
    torch.manual_seed(0)
    levels = [(torch.randn(6, 3, 1, 1), torch.randn(6, 3, 2, 2)) for _ in range(2)]
    return Features(torch.randn(6, 4, 8, 8), *levels)


def _tensors(features: Features) -> list[Tensor]:
    return [features.mask, *features.keys, *features.values]


def test_maps_keep_their_size_and_widths_follow_the_encoder_up_to_dim() -> None:
    decoder = PixelDecoder((24, 48, 96, 192), dim=64, mask_dim=16, num_classes=5)
    maps = [torch.randn(2, c, 16 // 2**n, 8 // 2**n) for n, c in enumerate((24, 48, 96, 192))]
    mask, pyramid = decoder(maps)
    assert mask.shape == (2, 16, 16, 8)
    assert [tuple(level.shape) for level in pyramid] == [(2, 64, 2, 1), (2, 64, 4, 2), (2, 48, 8, 4)]
    assert decoder.widths == (64, 64, 48)
    assert decoder.auxiliary(mask).shape == (2, 5, 16, 8)


def test_coarse_maps_reach_the_mask_features() -> None:
    decoder = PixelDecoder((8, 8, 8, 8), dim=8, mask_dim=8, num_classes=2)
    maps = [torch.randn(1, 8, 16 // 2**n, 16 // 2**n) for n in range(4)]
    before, _ = decoder(maps)
    after, _ = decoder([*maps[:3], maps[3] + torch.randn_like(maps[3])])
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    "index", [slice(1, 3), [4, 0, 4], torch.tensor([2, 5]), (slice(None), slice(2)), (..., slice(1)), 3]
)
def test_select_indexes_every_tensor(features: Features, index: Index) -> None:
    for part, whole in zip(_tensors(features.select(index)), _tensors(features), strict=True):
        assert torch.equal(part, whole[index])


def test_unflatten_splits_the_batch_axis(features: Features) -> None:
    split = features.unflatten(2)
    assert split.mask.shape == (2, 3, 4, 8, 8)
    for a, b in zip(_tensors(split.select((slice(None), 1))), _tensors(features.select([1, 4])), strict=True):
        assert torch.equal(a, b)


def test_assemble_inverts_select(features: Features) -> None:
    whole = Features.assemble([(range(n, 6, 2), features.select(slice(n, 6, 2))) for n in (1, 0)], 6)
    assert all(map(torch.equal, _tensors(whole), _tensors(features)))


def test_detach_drops_the_gradient(features: Features) -> None:
    for tensor in _tensors(features):
        tensor.requires_grad_()
    detached = _tensors(features.detach())
    assert all(map(torch.equal, detached, _tensors(features)))
    assert not any(tensor.requires_grad for tensor in detached)
