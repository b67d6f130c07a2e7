"""Carrying state along slices. Automatic, interactive, training and inference all go through :func:`propagate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar


class Left(Protocol):
    """What was decoded of a slice, or of a slice of each of some sequences."""

    @property
    def state(self) -> Any:
        """What the next slice receives."""


Given = TypeVar("Given")
Maps = TypeVar("Maps")
Found = TypeVar("Found", bound=Left)


def propagate(
    decode: Callable[[Given, Any, Maps], Found], slices: Iterable[tuple[Given, Maps]], state: Any
) -> Iterator[Found]:
    """Decode slices one after the other, each with the state that the one before left behind.

    Args:
        decode: decodes one slice of each of B sequences: features and states and prompt maps as one batch
            (`S2VNet.decode`), or as a list with one entry for each.
        slices: per step, features and prompt maps.
        state: state entering the first step.

    Yields:
        What was decoded at each step; its ``state`` enters the next step.
    """
    for features, prompts in slices:
        decoded = decode(features, state, prompts)
        state = decoded.state
        yield decoded
