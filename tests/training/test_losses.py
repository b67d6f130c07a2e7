from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s2vnet.config import TrainConfig
from s2vnet.data.label_definitions import IGNORED
from s2vnet.model.aggregation import PropagationState
from s2vnet.model.interface import DecoderOutput
from s2vnet.training.losses import MAX_CLASS_WEIGHT, class_weights, clip_loss, downsample_labels, segmentation_loss

K, SHARP = 3, 30.0
CONFIG = TrainConfig()
_EMPTY = PropagationState(*(torch.empty(0) for _ in PropagationState._fields))


@pytest.fixture
def labels() -> Tensor:
    """Two clips of three slices of 8 x 8 pixels; class 2 is on the second slice of the first clip alone."""
    found = torch.zeros(2, 3, 8, 8, dtype=torch.long)
    found[:, :, :4, :4] = 1
    found[0, 1, 4:, 4:] = 2
    return found


def _logits(labels: Tensor, size: int) -> Tensor:
    """Logits (B, K, T, size, size) that are sure of the labels."""
    return SHARP * (2 * F.one_hot(downsample_labels(labels, (size, size)), K).movedim(-1, 1).float() - 1)


def _decoded(labels: Tensor, size: int = 8) -> tuple[list[DecoderOutput], Tensor]:
    """What a network that is sure of the labels gives, and its auxiliary logits."""
    shown = SHARP * (2 * F.one_hot(labels, K).amax((2, 3)).float() - 1)
    levels = [_logits(labels, n) for n in (2, 4)]
    steps = [
        DecoderOutput(_logits(labels, size)[:, :, t], shown[:, t], tuple(level[:, :, t] for level in levels), _EMPTY)
        for t in range(labels.shape[1])
    ]
    return steps, _logits(labels, size).transpose(1, 2)


def test_a_perfect_prediction_has_no_loss(labels: Tensor) -> None:
    assert clip_loss(*_decoded(labels), labels, CONFIG) < 1e-3


def test_an_absent_class_has_no_loss() -> None:
    empty = torch.zeros(1, 2, 8, 8, dtype=torch.long)
    assert clip_loss(*_decoded(empty), empty, CONFIG) < 1e-3


@pytest.mark.parametrize("part", ["logits", "presence", "layer_logits", "auxiliary"])
def test_every_part_contributes_to_the_loss(labels: Tensor, part: str) -> None:
    right, auxiliary = _decoded(labels)
    wrong, wrong_auxiliary = _decoded(labels.flip(-1))
    if part == "presence":  # the mirrored clip shows the same classes
        mixed = [d._replace(presence=-d.presence) for d in right]
    elif part == "auxiliary":
        mixed, auxiliary = right, wrong_auxiliary
    else:
        mixed = [d._replace(**{part: getattr(w, part)}) for d, w in zip(right, wrong, strict=True)]
    assert clip_loss(mixed, auxiliary, labels, CONFIG) > clip_loss(*_decoded(labels), labels, CONFIG) + 0.1


def test_masks_of_a_stride_are_compared_at_full_size(labels: Tensor) -> None:
    coarse = clip_loss(*_decoded(labels, size=4), labels, CONFIG)
    assert coarse < clip_loss(*_decoded(labels.flip(-1), size=4), labels, CONFIG)
    assert coarse.isfinite()


@pytest.mark.parametrize("size", [8, 4])
def test_the_loss_of_a_batch_is_the_mean_over_its_clips(labels: Tensor, size: int) -> None:
    def noisy(part: Tensor) -> Tensor:
        return part + 0.5 * torch.randn(part.shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    steps, auxiliary = _decoded(labels, size)
    steps = [
        DecoderOutput(noisy(d.logits), noisy(d.presence), tuple(map(noisy, d.layer_logits)), _EMPTY) for d in steps
    ]
    auxiliary = 0.1 * noisy(auxiliary)

    def of(clips: slice) -> Tensor:
        some = [
            DecoderOutput(d.logits[clips], d.presence[clips], tuple(x[clips] for x in d.layer_logits), _EMPTY)
            for d in steps
        ]
        return clip_loss(some, auxiliary[clips], labels[clips], CONFIG)

    torch.testing.assert_close(of(slice(2)), (of(slice(1)) + of(slice(1, 2))) / 2)


def test_background_has_no_dice(labels: Tensor) -> None:
    logits = torch.zeros(2, K, 3, 8, 8, requires_grad=True)
    (segmentation_loss(logits, labels) - F.cross_entropy(logits, labels)).backward()
    assert logits.grad is not None  # background's logit only matters through the softmax of the others
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(2, 3, 8, 8), atol=1e-6, rtol=0)


def test_labels_are_downsampled_by_nearest_neighbor() -> None:
    small = torch.tensor([[[[0, 1], [2, 7]]]])
    assert torch.equal(downsample_labels(small.repeat_interleave(4, 2).repeat_interleave(4, 3), (2, 2)), small)
    assert downsample_labels(small, (2, 2)) is small
    assert downsample_labels(torch.zeros(2, 3, 16, 24, dtype=torch.long), torch.Size((4, 6))).shape == (2, 3, 4, 6)


def test_class_weights_are_bounded_powers_of_inverse_frequency() -> None:
    counts = [10**6, 400, 100, 0, 1]
    assert class_weights(counts, 0).tolist() == [1] * 5
    assert class_weights(counts, 0.5).tolist() == [1, 1, 2, 1, MAX_CLASS_WEIGHT]
    assert class_weights(counts, 1).tolist() == [1, 1, 4, 1, MAX_CLASS_WEIGHT]
    assert class_weights([5, 0, 0], 0.5).tolist() == [1, 1, 1]


def test_a_weight_multiplies_the_cross_entropy_of_its_pixels(labels: Tensor) -> None:
    logits = torch.randn(2, K, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = segmentation_loss(logits, labels)
    assert segmentation_loss(logits, labels, torch.ones(K)) == plain
    entropy = F.cross_entropy(logits, labels, reduction="none")
    heavier = segmentation_loss(logits, labels, torch.tensor([1.0, 1, 4]))
    torch.testing.assert_close(heavier - plain, 3 * (entropy * (labels == 2)).mean())


def test_ignored_pixels_have_no_loss_and_no_gradient(labels: Tensor) -> None:
    partly = labels.clone()
    partly[:, :, 2:6] = IGNORED
    unknown = partly[:, None].expand(-1, K, -1, -1, -1) == IGNORED
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, K, 3, 8, 8, generator=generator).requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0])
    loss = segmentation_loss(logits, partly, weights)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()
    other = torch.where(unknown, torch.randn(logits.shape, generator=generator), logits.detach())
    torch.testing.assert_close(segmentation_loss(other, partly, weights), loss.detach())
    each = [segmentation_loss(logits[[b]], partly[[b]], weights) for b in range(2)]
    torch.testing.assert_close(torch.stack(each).mean(), loss)  # whatever process a clip is trained on


def test_known_pixels_are_weighted_as_if_there_were_no_others(labels: Tensor) -> None:
    """The loss over the known half of an image is that of this half by itself."""
    logits = torch.randn(2, K, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    partly = labels.clone()
    partly[..., 4:] = IGNORED
    torch.testing.assert_close(segmentation_loss(logits, partly), segmentation_loss(logits[..., :4], labels[..., :4]))


def test_what_is_not_known_to_be_absent_is_not_trained_as_absent(labels: Tensor) -> None:
    partly = labels.clone()
    partly[:, :, 7:] = IGNORED
    right, auxiliary = _decoded(labels)
    assert clip_loss(right, auxiliary, partly, CONFIG) < 1e-3
    unsure = [d._replace(presence=torch.where(d.presence > 0, d.presence, 5.0)) for d in right]
    assert clip_loss(unsure, auxiliary, partly, CONFIG) < 1e-3
    missed = [d._replace(presence=torch.full_like(d.presence, -5.0)) for d in right]
    assert clip_loss(missed, auxiliary, partly, CONFIG) > 0.1
    nothing = torch.full_like(labels, IGNORED)
    assert clip_loss(right, auxiliary, nothing, CONFIG) == 0
