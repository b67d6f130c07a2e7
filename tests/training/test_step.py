from __future__ import annotations

import pytest
import torch

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.clips import Clip, ClipDataset, collate
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case
from s2vnet.model.s2vnet import S2VNet
from s2vnet.training.step import ClipStep

INDICES = torch.tensor([0, 1])


def _step(model_config: ModelConfig, config: TrainConfig, **changes: object) -> ClipStep:
    torch.manual_seed(0)
    return ClipStep(S2VNet(model_config), config.model_copy(update=changes))


@pytest.fixture
def clip(cases: list[Case], plan: Plan, config: TrainConfig) -> Clip:
    """A batch of two clips."""
    data = ClipDataset(cases, plan.patch_size, plan.context_slices, config, 2)
    return collate([data[0], data[1]])


def test_the_loss_is_finite_and_has_gradients(clip: Clip, model_config: ModelConfig, config: TrainConfig) -> None:
    step = _step(model_config, config)
    loss = step(*clip, INDICES)
    loss.backward()
    assert loss.isfinite()
    assert loss.ndim == 0
    gradients = [p.grad for p in step.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_independent_slices_train_encoder_and_pixel_decoder_alone(
    clip: Clip, model_config: ModelConfig, config: TrainConfig
) -> None:
    step = _step(model_config, config)
    step(clip.slices, clip.labels, torch.zeros_like(clip.step), INDICES).backward()
    trained = {name for name, p in step.model.named_parameters() if p.grad is not None}
    assert "pixel_decoder.auxiliary.weight" in trained
    assert any(name.startswith("encoder.") for name in trained)
    assert all(name.startswith(("encoder.", "pixel_decoder.")) for name in trained)


def test_the_same_seed_gives_the_same_loss(clip: Clip, model_config: ModelConfig, config: TrainConfig) -> None:
    first, second = (_step(model_config, config)(*clip, INDICES) for _ in range(2))
    assert torch.equal(first, second)
    other = _step(model_config, config, seed=1, state_drop=0.5)(*clip, INDICES)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_of_a_batch_is_the_mean_over_its_clips(
    clip: Clip, model_config: ModelConfig, config: TrainConfig, training: bool
) -> None:
    step = _step(model_config, config).train(training)
    with torch.no_grad():
        parts = [step(*(x[n : n + 1] for x in clip), INDICES[n : n + 1]) for n in range(2)]
        torch.testing.assert_close(step(*clip, INDICES), sum(parts) / 2, atol=1e-4, rtol=1e-4)


def test_without_resets_a_step_is_plain_propagation(clip: Clip, model_config: ModelConfig, config: TrainConfig) -> None:
    losses = [
        _step(model_config, config, state_drop=0.0, feature_dropout=0.0, seed=seed)(*clip, INDICES) for seed in range(2)
    ]
    assert torch.equal(*losses)


def test_channel_dropout_depends_on_the_clip_and_keeps_the_mean(model_config: ModelConfig, config: TrainConfig) -> None:
    maps = [torch.ones(600, 8, 2, 2), torch.ones(600, 16, 1, 1)]
    indices = torch.arange(100)
    whole = _step(model_config, config, feature_dropout=0.0)._drop_channels(maps, indices)
    assert all(torch.equal(a, b) for a, b in zip(whole, maps, strict=True))
    step = _step(model_config, config, feature_dropout=0.25)
    found = step._drop_channels(maps, indices)
    for before, after in zip(maps, found, strict=True):
        assert after.unique().tolist() == pytest.approx([0, 4 / 3])
        assert float(after.mean()) == pytest.approx(1, abs=0.05)
        assert torch.equal(after, after[..., :1, :1].expand_as(before))
    alone = step._drop_channels([x[6:12] for x in maps], indices[1:2])
    assert all(torch.equal(a, b[6:12]) for a, b in zip(alone, found, strict=True))


def test_resetting_everything_equals_no_propagation(clip: Clip, model_config: ModelConfig, config: TrainConfig) -> None:
    forgetful = _step(model_config, config, state_drop=1.0)
    separate = _step(model_config.model_copy(update={"propagation": "none"}), config)
    torch.testing.assert_close(forgetful(*clip, INDICES), separate(*clip, INDICES))
