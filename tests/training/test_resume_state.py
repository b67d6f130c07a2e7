from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_runs import Train, equal_weights, interrupt_at

from s2vnet.errors import CheckpointError, InputError
from s2vnet.training.resume_state import CHECKPOINT

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, run: Train, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=interrupt_at(3, number))
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "parts" / "model.json").exists()
    done: list[int] = []
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 10**8)  # the system clock is set back
    resumed = run(tmp_path / "parts", resume=True, report=lambda what, n, total: done.append(n))
    assert done == [4]
    assert equal_weights(resumed, whole)
    steps = [row["step"] for row in json.loads((tmp_path / "parts" / "history.json").read_text())]
    assert steps == [2, 4]


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, run: Train, disk: Callable[[int], Path]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=interrupt_at(3))
    state = (tmp_path / "parts" / CHECKPOINT).read_bytes()
    folder = disk(len(state) * 3 // 2)
    (folder / CHECKPOINT).write_bytes(state)
    with pytest.raises(InputError, match=r"cannot write .*; choose an existing, writable folder with space") as caught:
        run(folder, resume=True)
    assert "\n" not in str(caught.value)
    assert (folder / CHECKPOINT).read_bytes() == state
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert equal_weights(run(tmp_path / "parts", resume=True), run(tmp_path / "whole"))


def test_time_before_an_interrupt_is_included(tmp_path: Path, run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 100))
    timer = SimpleNamespace(monotonic=lambda: 0.0, process_time=lambda: next(clock))
    monkeypatch.setattr("s2vnet.training.trainer.time", timer)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=interrupt_at(1))  # before the first epoch has ended
    spent = torch.load(tmp_path / CHECKPOINT, weights_only=True)["spent"]
    assert spent[1] == 100
    run(tmp_path, resume=True)
    first = json.loads((tmp_path / "history.json").read_text())[0]
    assert first["cpu_seconds"] == 200


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, run: Train) -> None:
    assert equal_weights(run(tmp_path), run(tmp_path, resume=True))


def test_resuming_without_a_checkpoint_starts_a_run(tmp_path: Path, run: Train) -> None:
    first = run(tmp_path / "a", resume=True, validation=[])
    assert equal_weights(first, run(tmp_path / "a", validation=[]))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path, run: Train) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=interrupt_at(1))
    with pytest.raises(CheckpointError, match="another plan or configuration") as caught:
        run(tmp_path, {"learning_rate": 1e-4}, resume=True)
    assert "\n" not in str(caught.value)


def test_settings_missing_from_old_checkpoints_have_defaults(tmp_path: Path, run: Train) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=interrupt_at(2))
    state = torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)
    signature = json.loads(state["signature"])
    del signature["train"]["feature_dropout"], signature["model"]["mask_prior"]
    torch.save(state | {"signature": json.dumps(signature)}, tmp_path / "parts" / CHECKPOINT)
    assert equal_weights(run(tmp_path / "parts", resume=True), whole)


def test_a_run_with_simulated_prompts_is_refused_in_one_line(tmp_path: Path, run: Train) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=interrupt_at(1))
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    signature = json.loads(state["signature"])
    signature["model"]["carry_prompts"] = True
    torch.save(state | {"signature": json.dumps(signature)}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=r"training with simulated prompts, .* or start a new run") as caught:
        run(tmp_path, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "another"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, run: Train, damage: str) -> None:
    path = tmp_path / CHECKPOINT
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=interrupt_at(1))
    if damage == "another":
        torch.save({"step": 1}, path)
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 5000])
    with pytest.raises(CheckpointError, match=r"damaged .* start again") as caught:
        run(tmp_path, resume=True)
    assert "\n" not in str(caught.value)
