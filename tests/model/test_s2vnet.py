from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.interface import DecoderOutput, SliceInput
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.s2vnet import S2VNet

MakeModel = Callable[..., S2VNet]
PRIOR = {"map_embedding.weight", "map_embedding.bias", *(f"layers.{n}.prior_weight" for n in range(3))}
"""Parameters that see nothing but carried masks."""


def _carried(model: S2VNet, features: Features) -> PropagationState:
    """A state in which every class has been seen."""
    generator = torch.Generator().manual_seed(3)
    state = model.initial_state(features, torch.tensor([1.0, -1.0]))
    return state._replace(
        centres=torch.randn(state.centres.shape, generator=generator),
        known=torch.ones_like(state.known),
        masks=torch.randn(state.masks.shape, generator=generator).softmax(1),
    )


def _close(found: DecoderOutput, wanted: DecoderOutput) -> None:
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.presence, wanted.presence, atol=1e-4, rtol=1e-4)
    for a, b in zip((*found.layer_logits, *found.state), (*wanted.layer_logits, *wanted.state), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_shapes(make_model: MakeModel, stride: int) -> None:
    model = make_model(stem_stride=stride, layers_per_level=2, in_channels=3)
    assert model.stride == 8 * stride
    features = model.encode(torch.randn(2, 3, 8 * stride, 16 * stride))
    decoded = model.decode(features, model.initial_state(features))
    assert decoded.logits.shape == decoded.state.masks.shape == model.auxiliary(features).shape == (2, 3, 8, 16)
    assert decoded.presence.shape == (2, 3)
    sizes = [tuple(level.shape) for level in decoded.layer_logits]
    assert sizes == [(2, 3, n, 2 * n) for n in (1, 1, 2, 2, 4, 4)]


@torch.no_grad()
def test_slices_are_independent_of_their_batch(model: S2VNet, slices: Tensor) -> None:
    features = model.encode(slices)
    for n in range(2):
        alone = model.encode(slices[n : n + 1])
        same = features.select(slice(n, n + 1))
        for a, b in zip((alone.mask, *alone.keys, *alone.values), (same.mask, *same.keys, *same.values), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    together = model.decode(features, _carried(model, features))
    state = _carried(model, features)
    one = PropagationState(*(part[1:] for part in state))
    torch.testing.assert_close(
        model.decode(features.select(slice(1, 2)), one).logits, together.logits[1:], atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_permuting_the_classes_permutes_the_result(make_model: MakeModel, slices: Tensor) -> None:
    order = [0, 2, 3, 1]
    model, permuted = make_model(num_classes=4), make_model(num_classes=4)
    for parameter in (permuted.initial_centres, permuted.identity, *permuted.pixel_decoder.auxiliary.parameters()):
        parameter.copy_(parameter[order].clone())
    features = model.encode(slices)
    for start in (model.initial_state(features), _carried(model, features)):
        wanted = model.decode(features, start)
        moved = PropagationState(*(part[:, order] for part in start[:4]), *start[4:])
        found = permuted.decode(features, moved)
        back = [order.index(k) for k in range(4)]
        state = PropagationState(*(part[:, back] for part in found.state[:4]), *found.state[4:])
        levels = tuple(level[:, back] for level in found.layer_logits)
        _close(DecoderOutput(found.logits[:, back], found.presence[:, back], levels, state), wanted)
    torch.testing.assert_close(permuted.auxiliary(features), model.auxiliary(features)[:, order])


@torch.inference_mode()
def test_slices_are_decoded_as_in_a_batch(model: S2VNet, slices: Tensor) -> None:
    features = model.encode(slices)
    state = _carried(model, features)
    together = model.decode(features, state)
    rows = [
        SliceInput(features.select(one), PropagationState(*(part[one] for part in state)))
        for one in (slice(n, n + 1) for n in range(len(slices)))
    ]
    for decode in (model.decode_slices, model._decode_batch):  # on a CPU, and as on a GPU
        for count in range(1, len(rows) + 1):
            found = decode(rows[:count])
            assert len(found) == count
            for one, wanted in zip(found, together.split()[:count], strict=True):
                torch.testing.assert_close(one.logits, wanted.logits, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(one.state.masks, wanted.state.masks, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_direction_and_state_change_the_result_unless_disabled(make_model: MakeModel, slices: Tensor) -> None:
    model = make_model()
    features = model.encode(slices)
    start = model.initial_state(features)
    assert torch.equal(start.direction, torch.zeros(2))
    plain = model.decode(features, start).logits
    rising = model.decode(features, start._replace(direction=torch.ones(2))).logits
    assert not torch.allclose(plain, rising)
    masks = _carried(model, features).masks
    assert not torch.allclose(plain, model.decode(features, start._replace(masks=masks)).logits)
    model = make_model(mask_prior=False)
    with_masks = model.decode(features, start._replace(masks=masks)).logits
    assert torch.equal(with_masks, model.decode(features, start).logits)


@torch.no_grad()
def test_without_propagation_slices_are_independent(make_model: MakeModel, slices: Tensor) -> None:
    model = make_model(propagation="none")
    features = model.encode(slices)
    start = model.initial_state(features)
    assert model.decode(features, start).state is start


def test_auxiliary_masks_are_added_to_those_of_the_centres(make_model: MakeModel, slices: Tensor) -> None:
    plain, added = make_model(), make_model(auxiliary_masks=True)
    added.load_state_dict(plain.state_dict())
    features = plain.encode(slices)
    outputs = [model.decode(features, model.initial_state(features)) for model in (plain, added)]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits + plain.auxiliary(features))


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        ({}, set()),
        ({"assignment": "soft", "layers_per_level": 2}, set()),
        ({"propagation": "previous"}, {"aggregator.gate.weight", "aggregator.gate.bias"}),
        ({"propagation": "none"}, {"aggregator.gate.weight", "aggregator.gate.bias", *PRIOR}),
        ({"mask_prior": False}, PRIOR),
    ],
)
def test_every_enabled_parameter_has_a_gradient(
    make_model: MakeModel, settings: dict[str, object], without: set[str]
) -> None:
    model = make_model(**settings)
    encoded = model.encode(torch.randn(3, 1, 16, 24))
    state = model.initial_state(encoded.select(slice(1)), torch.ones(1))
    nn.init.constant_(model.presence.bias, 2.0)  # so that classes are seen and centres carried
    parts = [model.auxiliary(encoded).square().mean()]
    for t in range(3):
        decoded = model.decode(encoded.select(slice(t, t + 1)), state)
        state = decoded.state
        affinities = [level.log_softmax(1)[:, 0].mean() for level in decoded.layer_logits]
        parts += [decoded.logits.log_softmax(1)[:, 1].mean(), decoded.presence.sum(), *affinities]
    torch.stack(parts).sum().backward()
    dead = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead == without
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class _Decode(nn.Module):
    def __init__(self, model: S2VNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Features, state: PropagationState) -> DecoderOutput:
        return self.model.decode(features, state)


@torch.no_grad()
def test_decode_can_be_exported(model: S2VNet, slices: Tensor) -> None:
    features = model.encode(slices)
    exported = torch.export.export(_Decode(model), (features, model.initial_state(features))).module()
    others: Sequence[tuple[Features, PropagationState]] = [
        (features, _carried(model, features)),
        (features.select([1, 0]), _carried(model, features)),
    ]
    for arguments in others:
        _close(exported(*arguments), model.decode(*arguments))


@pytest.mark.parametrize("settings", [{"dim": 36}, {"mask_dim": 12}, {"dim": 40, "heads": 3}])
def test_indivisible_widths_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        S2VNet(ModelConfig.model_validate({"in_channels": 1, "num_classes": 2} | settings))
