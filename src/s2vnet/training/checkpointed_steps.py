"""Loop over training steps with progress reports and checkpoints, for trainings in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from s2vnet.training.interrupts import deferred_interrupts

REPORT_EVERY = 50
"""Steps between two reports by default."""


class Resumable(Protocol):
    """Progress of a training that its checkpoints contain."""

    step: int
    """Number of steps taken."""
    cpu_seconds: float
    """CPU seconds spent, including those before the training was resumed."""


def run_steps(
    progress: Resumable,
    until: int,
    take_step: Callable[[], float],
    save: Callable[[], None],
    report: Callable[[dict[str, float]], object],
    checkpoint_minutes: float,
    report_every: int = REPORT_EVERY,
) -> None:
    """Take steps until a number of them is reached; a checkpoint is saved at intervals, at the end and on an interrupt.

    Args:
        progress: updated after each step.
        until: number of steps at the end.
        take_step: takes one step and returns its loss; does not change `progress`.
        save: writes a checkpoint.
        report: called with ``step``, mean ``loss`` and ``cpu_seconds``.
        checkpoint_minutes: interval of checkpoints.
        report_every: steps between two reports.

    Raises:
        KeyboardInterrupt: the training was interrupted, after its checkpoint was saved.
    """
    saved, losses = time.monotonic(), list[float]()
    started = time.process_time() - progress.cpu_seconds
    with deferred_interrupts() as interrupted:
        while progress.step < until:
            losses.append(take_step())
            progress.step += 1
            progress.cpu_seconds = time.process_time() - started
            if progress.step % report_every == 0:
                report({"step": progress.step, "loss": float(np.mean(losses)), "cpu_seconds": progress.cpu_seconds})
                losses = []
            due = time.monotonic() - saved > 60 * checkpoint_minutes
            stop = interrupted()
            if due or stop or progress.step == until:
                save()
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt
