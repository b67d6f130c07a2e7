from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import Train, equal_weights

from s2vnet.training.interrupts import deferred_interrupts
from s2vnet.training.resume_state import CHECKPOINT

pytestmark = pytest.mark.timeout(300)


def test_the_first_interrupt_is_deferred_and_the_second_is_immediate() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_interrupt_is_immediate_and_keeps_the_last_checkpoint(tmp_path: Path, run: Train) -> None:
    def twice(what: str, done: int, total: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"checkpoint_minutes": 1e-9}, report=twice, validation=[])
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 2


def test_outside_the_main_thread_signal_handlers_are_unchanged(tmp_path: Path, run: Train) -> None:
    handler = signal.getsignal(signal.SIGINT)
    found: list[dict[str, Tensor]] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path / "thread", validation=[])), daemon=True)
    thread.start()
    thread.join(60)
    assert signal.getsignal(signal.SIGINT) is handler
    assert equal_weights(found[0], run(tmp_path / "main", validation=[]))
