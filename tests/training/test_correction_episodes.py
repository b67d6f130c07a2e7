"""Simulated corrections are a function of the random generator; what must change is wrong, and nothing right is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_made_correctors import nothing
from labelled_volumes import labelled

from s2vnet.inference.correction_maps import WindowMaps
from s2vnet.training.correction_episodes import (
    Correction,
    EpisodeConfig,
    EpisodeSampler,
    Predictor,
    find_parts,
    opened,
)

KINDS = {
    "errors of a network": EpisodeConfig(real=1, corrupted=0),
    "corrupted": EpisodeConfig(real=0, corrupted=1),
    "missing organs": EpisodeConfig(real=0, corrupted=0, regions=0),
    "missing regions": EpisodeConfig(real=0, corrupted=0, regions=1),
    "several prompts": EpisodeConfig(rounds=(0, 0, 1)),
}


class _Nothing(torch.nn.Module):
    def forward(self, pixels: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        return nothing(pixels, cells)


def draw(config: EpisodeConfig, seed: int, count: int = 3) -> list[Correction]:
    torch.manual_seed(0)
    sampler, rng = EpisodeSampler([labelled()], config), np.random.default_rng(seed)
    return [sampler.draw(rng, Predictor(_Nothing())) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_draws_the_same_corrections(kind: str) -> None:
    for one, two in zip(draw(KINDS[kind], 1), draw(KINDS[kind], 1), strict=True):
        for a, b in zip((*one.maps, *one[1:]), (*two.maps, *two[1:]), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    first, other = draw(KINDS[kind], 1, 1)[0], draw(KINDS[kind], 2, 1)[0]
    assert not torch.equal(first.maps.pixels, other.maps.pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_what_must_change_is_wrong_and_what_must_not_is_right(kind: str) -> None:
    for correction in draw(KINDS[kind], 3, 6):
        required, wrong, right = correction[1:]
        assert required.shape == wrong.shape == right.shape == correction.maps.pixels[:, 0].shape
        assert required.sum() > 0
        assert (required <= wrong + 1e-6).all()
        assert ((wrong + right) <= 1 + 1e-6).all()
        eligible = correction.maps.pixels[:, 3]
        assert (right <= eligible + 1e-6).all()
        assert (required <= eligible + 1e-6).all()


def test_parts_are_the_connected_errors_of_each_class() -> None:
    case = labelled()
    parts = find_parts(case.labels.numpy(), case.truth.numpy(), 0)
    assert sorted((p.label, p.missed, p.size) for p in parts) == [(1, True, 6 * 20 * 22), (2, False, 6 * 10 * 10)]
    assert not find_parts(case.truth.numpy(), case.truth.numpy(), 2)


def test_opening_leaves_wide_parts_and_removes_thin_ones() -> None:
    mask = np.zeros((2, 20, 20), bool)
    mask[:, 2:12, 2:12] = True
    mask[0, 15] = True
    result = opened(mask, 2)
    assert result[:, 5:9, 5:9].all()
    assert not result[0, 15].any()
    np.testing.assert_array_equal(opened(mask, 0), mask)


def test_a_predictor_answers_one_window() -> None:
    maps = draw(KINDS["corrupted"], 0, 1)[0].maps
    assert isinstance(maps, WindowMaps)
    assert Predictor(_Nothing())(maps).shape == maps.pixels[:, 0].shape
