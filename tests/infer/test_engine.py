"""Sweeps: prompted ones start from the automatic ones, stop early without harm, and say what they may have changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from s2vnet.infer import engine as engine_module
from s2vnet.infer.engine import VolumeEngine, combine
from s2vnet.model.s2vnet import S2VNet

DEPTH, SIZE = 24, 16


def slices_of(depth: int, channels: int = 3) -> Tensor:
    return torch.randn(depth, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def click(class_id: int = 1, place: tuple[int, int] = (5, 9)) -> Tensor:
    """Prompt maps (K, 3, h, w) of one clicked cell."""
    maps = torch.zeros(3, 3, SIZE, SIZE)
    maps[class_id, 0, place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2] = 0.5
    maps[class_id, 0, place[0], place[1]] = 1
    return maps


@pytest.fixture(params=["aggregated", "previous", "none"])
def engine(request: pytest.FixtureRequest, make_model: Callable[..., S2VNet]) -> VolumeEngine:
    """24 slices of noise, encoded, per kind of propagation; weights under which a prompt's reach ends."""
    return VolumeEngine(make_model(reach=0.02, assignment="soft", propagation=request.param), slices_of(DEPTH))


def test_no_prompts_are_the_automatic_result(engine: VolumeEngine) -> None:
    assert engine.prompted({}) is engine.automatic
    assert engine.size == (SIZE, SIZE)


@pytest.mark.parametrize("d", [0, 11, DEPTH - 1])
def test_a_prompted_sweep_starts_from_the_automatic_one(engine: VolumeEngine, d: int) -> None:
    empty = engine.prompted({d: torch.zeros(3, 3, SIZE, SIZE)})
    for found, automatic in zip(empty, engine.automatic, strict=True):
        assert torch.equal(found.masks, automatic.masks)
        assert found.changed == range(d, d + 1)


def test_stopping_early_equals_the_whole_sweep(engine: VolumeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {11: click(), 12: click(2, (9, 4))}
    found = {}
    for threshold in (-1, 2.0**-7, engine_module.CONVERGED):
        monkeypatch.setattr(engine_module, "CONVERGED", threshold)
        found[threshold] = engine.prompted(prompts)
    whole, strict, usual = found.values()
    assert [sweep.changed for sweep in whole] == [range(11, DEPTH), range(13)]
    decoded = [sum(len(sweep.changed) for sweep in sweeps) for sweeps in (usual, strict, whole)]
    assert decoded[0] <= decoded[1] < DEPTH < decoded[2]
    early, expected = combine(strict, 0, DEPTH), combine(whole, 0, DEPTH)
    assert (early - expected).abs().max() < 0.02
    clear = expected.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 0.04
    assert torch.equal(early.argmax(1)[clear], expected.argmax(1)[clear])


def test_changed_ranges_cover_every_difference(engine: VolumeEngine) -> None:
    for prompted, automatic in zip(engine.prompted({5: click(), 17: click(2)}), engine.automatic, strict=True):
        different = (prompted.masks != automatic.masks).any(-1).any(-1).any(-1).nonzero()[:, 0].tolist()
        assert different
        assert set(different) <= set(prompted.changed)


def test_a_prompted_result_does_not_depend_on_earlier_ones(engine: VolumeEngine) -> None:
    first = engine.prompted({5: click()})
    engine.prompted({6: click(2)})
    engine.prompted({5: click(), 6: click(2)})
    for again in (engine.prompted({5: click()}), engine.prompted({5: click()})):
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(first, again, strict=True))


def test_prompts_far_apart_add_up(make_model: Callable[..., S2VNet]) -> None:
    engine = VolumeEngine(make_model(propagation="none"), slices_of(DEPTH))
    one, other, both = (engine.prompted(p) for p in ({3: click()}, {20: click(2)}, {3: click(), 20: click(2)}))
    for a, b, c in zip(one, other, both, strict=True):
        assert torch.equal(c.masks[:12], a.masks[:12])
        assert torch.equal(c.masks[12:], b.masks[12:])


def test_slices_encoded_at_once_change_nothing(make_model: Callable[..., S2VNet]) -> None:
    one, many = (VolumeEngine(make_model(), slices_of(7), batch=n) for n in (1, 16))
    torch.testing.assert_close(one.features.mask, many.features.mask)
    scores = [combine(engine.automatic, 0, 7) for engine in (one, many)]
    torch.testing.assert_close(*scores, atol=2e-3, rtol=0)


def test_a_single_slice_works(make_model: Callable[..., S2VNet]) -> None:
    engine = VolumeEngine(make_model(), slices_of(1))
    assert combine(engine.automatic, 0, 1).shape == (1, 3, SIZE, SIZE)
    assert [sweep.changed for sweep in engine.prompted({0: click()})] == [range(1), range(1)]


def test_progress_counts_up_to_all_units(make_model: Callable[..., S2VNet]) -> None:
    told: list[tuple[int, int]] = []
    engine = VolumeEngine(make_model(), slices_of(5), batch=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 15) for n in (2, 4, 5, *range(6, 16))]
    engine.prompted({0: click()})
    assert len(told) == 13
