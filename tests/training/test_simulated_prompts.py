from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.label_definitions import IGNORED
from s2vnet.model.prompt_encoder import PROMPT_MAPS, GridPrompt
from s2vnet.training import simulated_prompts as simulate
from s2vnet.training.simulated_prompts import simulate_prompts

K, T, SIZE = 4, 4, (10, 12)
NETWORK = ModelConfig(in_channels=1, num_classes=K, prompt_reach=2)
POSITIVE, NEGATIVE, BOX = range(3)


@pytest.fixture
def truth() -> Tensor:
    """One clip (1, T, h, w) with three blocks; the last class is on two slices alone."""
    labels = torch.zeros(1, T, *SIZE, dtype=torch.long)
    labels[:, :, 1:4, 1:5] = 1
    labels[:, :, 5:9, 1:5] = 2
    labels[:, 1:3, 3:7, 7:11] = 3
    return labels


def _rngs(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def _simulate(
    truth: Tensor, predicted: Tensor, seeds: list[int], rounds: int = 3, steps: int = 1, first: float = 0
) -> Tensor:
    many, config = len(seeds), TrainConfig(max_correction_rounds=rounds, first_slice_fraction=first)
    truths, answers = truth.expand(many, -1, -1, -1), predicted.expand(many, -1, -1, -1)
    return _both(truths, answers, seeds, config, steps)[0]


def _both(
    truths: Tensor, answers: Tensor, seeds: list[int], config: TrainConfig, steps: int = 1
) -> tuple[Tensor, Tensor]:
    """Prompt maps, and the errors that were prompted on."""
    many = len(seeds)
    return simulate_prompts(
        lambda maps, clips: answers[clips], truths, torch.full((many,), steps), NETWORK, config, _rngs(*seeds)
    )


def _corrections(predicted: Tensor, truth: Tensor, seed: int) -> list[GridPrompt]:
    rng = np.random.default_rng(seed)
    return simulate._corrections(predicted[0].numpy(), truth[0].numpy(), T, K, 0.85, rng)[0]


def test_prompted_cells_name_the_true_class(truth: Tensor) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, K, truth.shape))
    for predicted in (torch.zeros_like(truth), noise, truth.roll(2, -1), truth.flip(2)):
        maps = _simulate(truth, predicted, list(range(25)))
        assert maps.shape == (25, T, K, PROMPT_MAPS, *SIZE)
        assert maps.any()
        for clip in maps:
            for k in range(K):
                named = clip[:, k, POSITIVE] == 1
                assert (truth[0][named] == k).all()
                boxed = clip[:, k, BOX].bool()
                assert boxed.sum() <= (truth[0] == k).sum()
                assert (truth[0][boxed] == k).all()


def test_only_negative_prompts_lie_outside_their_class(truth: Tensor) -> None:
    predicted, found = truth.clone(), 0
    predicted[0, :, :, :7] = 1
    for seed in range(150):
        strokes = _corrections(predicted, truth, seed)
        for stroke in strokes:
            cells = stroke.cells.long().T
            assert ((truth[0][tuple(cells)] == stroke.class_id) == stroke.positive).all()
            assert (predicted[0][tuple(cells)] != truth[0][tuple(cells)]).all()
            found += not stroke.positive
    assert found > 0


def test_corrections_lie_in_the_largest_error(truth: Tensor) -> None:
    predicted = truth.clone()
    predicted[0, :, 1:4, 1:5] = 0  # larger
    predicted[0, 1, 5:6, 2:3] = 0  # smaller
    predicted[0, 3, 5:7, 2:4] = 0
    kinds = set()
    for seed in range(120):
        for stroke in _corrections(predicted, truth, seed):
            kinds.add((stroke.kind, len(stroke.cells) > 1))
            d, y, x = stroke.cells.long().T
            if stroke.class_id == 1:
                assert ((y >= 1) & (y < 4) & (x >= 1) & (x < 5)).all()
            else:
                assert stroke.class_id in (0, 2)
                if stroke.class_id == 2:
                    assert (d == 3).all()
    assert kinds == {("point", False), ("point", True), ("region", True)}


def test_a_perfect_prediction_yields_no_corrections(truth: Tensor) -> None:
    maps = _simulate(truth, truth, list(range(20)))
    drawn = torch.tensor([[rng.random(), rng.random()] for rng in _rngs(*range(20))])
    first = drawn[:, 1] < 0.3
    assert not maps[~first].any()
    assert maps[first].any()
    assert _corrections(truth, truth, 0) == []


def test_prompts_do_not_depend_on_the_batch(truth: Tensor) -> None:
    predicted = truth.flip(2)
    together = _simulate(truth, predicted, [0, 1, 2, 3])
    assert torch.equal(together, _simulate(truth, predicted, [0, 1, 2, 3]))
    for seed in range(4):
        assert torch.equal(_simulate(truth, predicted, [seed])[0], together[seed])
    assert len({clip.numpy().tobytes() for clip in together}) > 1


def test_predictions_follow_the_prompts_of_each_round(truth: Tensor) -> None:
    seen: list[tuple[Tensor, list[int]]] = []

    def predict(maps: Tensor, clips: list[int]) -> Tensor:
        seen.append((maps, clips))
        return torch.zeros(len(maps), T, *SIZE, dtype=torch.long)

    config = TrainConfig(max_correction_rounds=3)
    final, _ = simulate_prompts(predict, truth.expand(6, -1, -1, -1), torch.ones(6), NETWORK, config, _rngs(*range(6)))
    assert 1 <= len(seen) <= 3
    shown = dict(enumerate(final))
    for maps, clips in reversed(seen):  # only users who still correct are answered, and each correction is drawn
        assert len(maps) == len(clips) > 0
        for clip, drawn in zip(clips, maps, strict=True):
            assert not torch.equal(drawn, shown[clip])
            shown[clip] = drawn


def test_reach_counts_in_slices_of_the_volume(truth: Tensor) -> None:
    """A clip of every fourth slice lies beyond the reach of its neighbours."""
    truth, empty = (truth == 1).long(), torch.zeros_like(truth)
    near, far = _simulate(truth, empty, [5], rounds=1), _simulate(truth, empty, [5], rounds=1, steps=-4)
    assert torch.equal(near == 1, far == 1)
    prompted = (far[0, :, 1:, POSITIVE] == 1).flatten(2).any(2)
    assert torch.equal(far[0, :, 1:, POSITIVE].flatten(2).any(2), prompted)
    assert int(near[0, :, 1:, POSITIVE].flatten(2).any(2).sum()) > int(prompted.sum())


def test_first_prompts_lie_on_one_slice_with_true_classes(truth: Tensor) -> None:
    kinds = set()
    for seed in range(80):
        strokes = simulate._first_prompts(truth[0].numpy(), K, np.random.default_rng(seed))
        assert len({int(d) for stroke in strokes for d in stroke.cells[:, 0]}) <= 1
        assert len({stroke.class_id for stroke in strokes}) == len(strokes)
        for stroke in strokes:
            assert stroke.positive
            assert (truth[0][tuple(stroke.cells.long().T)] == stroke.class_id).all()
            kinds.add(stroke.kind)
    assert kinds == {"point", "region", "box"}


@pytest.mark.parametrize("kind", [0.0, 0.85, 0.95])
def test_prompts_lie_inside_their_region(kind: float) -> None:
    region: npt.NDArray[np.bool_] = np.zeros((7, *SIZE), bool)
    region[1:6, 2:8, 3:9] = True
    region[3, 4, 9] = True
    for seed in range(20):
        cells = simulate._random_prompt(region, 1, np.random.default_rng(seed), draw=kind).cells.long().numpy()
        assert region[tuple(cells.T)].all()
        if kind == 0.0:
            assert len(cells) == 1
            assert ((cells[0] >= (2, 3, 4)) & (cells[0] <= (4, 6, 7))).all()  # its border is one cell deep
        elif kind == 0.85:
            assert len(np.unique(cells[:, 1])) == 1 or len(np.unique(cells[:, 2])) == 1
        else:
            assert len(cells) == region[3].sum()


def test_some_users_see_only_the_first_slice(truth: Tensor) -> None:
    users, wrong = list(range(40)), torch.zeros_like(truth)
    drawn = {first: _simulate(truth, wrong, users, first=first)[:, 1:, :, POSITIVE] for first in (0.0, 0.5, 1.0)}
    later = {first: (maps == 1).flatten(1).any(1).float().mean() for first, maps in drawn.items()}
    assert later[0.0] > 0.9
    assert 0.25 < later[0.5] < 0.75
    assert later[1.0] == 0
    assert (_simulate(truth, wrong, users, first=1)[:, 0, :, POSITIVE] == 1).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("first", [0, 1])
def test_prompted_errors_cover_all_slices_of_the_clip(truth: Tensor, first: float) -> None:
    """Class 1 is missed where it lies, and found in a second place, on two slices alone."""
    predicted, users = truth.clone(), list(range(30))
    predicted[truth == 1] = 0
    predicted[0, 2:, 8:10, 9:12] = 1
    many = truth.expand(30, -1, -1, -1), predicted.expand(30, -1, -1, -1)
    config = TrainConfig(max_correction_rounds=1, first_slice_fraction=first, correction_fraction=1)
    maps, asked = _both(*many, users, config)
    assert asked.shape == (30, *truth.shape[1:])
    some = asked.flatten(1).any(1)
    assert some.float().mean() > 0.6  # others prompt before they see anything, and no more
    assert torch.equal(asked[some].bool(), (truth == 1).expand_as(asked[some]))  # the larger one
    assert (maps[some] == 1).flatten(1).any(1).all()
    rarely = TrainConfig(max_correction_rounds=1, first_slice_fraction=first, correction_fraction=0.3)
    share = _both(*many, users, rarely)[1].flatten(1).any(1).float().mean()
    assert 0.1 < share < 0.6


def test_ignored_pixels_are_no_errors(truth: Tensor) -> None:
    """Nobody prompts where the class is unknown, whatever is predicted there."""
    partly = truth.clone()
    partly[:, :, :5] = IGNORED
    config = TrainConfig(max_correction_rounds=3, first_slice_fraction=0)
    predicted = torch.full_like(truth, 3)
    maps, errors = _both(partly.expand(20, -1, -1, -1), predicted.expand(20, -1, -1, -1), list(range(20)), config)
    assert maps.any()
    assert errors.any()
    unknown = (partly[0] == IGNORED).expand(20, -1, -1, -1)
    assert not errors[unknown].any()
    assert not _corrections(torch.where(partly == IGNORED, 3, partly), partly, 0)
