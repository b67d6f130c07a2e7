"""``s2vnet train``: runs, their settings, and what continues them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from command_line import SMALL, Main


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
        assert code == 1
        assert len(lines) == 1
        assert message in lines[0]
    assert {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()} == before
