"""An encoded volume: previews, progress, and sweeps that end early."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from noise_slices import DEPTH, SIZE, click, masks, slices_of
from torch import Tensor

from s2vnet.inference.encoded_volume import EncodedVolume
from s2vnet.inference.sweep import Sweep, average_sweeps
from s2vnet.model.s2vnet import S2VNet


def test_no_prompts_are_the_automatic_result(engine: EncodedVolume) -> None:
    assert engine.sweep({}) is engine.automatic
    assert engine.size == (SIZE, SIZE)


def test_slices_encoded_at_once_change_nothing(make_model: Callable[..., S2VNet]) -> None:
    one, many = (EncodedVolume.encode(make_model(), slices_of(7), batch_size=n) for n in (1, 16))
    torch.testing.assert_close(one.features.mask, many.features.mask)
    scores = [average_sweeps(engine.automatic, 0, 7) for engine in (one, many)]
    torch.testing.assert_close(*scores, atol=2e-3, rtol=0)


def test_every_slice_is_previewed_once_as_it_is_by_itself_the_middle_one_with_the_first(
    make_model: Callable[..., S2VNet],
) -> None:
    told: list[tuple[range, Tensor]] = []
    model = make_model(propagation="none")
    engine = EncodedVolume.encode(model, slices_of(DEPTH), batch_size=5, on_preview=lambda *slices: told.append(slices))
    assert DEPTH // 2 in told[0][0]
    assert sorted(d for places, _ in told for d in places) == list(range(DEPTH))
    for places, scores in told:
        each = torch.cat([average_sweeps(engine.automatic, d, d + 1) for d in places])
        torch.testing.assert_close(scores, each, atol=2e-3, rtol=0)


def test_a_single_slice_works(make_model: Callable[..., S2VNet]) -> None:
    engine = EncodedVolume.encode(make_model(), slices_of(1))
    assert average_sweeps(engine.automatic, 0, 1).shape == (1, 3, SIZE, SIZE)
    assert [sweep.changed for sweep in engine.sweep({0: click()})] == [range(1), range(1)]


def test_progress_counts_up_to_all_units(make_model: Callable[..., S2VNet]) -> None:
    told: list[tuple[int, int]] = []
    engine = EncodedVolume.encode(
        make_model(), slices_of(5), batch_size=2, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(n, 10) for n in (1, 3, 5, *range(6, 11))]
    engine.sweep({0: click()})
    assert len(told) == 8


class Ended(Exception):
    """By whoever watches."""


def test_slices_reported_as_passed_are_final(engine: EncodedVolume) -> None:
    told: list[tuple[range, Tensor, Tensor]] = []

    def watch(sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        told.append((passed, *(masks(sweep, passed.start, passed.stop) for sweep in sweeps)))

    whole = engine.sweep({11: click()}, watch)
    assert told[0][0] == range(11, 12)
    for (before, *_), (after, *_) in itertools.pairwise(told):
        assert after.start <= before.start < before.stop <= after.stop
    for passed, *found in told:
        for one, sweep in zip(found, whole, strict=True):
            assert torch.equal(one, masks(sweep, passed.start, passed.stop))


def test_the_newest_prompt_is_answered_in_the_first_step(engine: EncodedVolume) -> None:
    prompts = {4: click(), 17: click(2)}
    engine.sweep(prompts)
    told: list[range] = []
    engine.sweep(prompts | {12: click()}, lambda sweeps, passed: told.append(passed))
    assert 12 in told[0]


@pytest.mark.parametrize("steps", [1, 2])
def test_ended_early_it_changes_nothing_and_loses_nothing(engine: EncodedVolume, steps: int) -> None:
    expected, prompts = engine.sweep({5: click()}), {5: click(), 9: click(2)}
    whole = engine.sweep(prompts)
    told: list[range] = []

    def end(sweeps: tuple[Sweep, Sweep], passed: range) -> None:
        told.append(passed)
        if len(told) == steps:
            raise Ended

    engine.sweep({5: click()})
    with pytest.raises(Ended):
        engine.sweep(prompts, end)
    decoded: list[range] = []
    again = engine.sweep(prompts, lambda sweeps, passed: decoded.append(passed))
    assert all(torch.equal(masks(a), masks(b)) for a, b in zip(again, whole, strict=True))
    assert all(torch.equal(masks(a), masks(b)) for a, b in zip(engine.sweep({5: click()}), expected, strict=True))
    fresh: list[range] = []
    engine.sweep({5: click()})
    engine.sweep(prompts, lambda sweeps, passed: fresh.append(passed))
    assert len(decoded) == len(fresh) - steps
