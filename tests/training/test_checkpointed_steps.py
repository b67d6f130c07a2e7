"""Steps are reported, saved and interrupted as documented."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest

from s2vnet.training.checkpointed_steps import run_steps


@dataclass
class Progress:
    step: int = 0
    cpu_seconds: float = 0.0


def test_reports_have_the_mean_loss_and_the_end_is_saved() -> None:
    progress, rows, saved = Progress(step=1), list[dict[str, float]](), list[int]()
    run_steps(progress, 5, lambda: float(progress.step), lambda: saved.append(progress.step), rows.append, 60, 2)
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 1.0), (4, 2.5)]
    assert saved == [5]
    run_steps(progress, 5, lambda: 1 / 0, lambda: saved.append(0), rows.append, 60)  # nothing is left to do
    assert saved == [5]


def test_an_interrupt_ends_the_training_after_its_checkpoint() -> None:
    progress, saved = Progress(), list[int]()

    def take_step() -> float:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        run_steps(progress, 9, take_step, lambda: saved.append(progress.step), lambda row: None, 60)
    assert (progress.step, saved) == (3, [3])
