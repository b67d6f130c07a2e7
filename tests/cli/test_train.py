"""``s2vnet train``: runs, their settings, and what continues them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import SMALL, Main

from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import LabelMap


def test_a_training_leaves_a_model_and_its_scores(model: Path, dataset: Path) -> None:
    info = json.loads((model / "model.json").read_text())["info"]
    assert info["fold"] == "0"
    assert info["training_cases"] == 4
    scores = json.loads((model / "validation.json").read_text())
    assert [row["case"] for row in scores["automatic"]["cases"]] == ["box0"]
    assert len(scores["interactive"]["dice_per_round"]) == 6


def test_an_interrupted_training_goes_on(
    dataset: Path, model: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["train", dataset, "-o", tmp_path, "-f", "all", "--epochs", 2, "--plan", model / "plan.json", *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr("s2vnet.training.trainer.quick_scores", lambda *_: signal.raise_signal(signal.SIGINT) or {})
        code, lines = main(*given)
    assert code == 130
    said = [f"{tmp_path}: continue this run with --resume", "interrupted; nothing half-written is left"]
    assert lines[-2:] == said
    assert not (tmp_path / "model.json").exists()
    assert main(*given, "--resume")[0] == 0
    info = json.loads((tmp_path / "model.json").read_text())["info"]
    assert (info["training_cases"], info["steps"]) == (5, 2)
    assert not (tmp_path / "validation.json").exists()


def test_a_resumed_run_keeps_its_split_where_cases_were_added(
    dataset: Path, model: Path, tmp_path: Path, main: Main
) -> None:
    """The network is not scored on cases that it was trained with, and its weights and counts stay as they are."""
    data, folder = tmp_path / "Dataset002_More", tmp_path / "run"
    shutil.copytree(dataset, data)
    shutil.copytree(model, folder)
    before = json.loads((folder / "model.json").read_text())
    for part, name in (("imagesTr", "{}_0000.nii.gz"), ("labelsTr", "{}.nii.gz")):
        for n in range(3):
            shutil.copy(data / part / name.format("box0"), data / part / name.format(f"added{n}"))
    code, lines = main("train", data, "-o", folder, "--epochs", 1, *SMALL, "--resume")
    assert (code, lines[0]) == (0, "note: added0, added1, added2: added since this run began, not used; start a new run"
                                   " to train on them")  # fmt: skip
    after = json.loads((folder / "model.json").read_text())
    assert after["sha256"] == before["sha256"]
    assert after["info"]["training_cases"] == before["info"]["training_cases"] == 4
    scores = json.loads((folder / "validation.json").read_text())
    assert [row["case"] for row in scores["automatic"]["cases"]] == ["box0"]
    code, (line,) = main("train", data, "-o", folder, "-f", 1, "--epochs", 1, *SMALL, "--resume")
    assert (code, "this run is of fold 0, not 1" in line) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-f", "7"], "no fold '7'; choose 0 to 4, or all"),
        (["-f", "x"], "no fold 'x'"),
        (["-c", "nonsense=1"], "setting nonsense: Extra inputs are not permitted"),
        (["-c", "epochs=many"], "setting epochs: Input should be a valid integer"),
        (["-c", "epochs=-1"], "setting epochs: Input should be greater than or equal to 1"),
        (["-c", "epochs=--1"], "setting epochs"),
        (["-c", "epochs"], "'epochs': settings are given as KEY=VALUE"),
        (["-n", "stem_stride=3"], "setting stem_stride: Input should be 1, 2 or 4"),
        (["-n", "dim=30"], "dim 30"),
        (["-n", "encoder=huge"], "unknown encoder 'huge'"),
        (["--device", "tpu"], "device tpu is not available"),
        (["--plan", "absent.json"], "absent.json: No such file or directory"),
    ],
)
def test_settings_that_are_none(dataset: Path, tmp_path: Path, main: Main, options: list[str], message: str) -> None:
    code, lines = main("train", dataset, "-o", tmp_path, *options)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_refused_training_leaves_the_run_as_it_was(model: Path, dataset: Path, tmp_path: Path, main: Main) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()}
    edited = json.loads((model / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(edited | {"context_slices": 0}))
    (tmp_path / "labels.json").write_text(json.dumps(edited | {"labels": {"background": 0, "one": 1}}))
    for options, message in (
        (["--resume", "--plan", tmp_path / "plan.json"], "made with another plan or configuration"),
        (["--resume", "--plan", tmp_path / "labels.json"], "the plan is for labels"),
        (["--resume", "-c", "nonsense=1"], "setting nonsense"),
        (["--resume", "--seed", "1"], "another plan or configuration (train seed)"),
        ([], "holds a run; give --resume"),
    ):
        code, lines = main("train", dataset, "-o", model, "--epochs", 1, *SMALL, *options)
        assert code == (6 if "plan or configuration" in message else 1)
        assert len(lines) == 1
        assert message in lines[0]
    assert {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()} == before


def test_regions_and_the_ignore_label_are_trained_with(dataset: Path, tmp_path: Path) -> None:
    """Classes are the integers of the files; a region is scored as their union; unknown voxels do not count.

    Without a terminal, there is a line per epoch, and at the end what was written where.
    """
    data = tmp_path / "Dataset003_Regions"
    shutil.copytree(dataset, data)
    labels = {"background": 0, "both boxes": [1, 2], "right": 2, "ignore": 3}
    content = json.loads((data / "dataset.json").read_text()) | {"labels": labels, "licence": "CC0"}
    (data / "dataset.json").write_text(json.dumps(content))
    for file in (data / "labelsTr").iterdir():
        truth = read_labels(file)
        voxels = truth.data.copy()
        voxels[:, :, 4:] = 3
        write_labels(file, LabelMap(voxels, truth.geometry))
    command = ["train", data, "-o", tmp_path / "run", "--epochs", 2, *SMALL]
    ended = subprocess.run(  # apart from tests that use OpenVINO, whose threads do not go together with training's
        [sys.executable, "-m", "s2vnet", *map(str, command)], capture_output=True, text=True, check=True
    )
    assert ended.stderr.splitlines()[0] == (
        "note: regions (both boxes) are scored as unions of the exclusive classes of the files, which are trained: "
        "1 both boxes without right, 2 right"
    )
    first, second, *_, last = ended.stdout.splitlines()
    assert re.fullmatch(r"epoch 1 of 2: loss \d\.\d{4}(, Dice .*)?, \d.* left", first)
    assert re.fullmatch(r"epoch 2 of 2: loss \d\.\d{4}(, Dice .*)?, finished", second)
    assert last.startswith(f"{tmp_path / 'run'}: model.json, model.safetensors, history.json, curves.png, validation.")
    scores = json.loads((tmp_path / "run" / "validation.json").read_text())["automatic"]
    assert list(scores["per_class"]) == ["both boxes without right", "right"]
    assert list(scores["regions"]["per_region"]) == ["both boxes"]
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    assert described["info"]["licence"] == "CC0"
    assert described["plan"]["regions"] == {"both boxes": [1, 2]}
    assert described["plan"]["labels"] == {"background": 0, "both boxes without right": 1, "right": 2}


def test_a_budget_of_hours_sets_the_epochs_which_a_resumed_run_keeps(
    dataset: Path, model: Path, tmp_path: Path, main: Main
) -> None:
    given = ["train", dataset, "-o", tmp_path, "-f", "all", "--plan", model / "plan.json", *SMALL]
    code, lines = main(*given, "--hours", 1e-6)
    assert code == 0
    (said,) = [line for line in lines if "--hours" in line]
    assert re.fullmatch(r"note: about [\d.]+ s on this (CPU|GPU): 1 epochs, 1 steps of [\d.e-]+ s; .*", said)
    before = json.loads((tmp_path / "model.json").read_text())
    assert main(*given, "--hours", 5, "--resume")[0] == 0
    after = json.loads((tmp_path / "model.json").read_text())
    assert (after["info"]["steps"], after["sha256"]) == (1, before["sha256"])
    code, lines = main("train", dataset, "-o", tmp_path / "other", "--hours", 1, "--epochs", 2)
    assert (code, len(lines)) == (1, 1)
    assert "leave out --epochs" in lines[0]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_cases_and_folders_of_any_name(dataset: Path, model: Path, tmp_path: Path, main: Main) -> None:
    """Import, plan, train, resume and evaluate, with names that are not text."""
    source = tmp_path / os.fsdecode(b"Dataset001_\xff")
    names = [os.fsdecode(name) for name in (b"\xff\xe9", "Größe 山".encode(), b"a\nb", b"[red]x", b"-x")]
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (source / part).mkdir(parents=True)
        for number, name in enumerate(names):
            shutil.copy(dataset / part / f"box{number}{ending}", source / part / f"{name}{ending}")
    shutil.copy(dataset / "dataset.json", source)
    target, run = tmp_path / os.fsdecode(b"Dataset002_\xe9"), tmp_path / os.fsdecode(b"run \xff")
    assert main("import", "nnunet", source, target) == (0, [])
    assert main("plan", target, "-o", run / "plan")[0] == 0
    given = ["train", target, "-o", run, "-f", 4, "--epochs", 1, "--plan", run / "plan" / "plan.json", *SMALL]
    for resume in ([], ["--resume"]):
        assert main(*given, *resume)[0] == 0
    data = json.loads((run / "cases.json").read_text("utf-8"))
    assert set(data["training"]) | set(data["held_out"]) == set(names)
    labels = target / "labelsTr"
    assert main("evaluate", "-i", labels, "-g", labels, "-o", tmp_path / "report.json")[0] == 0
