from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.config import ModelConfig
from s2vnet.errors import InputError
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.interface import DecoderOutput, SliceInput
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.s2vnet import S2VNet, _pyramid

MakeModel = Callable[..., S2VNet]


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
    decoded = model.decode(features, model.initial_state(features), torch.zeros(2, 3, 4, 8, 16))
    assert decoded.logits.shape == decoded.state.masks.shape == model.auxiliary(features).shape == (2, 3, 8, 16)
    assert decoded.presence.shape == (2, 3)
    sizes = [tuple(level.shape) for level in decoded.layer_logits]
    assert sizes == [(2, 3, n, 2 * n) for n in (1, 1, 2, 2, 4, 4)]


@torch.no_grad()
def test_slices_are_independent_of_their_batch(model: S2VNet, slices: Tensor, prompts: Tensor) -> None:
    features = model.encode(slices)
    for n in range(2):
        alone = model.encode(slices[n : n + 1])
        same = features.select(slice(n, n + 1))
        for a, b in zip((alone.mask, *alone.keys, *alone.values), (same.mask, *same.keys, *same.values), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    together = model.decode(features, _carried(model, features), prompts)
    state = _carried(model, features)
    one = PropagationState(*(part[1:] for part in state))
    torch.testing.assert_close(
        model.decode(features.select(slice(1, 2)), one, prompts[1:]).logits, together.logits[1:], atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_permuting_the_classes_permutes_the_result(make_model: MakeModel, slices: Tensor, prompts: Tensor) -> None:
    order = [0, 2, 3, 1]
    model, permuted = make_model(num_classes=4), make_model(num_classes=4)
    for parameter in (permuted.initial_centres, permuted.identity, *permuted.pixel_decoder.auxiliary.parameters()):
        parameter.copy_(parameter[order].clone())
    prompts = torch.cat([prompts, prompts[:, 2:].flip(-1)], 1)
    features = model.encode(slices)
    for start in (model.initial_state(features), _carried(model, features)):
        wanted = model.decode(features, start, prompts)
        moved = PropagationState(*(part[:, order] for part in start[:6]), *start[6:])
        found = permuted.decode(features, moved, prompts[:, order])
        back = [order.index(k) for k in range(4)]
        state = PropagationState(*(part[:, back] for part in found.state[:6]), *found.state[6:])
        levels = tuple(level[:, back] for level in found.layer_logits)
        _close(DecoderOutput(found.logits[:, back], found.presence[:, back], levels, state), wanted)
    torch.testing.assert_close(permuted.auxiliary(features), model.auxiliary(features)[:, order])


@torch.no_grad()
def test_the_prompt_centre_of_an_unprompted_class_changes_nothing(
    make_model: MakeModel, slices: Tensor, prompts: Tensor
) -> None:
    model = make_model()
    features = model.encode(slices)
    before = model.decode(features, model.initial_state(features), prompts)
    model.prompt_identity.add_(3)
    for parameter in model.prompt_centre.parameters():
        parameter.add_(torch.randn_like(parameter))
    after = model.decode(features, model.initial_state(features), prompts)
    assert torch.equal(after.logits[1], before.logits[1])
    assert not torch.allclose(after.logits[0], before.logits[0])


@torch.no_grad()
def test_no_prompts_equal_zero_prompts_bit_for_bit(model: S2VNet, slices: Tensor) -> None:
    features = model.encode(slices)
    state = model.initial_state(features, torch.tensor([1.0, -1.0]))
    for _ in range(2):
        none, zeros = (model.decode(features, state, maps) for maps in (None, torch.zeros(2, 3, 4, 16, 24)))
        assert torch.equal(none.logits, zeros.logits)
        for a, b in zip((*none.layer_logits, *none.state), (*zeros.layer_logits, *zeros.state), strict=True):
            assert torch.equal(a, b)
        state = none.state._replace(prompted=torch.ones_like(state.prompted))


@torch.inference_mode()
def test_unused_prompt_centres_can_be_left_out(model: S2VNet, slices: Tensor) -> None:
    features = model.encode(slices)
    state = _carried(model, features)
    state = state._replace(prompted=torch.zeros_like(state.prompted))
    with_rows, without = (model.decode(features, state, None, carried=carried) for carried in (True, False))
    for a, b in zip((with_rows.logits, with_rows.presence), (without.logits, without.presence), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for name in set(PropagationState._fields) - {
        "prompt_centres"
    }:  # nobody reads centres of prompts that there are not
        torch.testing.assert_close(getattr(with_rows.state, name), getattr(without.state, name), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_slices_are_decoded_as_in_a_batch(model: S2VNet, slices: Tensor, prompts: Tensor) -> None:
    features = model.encode(slices)
    state = _carried(model, features)
    together = model.decode(features, state, prompts)
    rows = [
        SliceInput(features.select(one), PropagationState(*(part[one] for part in state)), prompts[one])
        for one in (slice(n, n + 1) for n in range(len(slices)))
    ]
    for decode in (model.decode_slices, model._decode_batch):  # on a CPU, and as on a GPU
        for count in range(1, len(rows) + 1):
            found = decode(rows[:count])
            assert len(found) == count
            for one, wanted in zip(found, together.split()[:count], strict=True):
                torch.testing.assert_close(one.logits, wanted.logits, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(one.state.masks, wanted.state.masks, atol=1e-4, rtol=1e-4)
    without = [rows[0], rows[1]._replace(prompts=None)]
    for one, alone in zip(model._decode_batch(without), map(model._decode_one, without), strict=True):
        torch.testing.assert_close(one.logits, alone.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_only_prompted_cells_make_a_prompt_centre_valid(model: S2VNet, slices: Tensor) -> None:
    features = model.encode(slices)
    maps = torch.zeros(2, 3, 4, 16, 24)
    maps[0, 1, 0, 4, 4], maps[1, 1, 0, 4, 4] = 0.5, 1
    positive = [*_pyramid(maps[:, :, 0], features.keys, F.max_pool2d), maps[:, :, 0]]
    _, valid, fresh = model._initial_centres(features, model.initial_state(features), positive)
    assert valid.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0]]
    assert fresh.tolist() == [[0, 0, 0], [0, 1, 0]]


@torch.no_grad()
def test_carried_and_new_prompt_centres_are_averaged(model: S2VNet, slices: Tensor, prompts: Tensor) -> None:
    features, positive = model.encode(slices), prompts[:, :, 0]
    maps = [*_pyramid(positive, features.keys, F.max_pool2d), positive]
    state, k = model.initial_state(features), model.config.num_classes
    fresh, now, _ = model._initial_centres(features, state, maps)
    old = torch.randn(2, k, model.config.dim)
    carried = state._replace(prompt_centres=old, prompted=torch.ones(2, k))
    rows, valid, here = model._initial_centres(features, carried, maps)
    assert valid.all()
    assert torch.equal(here, now[:, k:])
    assert torch.equal(rows[:, :k], fresh[:, :k])
    here, before = here.bool(), model.centre_norm(old)
    assert here.any()
    assert not here.all()
    torch.testing.assert_close(rows[:, k:][~here], before[~here])
    torch.testing.assert_close(rows[:, k:][here], (before[here] + fresh[:, k:][here]) / 2)
    unprompted = torch.zeros_like(prompts)
    one = state._replace(prompt_centres=old, prompted=torch.tensor([[0.0, 1, 0], [0, 0, 0]]))
    plain, told = (model.decode(features, s, unprompted).logits for s in (state, one))
    assert torch.equal(told[1], plain[1])
    assert not torch.allclose(told[0], plain[0])


@torch.no_grad()
def test_prompts_decide_the_assignment_on_coarse_maps(model: S2VNet, slices: Tensor, prompts: Tensor) -> None:
    features = model.encode(slices)
    decoded = model.decode(features, model.initial_state(features), prompts)
    finest = decoded.layer_logits[-1][0]
    assert finest.argmax(0)[3, 3] == 1


@torch.no_grad()
def test_direction_and_state_change_the_result_unless_disabled(make_model: MakeModel, slices: Tensor) -> None:
    model = make_model()
    features, none = model.encode(slices), torch.zeros(2, 3, 4, 16, 24)
    start = model.initial_state(features)
    assert torch.equal(start.direction, torch.zeros(2))
    plain = model.decode(features, start, none).logits
    rising = model.decode(features, start._replace(direction=torch.ones(2)), none).logits
    assert not torch.allclose(plain, rising)
    masks = _carried(model, features).masks
    assert not torch.allclose(plain, model.decode(features, start._replace(masks=masks), none).logits)
    model = make_model(mask_prior=False)
    with_masks = model.decode(features, start._replace(masks=masks), none).logits
    assert torch.equal(with_masks, model.decode(features, start, none).logits)


@torch.no_grad()
def test_without_propagation_slices_are_independent(make_model: MakeModel, slices: Tensor) -> None:
    model = make_model(propagation="none")
    features = model.encode(slices)
    start = model.initial_state(features)
    assert model.decode(features, start, torch.zeros(2, 3, 4, 16, 24)).state is start


def test_auxiliary_masks_are_added_to_those_of_the_centres(make_model: MakeModel, slices: Tensor) -> None:
    plain, added = make_model(), make_model(auxiliary_masks=True)
    added.load_state_dict(plain.state_dict())
    features = plain.encode(slices)
    outputs = [model.decode(features, model.initial_state(features), None) for model in (plain, added)]
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits + plain.auxiliary(features))


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        ({}, set()),
        ({"assignment": "soft", "layers_per_level": 2}, set()),
        ({"propagation": "previous"}, {"aggregator.gate.weight", "aggregator.gate.bias"}),
        ({"propagation": "none"}, {"aggregator.gate.weight", "aggregator.gate.bias"}),
        ({"mask_prior": False}, {f"layers.{n}.prior_weight" for n in range(3)}),
    ],
)
def test_every_enabled_parameter_has_a_gradient(
    make_model: MakeModel, prompts: Tensor, settings: dict[str, object], without: set[str]
) -> None:
    model = make_model(**settings)
    encoded = model.encode(torch.randn(3, 1, 16, 24))
    state = model.initial_state(encoded.select(slice(1)), torch.ones(1))
    nn.init.constant_(model.presence.bias, 2.0)  # so that classes are seen and centres carried
    parts = [model.auxiliary(encoded).square().mean()]
    for t in range(3):
        decoded = model.decode(encoded.select(slice(t, t + 1)), state, prompts[:1])
        state = decoded.state
        affinities = [level.log_softmax(1)[:, 0].mean() for level in decoded.layer_logits]
        parts += [decoded.logits.log_softmax(1)[:, 1].mean(), decoded.presence.sum(), *affinities]
    torch.stack(parts).sum().backward()
    dead = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    if settings.get("propagation") == "none":  # then no mask is carried either
        dead -= {f"layers.{n}.prior_weight" for n in range(3)}
    assert dead == without
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class _Decode(nn.Module):
    def __init__(self, model: S2VNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Features, state: PropagationState, prompts: Tensor) -> DecoderOutput:
        return self.model.decode(features, state, prompts)


@torch.no_grad()
def test_decode_can_be_exported(model: S2VNet, slices: Tensor, prompts: Tensor) -> None:
    features = model.encode(slices)
    exported = torch.export.export(_Decode(model), (features, model.initial_state(features), prompts)).module()
    others: Sequence[tuple[Features, PropagationState, Tensor]] = [
        (features, _carried(model, features), torch.zeros_like(prompts)),
        (features.select([1, 0]), _carried(model, features), prompts.flip(0)),
    ]
    for arguments in others:
        _close(exported(*arguments), model.decode(*arguments))


@pytest.mark.parametrize("settings", [{"dim": 36}, {"mask_dim": 12}, {"dim": 40, "heads": 3}])
def test_indivisible_widths_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        S2VNet(ModelConfig.model_validate({"in_channels": 1, "num_classes": 2} | settings))
