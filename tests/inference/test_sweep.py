"""Prompted sweeps start from the automatic ones, and say what they may have changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from noise_slices import DEPTH, SIZE, click, masks, slices_of

from s2vnet.inference.encoded_volume import EncodedVolume
from s2vnet.model.prompt_encoder import PROMPT_MAPS
from s2vnet.model.s2vnet import S2VNet


@pytest.mark.parametrize("d", [0, 11, DEPTH - 1])
def test_a_prompted_sweep_starts_from_the_automatic_one(engine: EncodedVolume, d: int) -> None:
    empty = engine.sweep({d: torch.zeros(3, PROMPT_MAPS, SIZE, SIZE)})
    for found, automatic in zip(empty, engine.automatic, strict=True):
        assert torch.equal(masks(found), masks(automatic))
        assert found.changed == range(d, d + 1)


@torch.inference_mode()
def test_a_prompted_sweep_is_the_decoder_along_the_slices_until_it_agrees_again(engine: EncodedVolume) -> None:
    prompts = {11: click(), 12: click(2, (9, 4))}
    rising, falling = engine.sweep(prompts)
    for sweep, base, step in zip((rising, falling), engine.automatic, (1, -1), strict=True):
        first = 11 if step == 1 else 12
        order = sorted(sweep.slices)[::step]
        assert order == list(range(first, first + step * len(order), step))
        state = base[first - step].state
        carried = engine.model.config.propagation != "none"
        state = state._replace(masks=base[first - step].masks.float() * carried)
        for d in order:
            maps = prompts.get(d, torch.zeros(3, PROMPT_MAPS, SIZE, SIZE))[None]
            decoded = engine.model.decode(engine.features.select(slice(d, d + 1)), state, maps)
            torch.testing.assert_close(decoded.logits.softmax(1), sweep[d].masks.float(), atol=2e-3, rtol=0)
            state = decoded.state
            agrees = torch.equal(sweep[d].masks.argmax(1), base[d].masks.argmax(1))
            assert agrees == (d == order[-1]) or d in prompts or d in (0, engine.depth - 1)
        assert len(order) < DEPTH


def test_changed_ranges_cover_every_difference(engine: EncodedVolume) -> None:
    for prompted, automatic in zip(engine.sweep({5: click(), 17: click(2)}), engine.automatic, strict=True):
        different = (masks(prompted) != masks(automatic)).any(-1).any(-1).any(-1).nonzero()[:, 0].tolist()
        assert different
        assert set(different) <= set(prompted.changed)


def test_a_prompted_result_does_not_depend_on_earlier_ones(engine: EncodedVolume) -> None:
    first = engine.sweep({5: click()})
    engine.sweep({6: click(2)})
    engine.sweep({5: click(), 6: click(2)})
    for again in (engine.sweep({5: click()}), engine.sweep({5: click()})):
        assert all(torch.equal(masks(a), masks(b)) for a, b in zip(first, again, strict=True))


def test_prompts_far_apart_add_up(make_model: Callable[..., S2VNet]) -> None:
    engine = EncodedVolume.encode(make_model(propagation="none"), slices_of(DEPTH))
    one, other, both = (engine.sweep(p) for p in ({3: click()}, {20: click(2)}, {3: click(), 20: click(2)}))
    for a, b, c in zip(one, other, both, strict=True):
        assert torch.equal(masks(c, 0, 12), masks(a, 0, 12))
        assert torch.equal(masks(c, 12), masks(b, 12))
