from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import Train, equal_weights

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data.dataset import read_dataset
from s2vnet.data.plan import Plan, save_json
from s2vnet.data.preprocess import Case
from s2vnet.errors import InputError
from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume
from s2vnet.model.checkpoint import load_model
from s2vnet.training.resume_state import CHECKPOINT
from s2vnet.training.trainer import Hardware, Trainer, load_cases

pytestmark = pytest.mark.timeout(300)
Phantom = tuple[Volume, LabelMap]


def test_a_run_writes_all_files_and_returns_the_saved_network(
    tmp_path: Path, run: Train, cases: list[Case], plan: Plan, model_config: ModelConfig
) -> None:
    told: list[tuple[str, int, int]] = []
    weights = run(tmp_path, validation=cases[1:], info={"fold": "0"}, report=lambda *message: told.append(message))
    assert told == [("training", n, 4) for n in range(1, 5)]
    for name in ("model.json", "model.safetensors", CHECKPOINT, "history.json", "curves.png", "sample.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "tensorboard").iterdir())
    trained = load_model(tmp_path)
    assert equal_weights(trained.model.state_dict(), weights)
    assert trained.model.config == model_config
    assert Plan.model_validate(trained.plan) == plan
    assert trained.info["fold"] == "0"
    assert trained.info["steps"] == 4
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history] == [2, 4]
    assert all(0 <= row["dice"] <= 1 and row["loss"] > 0 for row in history)


def test_weights_depend_on_the_seed_only(tmp_path: Path, run: Train) -> None:
    first, second, other = (
        run(tmp_path / name, {"seed": seed}, validation=[]) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert equal_weights(first, second)
    assert not equal_weights(first, other)
    assert "dice" not in json.loads((tmp_path / "a" / "history.json").read_text())[-1]


def test_a_run_is_validated_five_times(tmp_path: Path, run: Train) -> None:
    run(tmp_path, {"epochs": 10, "steps_per_epoch": 1, "batch_size": 1, "clip_length": 1})
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history if "dice" in row] == [2, 4, 6, 8, 10]


def test_a_network_that_does_not_fit_the_plan_is_refused(
    tmp_path: Path, plan: Plan, model_config: ModelConfig, config: TrainConfig, cases: list[Case]
) -> None:
    other = model_config.model_copy(update={"stem_stride": 2})
    with pytest.raises(InputError, match="setting stem_stride: 2, but the plan needs 1"):
        Trainer(cases, plan, other, config, Hardware("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_worker_processes_do_not_change_the_result(tmp_path: Path, run: Train) -> None:
    assert equal_weights(run(tmp_path / "with", workers=1), run(tmp_path / "without", workers=0))


def test_half_precision_trains(tmp_path: Path, run: Train) -> None:
    weights = run(tmp_path, {"precision": "bf16-mixed", "epochs": 1})
    floating = [value for value in weights.values() if value.is_floating_point()]
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in floating)


def test_invalid_inputs_are_refused(
    tmp_path: Path, run: Train, cases: list[Case], plan: Plan, model_config: ModelConfig, config: TrainConfig
) -> None:
    with pytest.raises(InputError, match="2 clips cannot be shared by 3 processes"):
        run(tmp_path, devices=3)
    with pytest.raises(InputError, match="device abacus is not available"):
        run(tmp_path, device="abacus")
    unlabelled = [Case(c.name, c.image, None, c.grid) for c in cases]
    with pytest.raises(InputError, match="no labelled cases"):
        Trainer(unlabelled, plan, model_config, config, Hardware("cpu"))
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


def test_cases_are_loaded_by_name(dataset: Path, plan: Plan, cases: list[Case]) -> None:
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
    common = ("epochs=1", "steps_per_epoch=2", "batch_size=2", "warmup_steps=2")
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


def test_ddp_accepts_an_aggregation_without_gradient(tmp_path: Path, dataset: Path) -> None:
    weights = _two_processes(tmp_path, dataset, "-n", "propagation=none", machines=2)
    assert all(value.isfinite().all() for value in weights.values())


def test_two_processes_equal_one(
    tmp_path: Path, dataset: Path, plan: Plan, model_config: ModelConfig, config: TrainConfig
) -> None:
    found = _two_processes(tmp_path, dataset)
    cases = load_cases(read_dataset(dataset), ["p0", "p1"], plan, report=lambda *_: None)
    alone = config.model_copy(update={"epochs": 1})
    wanted = Trainer(cases, plan, model_config, alone, Hardware("cpu")).run(tmp_path).model.state_dict()
    # what is added to every class alike has no gradient, and Adam makes steps of its rounding errors
    for weights in (found, wanted):
        del weights["mask_head.2.bias"]
    far = {name: ((found[name] - wanted[name]).abs() > 1e-4).float().mean() for name in wanted}
    assert {name: share for name, share in far.items() if share > 0.005} == {}
