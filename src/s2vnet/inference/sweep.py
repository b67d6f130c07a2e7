"""Sweeps: the decoder's passes over all slices of a volume, in rising and in falling order.

Both sweeps are decoded together, one slice of each per step; they are independent of each other, bit for bit
(:meth:`s2vnet.model.interface.Network.decode_slices`). The result of a slice is the mean of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from s2vnet.model.interface import Network, SliceInput
from s2vnet.model.pixel_decoder import Features

STORAGE_DTYPE = torch.float16
"""Masks are rounded to this type between slices, so that caching them does not change the result."""


class PendingMasks(Protocol):
    """Store of the masks of slices that one sweep has passed and the other has not: a dict, or a disk cache."""

    def __contains__(self, d: int, /) -> bool: ...

    def __getitem__(self, d: int, /) -> Sequence[Tensor]: ...

    def __setitem__(self, d: int, masks: list[Tensor], /) -> None: ...


def sweep_both_ways(
    model: Network, features: Callable[[int], Features], depth: int, pending: PendingMasks
) -> Iterator[list[tuple[int, Tensor]]]:
    """Decode a volume in rising and in falling order.

    Args:
        model: network in eval mode.
        features: returns the features of the slice with this index.
        depth: number of slices.
        pending: empty store for the masks of up to `depth` slices.

    Yields:
        After each of `depth` steps, index and class probabilities (1, K, h, w), float32, of the slices that both sweeps
        have passed with it: none, one or two.
    """
    first = features(0)
    states = [model.initial_state(first, torch.tensor([sign], device=first.mask.device)) for sign in (1.0, -1.0)]
    propagated = model.config.propagation != "none"
    for step in range(depth):
        indices = step, depth - 1 - step
        inputs = [SliceInput(features(d), state) for d, state in zip(indices, states, strict=True)]
        passed = []
        for n, (d, decoded) in enumerate(zip(indices, model.decode_slices(inputs), strict=True)):
            masks = (decoded.state.masks if propagated else decoded.logits.softmax(1)).to(STORAGE_DTYPE)
            states[n] = decoded.state._replace(masks=masks.float() if propagated else torch.zeros_like(masks).float())
            if d in pending:
                passed.append((d, (pending[d][0].float() + masks.float()) / 2))
            else:
                pending[d] = [masks]
        yield passed
