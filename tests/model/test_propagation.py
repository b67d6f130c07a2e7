from __future__ import annotations

import torch

from s2vnet.model.propagation import propagate
from s2vnet.model.s2vnet import S2VNet


def test_each_step_starts_from_the_state_of_the_previous_one(model: S2VNet) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        features = model.encode(torch.randn(3, 1, 8, 8))
        sequence = [features.select(slice(t, t + 1)) for t in range(3)]
        state = model.initial_state(sequence[0])
        found = list(propagate(model.decode, sequence, state))
        for slices, decoded in zip(sequence, found, strict=True):
            wanted = model.decode(slices, state)
            state = wanted.state
            assert torch.equal(decoded.logits, wanted.logits)
            assert all(map(torch.equal, decoded.state, state))


def test_slices_are_decoded_lazily(model: S2VNet) -> None:
    features = model.encode(torch.randn(2, 1, 8, 8))
    sequence = (features.select(slice(t, t + 1)) for t in range(2))
    steps = propagate(model.decode, sequence, model.initial_state(features.select(slice(1))))
    next(steps)
    assert len(list(sequence)) == 1


def test_no_slices_give_nothing(model: S2VNet) -> None:
    state = model.initial_state(model.encode(torch.randn(1, 1, 8, 8)))
    assert list(propagate(model.decode, [], state)) == []
