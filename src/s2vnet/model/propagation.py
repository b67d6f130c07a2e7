"""Carrying state along slices. Automatic, interactive, training and inference all go through :func:`propagate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from s2vnet.model.aggregation import State
from s2vnet.model.pixel_decoder import Features
from s2vnet.model.s2vnet import Decoded

Decode = Callable[[Features, State, Tensor | None], Decoded]
"""`S2VNet.decode`, or an exported graph of it."""


def propagate(decode: Decode, slices: Iterable[tuple[Features, Tensor | None]], state: State) -> Iterator[Decoded]:
    """Decode slices one after the other, each with the state that the one before left behind.

    Args:
        decode: decodes one slice of each of B sequences.
        slices: per step, features (B, ...) and prompt maps (B, K, 4, h, w), or None.
        state: state entering the first step.

    Yields:
        One :class:`Decoded` per step; its ``state`` enters the next step.
    """
    for features, prompts in slices:
        decoded = decode(features, state, prompts)
        state = decoded.state
        yield decoded
