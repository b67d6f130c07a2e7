"""``s2vnet evaluate``: scores of label files and of a simulated user."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Main, run

from s2vnet.errors import InputError


def test_predictions_are_scored(dataset: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    truth = dataset / "labelsTr"
    shown = run("evaluate", "-i", truth, "-g", truth, "-o", report, "--classes", "left box")
    found = json.loads(report.read_text())["automatic"]
    assert found["dice"] == 1
    assert list(found["per_class"]) == ["left box", "2"]
    assert len(found["cases"]) == 5
    assert report.with_suffix(".md").is_file()
    assert "left box" in shown
    assert "box0" not in shown
    run("evaluate", "-i", truth / "box0.nii.gz", "-g", truth / "box1.nii.gz", "-o", report)
    assert 0 < json.loads(report.read_text())["automatic"]["dice"] < 1
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "box0.nii.gz").write_bytes((truth / "box0.nii.gz").read_bytes())
    run("evaluate", "-i", tmp_path / "some", "-g", truth, "-o", report)
    with pytest.raises(InputError, match="no labels for box1, box2, box3, box4"):
        run("evaluate", "-i", truth, "-g", tmp_path / "some", "-o", report)


@pytest.mark.parametrize("options", [[], ["--negative-clicks", "--jitter", "1"]])
def test_a_simulated_user_is_scored(model: Path, dataset: Path, tmp_path: Path, options: list[str]) -> None:
    folders = ["-i", dataset / "imagesTr", "-g", dataset / "labelsTr", "-o", tmp_path / "report.json"]
    shown = run("evaluate", "--interactive", "-m", model, *folders, "--rounds", 2, *options)
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(found) == {"automatic", "interactive"}
    assert len(found["interactive"]["dice_per_round"]) == 3
    assert "# Automatic segmentation" in shown


def test_cases_that_were_not_predicted_are_named(dataset: Path, tmp_path: Path, main: Main) -> None:
    for n in (0, 1):
        shutil.copy(dataset / "labelsTr" / f"box{n}.nii.gz", tmp_path)
    shutil.copy(dataset / "imagesTr" / "box0_0000.nii.gz", tmp_path / "box0_probabilities.nii.gz")
    code, lines = main("evaluate", "-i", tmp_path, "-g", dataset / "labelsTr", "-o", tmp_path / "report.json")
    assert (code, lines) == (0, [f"note: 3 of 5 labelled cases are not in {tmp_path}: box2, box3, box4"])
    assert len(json.loads((tmp_path / "report.json").read_text())["automatic"]["cases"]) == 2


@pytest.mark.parametrize("options", [[], ["--interactive", "--rounds", 1]])
def test_a_case_that_cannot_be_scored_is_said_and_the_others_are(
    options: list[object], model: Path, dataset: Path, tmp_path: Path, main: Main
) -> None:
    given = tmp_path / "given"
    if options:
        shutil.copytree(dataset / "imagesTr", given)
        (given / "box1_0000.nii.gz").write_bytes(b"bad")
    else:
        shutil.copytree(dataset / "labelsTr", given)
        (given / "box1.nii.gz").write_bytes(b"bad")
    command = ["evaluate", "-i", given, "-g", dataset / "labelsTr", "-o", tmp_path / "r.json", *options]
    code, lines = main(*command, *(["-m", model] if options else []))
    assert code == 1
    assert lines[0].startswith("error: box1: ")
    assert lines[1:] == ["error: 1 of 5 cases are not in the report"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert list(report["failed"]) == ["box1"]
    assert len(report["automatic"]["cases"]) == 4


def test_without_any_case_no_report_is_written(dataset: Path, tmp_path: Path, main: Main) -> None:
    (tmp_path / "box0.nii.gz").write_bytes(b"bad")
    code, lines = main("evaluate", "-i", tmp_path, "-g", dataset / "labelsTr", "-o", tmp_path / "r.json")
    assert code == 1
    assert lines[-1] == "error: none of 1 cases can be scored; no report is written"
    assert not (tmp_path / "r.json").exists()
