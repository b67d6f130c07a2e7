from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from s2vnet.config import ModelConfig, Propagation
from s2vnet.model.aggregation import Aggregator, PropagationState

B, K, D = 2, 3, 8


def _state(known: float) -> PropagationState:
    return PropagationState(
        centres=torch.randn(B, K, D),
        known=torch.full((B, K), known),
        missed=torch.zeros(B, K),
        masks=torch.rand(B, K, 4, 4),
        direction=torch.tensor([1.0, -1.0]),
    )


def _aggregator(propagation: Propagation, **other: bool) -> Aggregator:
    torch.manual_seed(0)
    return Aggregator(ModelConfig(in_channels=1, num_classes=K, dim=D, propagation=propagation, **other))


class AggregatorInput(NamedTuple):
    """Inputs of the aggregator from one slice."""

    centres: Tensor
    presence: Tensor
    logits: Tensor


def _slice(present: bool) -> AggregatorInput:
    """A slice that shows all classes, or background alone."""
    presence = torch.full((B, K), 3.0 if present else -3.0)
    return AggregatorInput(torch.randn(B, K, D), presence, torch.randn(B, K, 4, 4) * 0.1)


def test_without_propagation_the_state_is_unchanged() -> None:
    state = _state(1)
    assert _aggregator("none")(state, *_slice(True)) is state


@pytest.mark.parametrize("propagation", ["previous", "aggregated"])
def test_the_first_centre_of_a_class_is_carried_unchanged(propagation: Propagation) -> None:
    left = _slice(True)
    state = _aggregator(propagation)(_state(0), *left)
    torch.testing.assert_close(state.centres, left.centres)
    assert torch.equal(state.known, torch.ones(B, K))
    torch.testing.assert_close(state.masks, left.logits.softmax(1))
    assert torch.equal(state.direction, torch.tensor([1.0, -1.0]))


def test_previous_replaces_the_centre_and_aggregated_interpolates() -> None:
    before, left = _state(1), _slice(True)
    centres = left.centres
    assert torch.equal(_aggregator("previous")(before, *left).centres, centres)
    mixed = _aggregator("aggregated")(before, *left).centres
    share = (mixed - before.centres) / (centres - before.centres)
    torch.testing.assert_close(share, share[..., :1].expand_as(share), atol=1e-3, rtol=1e-3)
    assert ((share > 0) & (share < 1)).all()


@pytest.mark.parametrize("propagation", ["previous", "aggregated"])
def test_a_centre_is_dropped_after_two_slices_without_its_class(propagation: Propagation) -> None:
    aggregator, seen = _aggregator(propagation), _state(1)
    once = aggregator(seen, *_slice(False))
    assert torch.equal(once.centres[:, 1:], seen.centres[:, 1:])
    assert torch.equal(once.known, torch.ones(B, K))
    assert torch.equal(once.missed, torch.tensor([[0.0, 1, 1]] * B))
    twice = aggregator(once, *_slice(False))
    assert torch.equal(twice.known, torch.tensor([[1.0, 0, 0]] * B))


def test_a_class_present_between_two_absences_stays_known() -> None:
    aggregator, state = _aggregator("aggregated"), _state(1)
    for present in (False, True, False):
        state = aggregator(state, *_slice(present))
    assert torch.equal(state.known, torch.ones(B, K))


def test_background_is_always_present() -> None:
    aggregator, state = _aggregator("previous"), _state(0)
    for _ in range(3):
        left = _slice(False)
        state = aggregator(state, *left)
        assert torch.equal(state.centres[:, 0], left.centres[:, 0])
    assert torch.equal(state.known[:, 0], torch.ones(B))
    assert torch.equal(state.missed[:, 0], torch.zeros(B))


def test_a_class_without_area_is_absent_whatever_its_presence() -> None:
    left = _slice(True)
    left.logits[:, 2] = -30
    state = _aggregator("previous")(_state(1), *left)
    assert torch.equal(state.missed, torch.tensor([[0.0, 0, 1]] * B))


def test_reset_affects_the_given_classes_only() -> None:
    state = _state(1)
    left = state.reset(torch.tensor([[0.0, 1, 0], [0, 0, 0]]))
    assert torch.equal(left.known, torch.tensor([[1.0, 0, 1], [1, 1, 1]]))
    assert left.masks[0, 1].abs().sum() == 0
    assert torch.equal(left.masks[1], state.masks[1])
    assert torch.equal(left.masks[0, [0, 2]], state.masks[0, [0, 2]])
    assert left.centres is state.centres


def test_without_through_time_only_the_gate_gets_gradients_from_later_slices() -> None:
    aggregator, before = _aggregator("aggregated", through_time=False), _state(1)
    left = [part.requires_grad_() for part in _slice(True)]
    state = aggregator(before._replace(centres=before.centres.requires_grad_()), *left)
    state.centres.square().sum().backward()
    assert all(part.grad is None for part in (before.centres, *left))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aggregator.parameters())
    assert not state.masks.requires_grad


def test_through_time_gradients_flow_into_earlier_slices() -> None:
    left = [part.requires_grad_() for part in _slice(True)]
    state = _aggregator("aggregated")(_state(1), *left)
    sum(part.square().sum() for part in (state.centres, state.masks)).backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in left)
