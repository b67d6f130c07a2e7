from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.dataset import read_dataset
from s2vnet.data.plan import Plan, save_json
from s2vnet.data.preprocess import Case
from s2vnet.errors import CheckpointError, InputError
from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.model.checkpoint import load_model
from s2vnet.training.checkpointing import CHECKPOINT
from s2vnet.training.trainer import load_cases, train

pytestmark = pytest.mark.timeout(300)
Train = Callable[..., dict[str, Tensor]]


Phantom = tuple[Volume, LabelMap]


@pytest.fixture
def run(cases: list[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig) -> Train:
    """Train on two phantoms with one for validation; returns the weights."""

    def _run(folder: Path, changes: dict[str, object] | None = None, **options: object) -> dict[str, Tensor]:
        folder.mkdir(exist_ok=True)
        settings = config.model_copy(update=changes or {})
        given = {"device": "cpu", "validation": cases[2:], **options}
        validation = given.pop("validation")
        return train(cases[:2], validation, plan, model_config, settings, folder, **given).model.state_dict()  # type: ignore[arg-type]

    return _run


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _interrupt_at(step: int, number: int = signal.SIGINT) -> Callable[[str, int, int], None]:
    def report(what: str, done: int, total: int) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    return report


def test_a_run_writes_everything_and_the_network_is_what_was_returned(
    tmp_path: Path, run: Train, cases: list[Case], plan: Plan, model_config: ModelConfig
) -> None:
    told: list[tuple[str, int, int]] = []
    weights = run(tmp_path, validation=cases[1:], info={"fold": "0"}, report=lambda *message: told.append(message))
    assert told == [("training", n, 4) for n in range(1, 5)]
    for name in ("model.json", "model.safetensors", CHECKPOINT, "history.json", "curves.png", "sample.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "tensorboard").iterdir())
    trained = load_model(tmp_path)
    assert _equal(trained.model.state_dict(), weights)
    assert trained.model.config == model_config
    assert Plan.model_validate(trained.plan) == plan
    assert trained.info["fold"] == "0"
    assert trained.info["steps"] == 4
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history] == [2, 4]
    assert all(0 <= row["dice"] <= 1 and row["loss"] > 0 for row in history)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path, run: Train) -> None:
    first, second, other = (
        run(tmp_path / name, {"seed": seed}, validation=[]) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert _equal(first, second)
    assert not _equal(first, other)
    assert "dice" not in json.loads((tmp_path / "a" / "history.json").read_text())[-1]


def test_a_long_run_scores_five_times(tmp_path: Path, run: Train) -> None:
    run(tmp_path, {"epochs": 10, "steps_per_epoch": 1, "batch_size": 1, "clip_length": 1})
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history if "dice" in row] == [2, 4, 6, 8, 10]


def test_a_network_that_is_not_for_the_plan_is_refused_before_it_is_trained(
    tmp_path: Path, plan: Plan, model_config: ModelConfig, config: TrainConfig, cases: list[Case]
) -> None:
    other = model_config.model_copy(update={"stem_stride": 2})
    with pytest.raises(InputError, match="setting stem_stride: 2, but the plan needs 1"):
        train(cases, [], plan, other, config, tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_nobody_shows_has_no_score(tmp_path: Path, run: Train, cases: list[Case]) -> None:
    empty = dataclasses.replace(cases[1], labels=np.zeros_like(cases[1].labels))
    run(tmp_path, {"epochs": 1, "steps_per_epoch": 1}, validation=[empty])
    row = json.loads((tmp_path / "history.json").read_text(), parse_constant=pytest.fail)[-1]
    assert row.get("dice", 0.0) == 0.0  # where the network finds a class that is not there, it has Dice 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_and_resumed_run_repeats_an_uninterrupted_one(
    tmp_path: Path, run: Train, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=_interrupt_at(3, number))
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "parts" / "model.json").exists()
    done: list[int] = []
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 10**8)  # somebody has put the clock back
    resumed = run(tmp_path / "parts", resume=True, report=lambda what, n, total: done.append(n))
    assert done == [4]
    assert _equal(resumed, whole)
    steps = [row["step"] for row in json.loads((tmp_path / "parts" / "history.json").read_text())]
    assert steps == [2, 4]


def test_a_full_disk_leaves_the_checkpoint_that_was_there(
    tmp_path: Path, run: Train, disk: Callable[[int], Path]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=_interrupt_at(3))
    state = (tmp_path / "parts" / CHECKPOINT).read_bytes()
    folder = disk(len(state) * 3 // 2)
    (folder / CHECKPOINT).write_bytes(state)
    with pytest.raises(InputError, match=r"cannot write .*; choose an existing, writable folder with space") as caught:
        run(folder, resume=True)
    assert "\n" not in str(caught.value)
    assert (folder / CHECKPOINT).read_bytes() == state
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert _equal(run(tmp_path / "parts", resume=True), run(tmp_path / "whole"))


def test_time_before_an_interrupt_counts(tmp_path: Path, run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 100))
    timer = SimpleNamespace(monotonic=lambda: 0.0, process_time=lambda: next(clock))
    monkeypatch.setattr("s2vnet.training.trainer.time", timer)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=_interrupt_at(1))  # before the first epoch has ended
    spent = torch.load(tmp_path / CHECKPOINT, weights_only=True)["spent"]
    assert spent[1] == 100
    run(tmp_path, resume=True)
    first = json.loads((tmp_path / "history.json").read_text())[0]
    assert first["cpu_seconds"] == 200


def test_resuming_what_is_finished_changes_nothing(tmp_path: Path, run: Train) -> None:
    assert _equal(run(tmp_path), run(tmp_path, resume=True))


def test_resuming_without_a_checkpoint_starts_and_not_resuming_starts_anew(tmp_path: Path, run: Train) -> None:
    first = run(tmp_path / "a", resume=True, validation=[])
    assert _equal(first, run(tmp_path / "a", validation=[]))


def test_a_second_interrupt_does_not_wait_and_the_last_checkpoint_holds(tmp_path: Path, run: Train) -> None:
    def twice(what: str, done: int, total: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"checkpoint_minutes": 1e-9}, report=twice, validation=[])
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 2


def test_away_from_the_main_thread_training_leaves_signals_alone(tmp_path: Path, run: Train) -> None:
    handler = signal.getsignal(signal.SIGINT)
    found: list[dict[str, Tensor]] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path / "thread", validation=[])), daemon=True)
    thread.start()
    thread.join(60)
    assert signal.getsignal(signal.SIGINT) is handler
    assert _equal(found[0], run(tmp_path / "main", validation=[]))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path, run: Train) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=_interrupt_at(1))
    with pytest.raises(CheckpointError, match="another plan or configuration") as caught:
        run(tmp_path, {"learning_rate": 1e-4}, resume=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_from_before_a_setting_existed_goes_on_with_its_default(tmp_path: Path, run: Train) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", report=_interrupt_at(2))
    state = torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)
    signature = json.loads(state["signature"])
    del signature["train"]["feature_dropout"], signature["model"]["mask_prior"]
    torch.save(state | {"signature": json.dumps(signature)}, tmp_path / "parts" / CHECKPOINT)
    assert _equal(run(tmp_path / "parts", resume=True), whole)


@pytest.mark.parametrize("damage", ["cut", "empty", "another"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, run: Train, damage: str) -> None:
    path = tmp_path / CHECKPOINT
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=_interrupt_at(1))
    if damage == "another":
        torch.save({"step": 1}, path)
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 5000])
    with pytest.raises(CheckpointError, match=r"damaged .* start again") as caught:
        run(tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_processes_that_help_change_nothing(tmp_path: Path, run: Train) -> None:
    changes = {"interactive_fraction": 1.0}
    assert _equal(run(tmp_path / "with", changes, workers=1), run(tmp_path / "without", changes, workers=0))


def test_half_precision_trains(tmp_path: Path, run: Train) -> None:
    weights = run(tmp_path, {"precision": "bf16-mixed", "epochs": 1})
    floating = [value for value in weights.values() if value.is_floating_point()]
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in floating)


def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, run: Train, cases: list[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig
) -> None:
    with pytest.raises(InputError, match="2 clips cannot be shared by 3 processes"):
        run(tmp_path, devices=3)
    with pytest.raises(CheckpointError, match="device abacus is not available"):
        run(tmp_path, device="abacus")
    unlabelled = [Case(c.name, c.image, None, c.grid) for c in cases]
    with pytest.raises(InputError, match="no labelled cases"):
        train(unlabelled, [], plan, model_config, config, tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dataset(tmp_path: Path, make_phantom: Callable[..., Phantom], plan: Plan) -> Path:
    """Two phantoms in nnU-Net's raw layout, and the plan beside them."""
    root = tmp_path / "Dataset001_Phantom"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for seed in range(2):
        volume, labels = make_phantom(seed=seed)
        write_image(root / "imagesTr" / f"p{seed}_0000.nii.gz", volume)
        write_labels(root / "labelsTr" / f"p{seed}.nii.gz", labels)
    content = {"channel_names": {"0": "MR"}, "labels": plan.labels, "numTraining": 2, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    save_json(plan, tmp_path / "plan.json")
    return root


def test_cases_are_read_by_name_and_prepared(dataset: Path, plan: Plan, cases: list[Case]) -> None:
    told: list[tuple[str, int, int]] = []
    found = load_cases(read_dataset(dataset), ["p1", "p0"], plan, report=lambda *message: told.append(message))
    assert [case.name for case in found] == ["p1", "p0"]
    assert told == [("reading cases", 1, 2), ("reading cases", 2, 2)]
    for case, wanted in zip(found, (cases[1], cases[0]), strict=True):
        assert case.labels is not None
        torch.testing.assert_close(case.image, wanted.image, atol=1e-4, rtol=1e-4)
        assert (case.labels == wanted.labels).all()


def _two_processes(tmp_path: Path, dataset: Path, *options: str, machines: int = 1) -> dict[str, Tensor]:
    """Weights of `s2vnet train` with two processes, as one command or, like two machines, as two."""
    output = tmp_path / "two"
    command = [sys.executable, "-m", "s2vnet", "train", str(dataset), "-f", "all", "-o", str(output)]
    command += ["--plan", str(tmp_path / "plan.json"), "--device", "cpu"]
    command += ["--devices", str(2 // machines), "--nodes", str(machines)]
    common = ("epochs=1", "steps_per_epoch=2", "batch_size=2", "warmup_steps=2", "max_correction_rounds=2")
    command += [*(x for option in common for x in ("-c", option)), "-n", "dim=32", "-n", "mask_dim=16", *options]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "LOCAL_RANK": "0"}
    running = []
    for rank in range(machines):
        together = {**meeting, "NODE_RANK": str(rank)} if machines > 1 else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **together}
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    try:
        for process in running:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    assert [row["step"] for row in json.loads((output / "history.json").read_text())] == [2]
    return load_model(output).model.state_dict()


def test_processes_may_leave_the_aggregation_without_gradient(tmp_path: Path, dataset: Path) -> None:
    weights = _two_processes(tmp_path, dataset, "-n", "propagation=none", machines=2)
    assert all(value.isfinite().all() for value in weights.values())


def test_two_processes_train_as_one(
    tmp_path: Path, dataset: Path, plan: Plan, model_config: ModelConfig, config: TrainConfig
) -> None:
    found = _two_processes(tmp_path, dataset, "-c", "interactive_fraction=0")
    cases = load_cases(read_dataset(dataset), ["p0", "p1"], plan, report=lambda *_: None)
    alone = config.model_copy(update={"epochs": 1, "interactive_fraction": 0.0})
    wanted = train(cases, [], plan, model_config, alone, tmp_path, device="cpu").model.state_dict()
    # what is added to every class alike has no gradient, and Adam makes steps of its rounding errors
    for weights in (found, wanted):
        del weights["mask_head.2.bias"]
    far = {name: ((found[name] - wanted[name]).abs() > 1e-4).float().mean() for name in wanted}
    assert {name: share for name, share in far.items() if share > 0.005} == {}
