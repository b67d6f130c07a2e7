"""An encoded volume: previews, progress, and callbacks that end it early."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from noise_slices import DEPTH, SIZE, slices_of
from torch import Tensor

from s2vnet.inference.encoded_volume import EncodedVolume, PreviewBatch, first_batch_indices
from s2vnet.model.s2vnet import S2VNet

Told = list[tuple[Sequence[int], Tensor]]


def test_slices_encoded_at_once_change_nothing(make_model: Callable[..., S2VNet]) -> None:
    one, many = (EncodedVolume.encode(make_model(), slices_of(7), batch_size=n) for n in (1, 16))
    torch.testing.assert_close(one.features.mask, many.features.mask)
    torch.testing.assert_close(one.probabilities, many.probabilities, atol=2e-3, rtol=0)


def test_every_slice_is_previewed_once_as_it_is_by_itself_the_middle_one_with_the_first(
    make_model: Callable[..., S2VNet],
) -> None:
    told: Told = []
    model = make_model(propagation="none")
    encoded = EncodedVolume.encode(
        model, slices_of(DEPTH), batch_size=5, on_preview=lambda *slices: told.append(slices)
    )
    assert DEPTH // 2 in told[0][0]
    assert sorted(d for indices, _ in told for d in indices) == list(range(DEPTH))
    for indices, scores in told:
        torch.testing.assert_close(scores, encoded.probabilities[list(indices)], atol=2e-3, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_every_slice_is_passed_once_with_its_result(make_model: Callable[..., S2VNet], depth: int) -> None:
    told: Told = []
    encoded = EncodedVolume.encode(make_model(), slices_of(depth), on_slices=lambda *slices: told.append(slices))
    assert encoded.probabilities.shape == (depth, 3, SIZE, SIZE)
    assert sorted(d for indices, _ in told for d in indices) == list(range(depth))
    for indices, scores in told:
        assert torch.equal(scores, encoded.probabilities[list(indices)])


def test_callbacks_and_a_first_batch_that_is_known_change_nothing(make_model: Callable[..., S2VNet]) -> None:
    model, slices = make_model(), slices_of(DEPTH)
    plain = EncodedVolume.encode(model, slices)
    indices = first_batch_indices(DEPTH)
    with torch.inference_mode():
        first = PreviewBatch.compute(model, indices, slices[indices.start : indices.stop : indices.step])
    watched = EncodedVolume.encode(
        model, slices, on_slices=lambda *slices: None, on_preview=lambda *slices: None, first_batch=first
    )
    assert torch.equal(plain.probabilities, watched.probabilities)
    assert all(map(torch.equal, plain.features.tensors, watched.features.tensors))


def test_progress_counts_up_to_all_units(make_model: Callable[..., S2VNet]) -> None:
    told: list[tuple[int, int]] = []
    EncodedVolume.encode(
        make_model(), slices_of(5), batch_size=2, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(n, 10) for n in (1, 3, 5, *range(6, 11))]


class Ended(Exception):
    """By whoever watches."""


@pytest.mark.parametrize("callback", ["progress", "on_slices", "on_preview"])
@pytest.mark.parametrize("calls", [1, 3])
def test_ended_early_by_a_callback_it_changes_nothing(
    make_model: Callable[..., S2VNet], callback: str, calls: int
) -> None:
    model, slices, told = make_model(), slices_of(DEPTH), []
    expected = EncodedVolume.encode(model, slices)

    def end(*arguments: object) -> None:
        told.append(arguments)
        if len(told) == calls:
            raise Ended

    watch: dict[str, Callable[..., None]] = {callback: end}
    with pytest.raises(Ended):
        EncodedVolume.encode(model, slices, **watch)  # type: ignore[arg-type]
    assert len(told) == calls
    assert torch.equal(EncodedVolume.encode(model, slices).probabilities, expected.probabilities)
