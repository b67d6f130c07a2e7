"""Sequential decoding of slices with a carried state, as in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar


class HasState(Protocol):
    """Output of decoding one step."""

    @property
    def state(self) -> Any:
        """State that enters the next step."""


Inputs = TypeVar("Inputs")
Output = TypeVar("Output", bound=HasState)


def propagate(decode: Callable[[Inputs, Any], Output], steps: Iterable[Inputs], state: Any) -> Iterator[Output]:
    """Decode slices in order, each with the state that the previous one returned.

    Args:
        decode: maps features and state of one slice of each of B sequences to an output (`S2VNet.decode`).
        steps: features of each step.
        state: state that enters the first step.

    Yields:
        Output of each step; its ``state`` enters the next step.
    """
    for features in steps:
        output = decode(features, state)
        state = output.state
        yield output
