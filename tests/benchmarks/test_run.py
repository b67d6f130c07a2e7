"""The whole command on phantoms: every table, finished work is skipped, errors are one line."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import run
from benchmarks.recipes.phantom import write_dataset
from benchmarks.recipes.recipe import RECIPES

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "benchmarks.run"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
NETWORK = "nnunet2d" if importlib.util.find_spec("dynamic_network_architectures") else "unet2d"
pytestmark = pytest.mark.timeout(300)
QUICK = ["phantom", "--quick", "--device", "cpu", "--methods", "s2vnet", NETWORK, "clicknet"]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=False
    )


def _main(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in this process, which is faster."""
    monkeypatch.setattr(sys, "argv", ["run.py", *options])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    run.main()


def test_interrupted_training_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((RECIPES / "phantom.json").read_text()) | {
        "phantom": {"training": 5, "test": 1, "depth": 4},
        "training": {"epochs": 5, "steps_per_epoch": 4},
        **{"methods": ["s2vnet"], "seeds": [0], "rounds": 1, "most_cases": [4, 1]},
    }
    (tmp_path / "mine.json").write_text(json.dumps(content))
    out, call = tmp_path / "out", [str(tmp_path / "mine.json"), "--device", "cpu", "-o", str(tmp_path / "out")]
    folder = out / "fold-0-seed-0" / "s2vnet"
    process = subprocess.Popen([*COMMAND, *call], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT)
    for _ in range(3000):
        if (folder / "history.json").exists():  # after the first epoch
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "interrupted; run the command again to resume" in process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert not (folder / "trained.json").exists()
    stored = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert 4 <= stored["step"] < 20
    monkeypatch.setattr(run, "_run_in_subprocess", lambda stage, one: stage(one))
    _main(call, monkeypatch)
    trained = json.loads((folder / "trained.json").read_text())
    assert trained["history"][: len(stored["history"])] == stored["history"]  # equal times: not trained again
    assert trained["steps"] == 20
    assert not (folder / "checkpoint.pt").exists()


def test_quick_run_has_every_table_and_skips_finished_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = out / "fold-0-seed-0" / "s2vnet"
    finished = _run(*QUICK, "-o", out)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((out / "report.json").read_text())
    assert list(report["methods"]) == ["s2vnet", NETWORK, "clicknet"]
    for method, found in report["methods"].items():
        assert set(found["automatic"]["per_class"]) == {"left tube", "right tube"}
        assert len(found["automatic"]["cases"]) == 2
        assert 0 <= found["uncertainty"]["ece"] <= 1
        assert set(found["failures"]) == {"ends", "parts", "false", "twins"}
        parts = {"reading", "writing"} | ({"encoding", "decoding"} if method == "s2vnet" else {"network"})
        assert set(found["cost"]["seconds_per_scan"]) == parts
        assert min(found["cost"]["seconds_per_scan"].values()) > 0
        assert found["cost"]["parameters"] > 1000 < found["cost"]["peak_mb"] * 1000
        assert ("interactive" in found) == (method != NETWORK)
        assert ("one_at_a_time" in found) == (method == "s2vnet")
    played = report["methods"]["clicknet"]["interactive"]
    assert len(played["dice_per_round"]) == 3
    assert {"dsc_auc", "nsd_auc", "noc85", "noc90", "seconds_per_round"} <= set(played)
    budget = report["methods"]["s2vnet"]["cost"]["cpu_seconds"]
    for name in (NETWORK, "clicknet"):
        assert report["methods"][name]["cost"]["cpu_seconds"] >= budget
    text = (out / "report.md").read_text()
    for title in (
        "Automatic",
        "HD95 (mm) per organ",
        "Interactive",
        "Uncertainty",
        "Cost",
        "Errors of S2VNet by place",
    ):
        assert f"# {title}\n" in text
    assert "Peak learning rates: S2VNet 0.002, " in text
    for name in ("curves", "rounds", "organs", "best", "median", "worst"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"]({name}.png)" in text

    files = {path: path.stat().st_mtime_ns for path in first.parent.rglob("*")}
    _main([*QUICK, "-o", str(out)], monkeypatch)
    assert ": train" not in "".join(capsys.readouterr())
    assert {path: path.stat().st_mtime_ns for path in first.parent.rglob("*")} == files

    noted = json.loads(next((first / "predicted").iterdir()).read_text())
    assert (noted["device"], noted["hardware"]) == ("cpu", report["hardware"])

    _main([*QUICK[:-3], NETWORK, "-o", str(out)], monkeypatch)
    assert (out / "rounds.png").exists()
    assert "rounds.png" not in (out / "report.md").read_text()  # only pictures of this report

    with pytest.raises(SystemExit, match="1"):
        _main([*(a for a in QUICK if a != "--quick"), "-o", str(out)], monkeypatch)
    assert "was made by another recipe (training, rounds, most_cases)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["btvc"], "no recipe 'btvc'; give a file or one of amos, btcv, btcv-downsampled"),
        (["hippocampus"], "--data: name the folder that holds Dataset004_Hippocampus"),
        (["hippocampus", "--data", "DATA"], "no Dataset004_Hippocampus there"),
        (["FILE", "--data", "DATA", "--folds", "7"], "no fold 7; choose 0 to 4"),
        (["FILE", "--data", "DATA", "--folds", "one"], "no fold 'one'"),
        (["FILE", "--data", "DATA", "--folds", "final"], "add --test once every choice has been made"),
        (["FILE", "--data", "DATA", "--folds", "final", "0", "--test"], "fold final cannot be combined"),
        (["FILE", "--data", "DATA", "--folds", "0", "--test"], "--test scores the test cases, which are fold final"),
        (["FILE", "--data", "OTHER"], "no Dataset900_Phantom there"),
        (["phantom", "--folds", "7"], "no fold 7; choose 0 to 4"),
        (["FILE", "--data", "DATA", "--methods", "sam"], "method 'sam' is not one of s2vnet"),
        (["FILE", "--data", "DATA", "--methods", "unet2d"], "run s2vnet first"),
        (["FILE", "--data", "DATA", "--device", "abacus"], "device abacus is not available"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads((RECIPES / "phantom.json").read_text())
    del content["phantom"]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    write_dataset(tmp_path / "data" / content["dataset"], training=5, test=1, depth=3)
    given = {"DATA": "data", "OTHER": f"data/{content['dataset']}/imagesTr", "FILE": "mine.json"}
    monkeypatch.chdir(tmp_path)
    error = _refused([given.get(a, a) for a in arguments], monkeypatch, capsys)
    assert message in error
    assert not list((tmp_path / "out").glob("fold-*"))


def test_folder_belongs_to_one_recipe_dataset_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((RECIPES / "phantom.json").read_text())
    del content["phantom"]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    for name, cases in (("one", 5), ("other", 6)):
        write_dataset(tmp_path / name / content["dataset"], training=cases, test=1, depth=3)
    monkeypatch.chdir(tmp_path)
    call = ["mine.json", "--device", "cpu", "--methods", "unet2d", "--data"]
    accepted = "run s2vnet first"  # the last check
    assert accepted in _refused([*call, "one"], monkeypatch, capsys)
    assert accepted in _refused([*call, f"one/{content['dataset']}", "--folds", "0", "00"], monkeypatch, capsys)
    assert "another dataset (cases); choose" in _refused([*call, "other"], monkeypatch, capsys)
    inputs = json.loads((tmp_path / "out" / "inputs.json").read_text())
    (tmp_path / "out" / "inputs.json").write_text(json.dumps(inputs | {"device": "cuda"}))
    assert "out was made on cuda, not cpu" in _refused([*call, "one"], monkeypatch, capsys)
    for damaged in ("{", "[]"):
        (tmp_path / "out" / "recipe.json").write_text(damaged)
        assert "recipe.json: damaged (" in _refused([*call, "one"], monkeypatch, capsys)


def test_repeated_fold_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages: list[object] = []
    monkeypatch.setattr(run, "_run_in_subprocess", lambda stage, one: stages.append((stage.__name__, one.fold)))
    monkeypatch.setattr(run, "write_report", lambda *_: None)
    options = ["phantom", "--quick", "--folds", "0", "00", "--methods", "s2vnet", "-o", str(tmp_path / "out")]
    _main(options, monkeypatch)
    assert stages == [("train_stage", 0), ("predict_stage", 0), ("score_stage", 0)]


def _refused(options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Error line of a call with the output folder `out`."""
    with pytest.raises(SystemExit) as stopped:
        _main([*options, "-o", "out"], monkeypatch)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not Path("out", "report.json").exists()
    return error
