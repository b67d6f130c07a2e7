"""Both sweeps are the decoder along the slices, and each slice's result is their mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from noise_slices import SIZE, slices_of
from torch import Tensor

from s2vnet.inference.sweep import STORAGE_DTYPE, sweep_both_ways
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.s2vnet import S2VNet


def features_of(model: S2VNet, depth: int) -> list[Features]:
    encoded = model.encode(slices_of(depth))
    return [encoded.select(slice(d, d + 1)) for d in range(depth)]


@torch.inference_mode()
@pytest.mark.parametrize("propagation", ["aggregated", "previous", "none"])
def test_a_result_is_the_mean_of_the_decoder_along_the_slices_both_ways(
    make_model: Callable[..., S2VNet], propagation: str
) -> None:
    model, depth = make_model(propagation=propagation), 9
    features = features_of(model, depth)
    expected = torch.zeros(depth, 3, SIZE, SIZE)
    for order, direction in ((range(depth), 1.0), (range(depth)[::-1], -1.0)):
        state = model.initial_state(features[0], torch.tensor([direction]))
        for d in order:
            decoded = model.decode(features[d], state)
            masks = decoded.logits.softmax(1) if propagation == "none" else decoded.state.masks
            state = decoded.state._replace(
                masks=torch.zeros_like(masks) if propagation == "none" else masks.to(STORAGE_DTYPE).float()
            )
            expected[d] += masks[0].to(STORAGE_DTYPE).float() / 2
    found = dict(part for passed in sweep_both_ways(model, features.__getitem__, depth, {}) for part in passed)
    assert sorted(found) == list(range(depth))
    assert torch.equal(torch.cat([found[d] for d in range(depth)]), expected)


@torch.inference_mode()
@pytest.mark.parametrize("depth", [1, 2, 7, 8])
def test_slices_are_passed_from_the_middle_to_both_ends(make_model: Callable[..., S2VNet], depth: int) -> None:
    model, pending = make_model(), dict[int, list[Tensor]]()
    features = features_of(model, depth)
    told = [[d for d, _ in passed] for passed in sweep_both_ways(model, features.__getitem__, depth, pending)]
    assert sorted(pending) == list(range(depth))
    for step, indices in enumerate(told):  # steps of the first half pass none
        assert set(indices) == ({step, depth - 1 - step} if 2 * step >= depth - 1 else set())
    assert sum(map(len, told)) == depth
