"""Helpers of the tests of training runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import torch
from torch import Tensor

Train = Callable[..., dict[str, Tensor]]
"""The fixture ``run``: trains in a folder, with changed settings and options, and returns the weights."""


def equal_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupt_at(step: int, number: int = signal.SIGINT) -> Callable[[str, int, int], None]:
    """Progress callback that sends this process a signal after a step."""

    def report(task: str, done: int, total: int) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    return report
