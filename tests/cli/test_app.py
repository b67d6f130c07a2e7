"""The command line from a dataset to corrected labels, with the smallest training there is."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from s2vnet import __version__
from s2vnet.cli import app as cli
from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.session import Session
from s2vnet.io.files import read_image, read_labels, write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume

SMALL = ["-c", "steps_per_epoch=1", "-c", "batch_size=1", "-c", "clip_length=2"]
SMALL += ["-n", "dim=32", "-n", "mask_dim=8", "--device", "cpu"]
Main = Callable[..., tuple[int, list[str]]]


def run(*args: object, stdin: str = "", code: int = 0) -> str:
    """Standard output of a command in this process; any error but an exit is raised."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """``main(*args)``: exit code of the entry point, and lines on the error stream."""

    def call(*args: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["s2vnet", *(str(a) for a in args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err.splitlines()

    return call


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases in nnU-Net's raw layout: two bright boxes in noise, 12 x 14 x 6 voxels of 1 x 1 x 3 mm."""
    root = tmp_path_factory.mktemp("raw") / "Dataset001_Boxes"
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    geometry = Geometry((12, 14, 6), np.diag([-1.0, -1, 3, 1]))
    for n in range(5):
        labels = np.zeros(geometry.shape, np.uint8)
        labels[1:5, 2 + n % 2 : 9, 1:5] = 1
        labels[7:11, 4:11, 2:5] = 2
        image = 100.0 * labels + np.random.default_rng(n).normal(0, 5, geometry.shape)
        write_image(root / "imagesTr" / f"box{n}_0000.nii.gz", Volume(image[None].astype(np.float32), geometry))
        write_labels(root / "labelsTr" / f"box{n}.nii.gz", LabelMap(labels, geometry))
    names = {"0": "MR"}, {"background": 0, "left box": 1, "right": 2}
    content = {"channel_names": names[0], "labels": names[1], "numTraining": 5, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of one step of training on fold 0, validated."""
    folder = tmp_path_factory.mktemp("runs") / "f0"
    out = run("train", dataset, "-o", folder, "--epochs", 1, *SMALL)
    assert "left box" in out
    assert "Dice to reach" in out
    return folder


@pytest.fixture
def image(dataset: Path) -> Path:
    return dataset / "imagesTr" / "box0_0000.nii.gz"


def test_version_and_help() -> None:
    assert run("--version") == f"s2vnet {__version__}\n"
    out = run("--help")
    assert all(command in out for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_shows_an_example_and_is_listed_by_its_first_line(command: str) -> None:
    help_text = cli.load_command(command).help
    assert f"Example: s2vnet {command}" in help_text
    assert help_text.startswith(cli.COMMANDS[command].summary)


def test_help_imports_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "monai", "pydantic", "scipy", "SimpleITK")
    code = (
        "import sys, s2vnet.cli.app as cli; sys.argv = ['s2vnet', '--help']\n"
        f"try: cli.main()\nexcept SystemExit: print([name for name in {heavy} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert shown.stdout.endswith("[]\n")


def test_an_unknown_command_is_wrong_usage(main: Main) -> None:
    code, lines = main("segmnt")
    assert code == 2
    assert any("No such command" in line for line in lines)


def test_a_plan_is_shown_and_saved(dataset: Path, tmp_path: Path) -> None:
    shown = run("plan", dataset, "-o", tmp_path / "out")
    assert json.loads(shown) == json.loads((tmp_path / "out" / "plan.json").read_text())
    assert json.loads(shown)["plane"] == "axial"
    assert json.loads((tmp_path / "out" / "fingerprint.json").read_text())["cases"] == 5


def test_a_dataset_is_named_once(dataset: Path, tmp_path: Path, main: Main) -> None:
    assert run("plan", "-d", dataset, "-o", tmp_path) == run("plan", dataset, "-o", tmp_path)
    for options in ([], [dataset, "-d", dataset]):
        assert main("plan", *options, "-o", tmp_path / "none") == (
            1,
            ["error: name one dataset folder, as an argument or by -d"],
        )


def test_an_imported_dataset_can_be_planned(dataset: Path, tmp_path: Path, main: Main) -> None:
    target = tmp_path / "Dataset002_Boxes"
    assert run("import", "nnunet", dataset, target) == f"{target}: 5 training and 0 test cases\n"
    assert run("plan", target, "-o", tmp_path / "a") == run("plan", dataset, "-o", tmp_path / "b")
    assert main("import", "nnunet", dataset, tmp_path / "boxes", "--copy") == (
        0,
        ["note: boxes: nnU-Net itself requires a name such as Dataset017_BTCV"],
    )
    again = ["import", "nnunet", dataset, target, "--partial"]
    assert main(*again) == (1, [f"error: {target}: exists already; remove it or choose another name"])
    options = ["--split", "24/6", "--modality", "ct"]
    assert main("import", "btcv", dataset, tmp_path / "new", *options)[0] == 1


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


def test_predictions_are_the_segmentation(model: Path, dataset: Path, image: Path, tmp_path: Path) -> None:
    run("predict", "-m", model, "-i", image, "-o", tmp_path / "one.nii.gz", "--device", "cpu")
    expected = Segmenter.from_pretrained(model, device="cpu").segment(read_image(image)).labels()
    np.testing.assert_array_equal(read_labels(tmp_path / "one.nii.gz").data, expected.data)
    args = ["predict", "-m", model, "-m", model, "-i", dataset / "imagesTr", "-o", tmp_path / "all", "--volumes"]
    run(*args, "--classes", "left box, 2", "--skip-existing")
    assert len(list((tmp_path / "all").glob("*.nii.gz"))) == 5
    np.testing.assert_array_equal(read_labels(tmp_path / "all" / "box0.nii.gz").data, expected.data)
    with (tmp_path / "all" / "volumes.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["case", "left box (ml)", "right (ml)"]
    assert len(rows) == 6


def test_one_damaged_image_fails_and_the_others_are_written(
    model: Path, dataset: Path, tmp_path: Path, main: Main
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "bad_0000.nii.gz").write_bytes(b"bad")
    (folder / "good_0000.nii.gz").write_bytes((dataset / "imagesTr" / "box0_0000.nii.gz").read_bytes())
    code, lines = main("predict", "-m", model, "-i", folder, "-o", tmp_path / "out")
    assert code == 1
    assert lines[0].startswith("error: bad: ")
    assert lines[1:] == ["error: 1 of 2 images failed; the others are written"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    code, lines = main("predict", "-m", model, "-i", folder / "bad_0000.nii.gz", "-o", tmp_path / "out")
    assert (code, len(lines)) == (1, 1)


@pytest.mark.usefixtures("in_process")
def test_workers_tell_what_failed_and_go_on_when_it_is_mended(
    model: Path, dataset: Path, tmp_path: Path, main: Main
) -> None:
    listed = tmp_path / "list.csv"
    whole = (dataset / "imagesTr" / "box0_0000.nii.gz").read_bytes()
    for name, content in {"bad": b"bad", "good": whole}.items():
        (tmp_path / f"{name}_0000.nii.gz").write_bytes(content)
    listed.write_text("image\nbad_0000.nii.gz\ngood_0000.nii.gz\n")
    command = ("predict", "-m", model, "-i", listed, "-o", tmp_path / "out", "--workers", 1, "--device", "cpu")
    code, (line,) = main(*command)
    assert (code, line.startswith("error: bad: ")) == (1, True)
    (tmp_path / "bad_0000.nii.gz").write_bytes(whole)
    assert main(*command) == (0, [])
    with (tmp_path / "out" / "summary.csv").open(newline="") as stream:
        assert [(row["case"], row["state"]) for row in csv.DictReader(stream)] == [("bad", "done"), ("good", "skipped")]
    code, (line,) = main(*command, "--series", 1)
    assert (code, "--series" in line) == (1, True)


def test_errors_are_one_line_and_exit_code_1(model: Path, image: Path, tmp_path: Path, main: Main) -> None:
    out = tmp_path / "out.nii.gz"
    (tmp_path / "file").write_text("")
    absent, report = tmp_path / "absent", tmp_path / "report.json"
    wrong: list[tuple[list[object], str]] = [
        (["predict", "-m", "absent", "-i", image, "-o", out], "no model 'absent'"),
        (["predict", "-m", model, "-i", absent, "-o", out], "no such file or folder"),
        (["predict", "-m", model, "-i", image, "-o", out, "--classes", "liver"], "no class 'liver'"),
        (["predict", "-m", model, "-i", image, "-o", image], "would replace the image"),
        (["plan", absent, "-o", tmp_path], "dataset.json"),
        (["plan", image.parent.parent, "-o", tmp_path / "file" / "out"], "choose a writable folder"),
        (["interact", "-m", model, "-i", image, "-o", tmp_path / "a.txt"], "unknown image format"),
        (["interact", "-m", model, "-i", image, "-o", image], "would replace the image"),
        (["interact", "-m", model, "-i", image, "-o", out, "--point", "liver,1,2,3"], "no class 'liver'"),
        (["interact", "-m", model, "-i", image, "-o", out, "--not", "right,1,2,99"], "outside the volume"),
        (["evaluate", "-i", image, "-g", image, "-o", tmp_path / "a.txt"], "must be named .json"),
        (["evaluate", "-i", image, "-g", absent, "-o", report], "give two folders, or two files"),
        (["evaluate", "-i", image.parent, "-g", absent, "-o", report], "give two folders, or two files"),
        (["evaluate", "-i", image.parent, "-g", image.parent, "-o", report, "--interactive"], "needs a model"),
        (["export-log", absent, "-o", tmp_path / "a.csv"], "No such file"),
        (["export", "-m", "hippocampus-mr", "-o", tmp_path / "a", "--int8", absent], "no such file or folder"),
    ]
    for args, message in wrong:
        code, lines = main(*args)
        assert (code, len(lines)) == (1, 1), lines
        assert lines[0].startswith("error: ")
        assert message in lines[0]
    assert not out.exists()


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "s2vnet", "plan", tmp_path / "no", "-o", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: {tmp_path / 'no' / 'dataset.json'}: No such file or directory")
    assert found.stderr.count("\n") == 1
    assert found.stdout == ""


def test_other_ends_of_the_entry_point(model: Path, image: Path, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main("--version") == (0, [])
    code, lines = main("predict", "-m", model)
    assert code == 2
    assert any("Missing option" in line for line in lines)

    class Interrupted:
        def isatty(self) -> bool:
            return False

        def __iter__(self) -> Iterator[str]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Interrupted())
        output = image.parent.parent / "labels.nii.gz"
        code, lines = main("interact", "-m", model, "-i", image, "-o", output)
    assert (code, lines[-1]) == (130, "interrupted; nothing half-written is left")
    assert output.exists()

    def failing(error: BaseException) -> Callable[..., None]:
        def fail(**_: object) -> None:
            raise error

        return fail

    monkeypatch.setattr(cli, "app", failing(typer.Abort()))
    assert main()[0] == 130
    monkeypatch.setattr(cli, "app", failing(RuntimeError("a fault of the program")))
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main()


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


def test_prompts_by_options_by_a_log_and_typed_are_one(model: Path, image: Path, tmp_path: Path) -> None:
    log, names = tmp_path / "log.json", [tmp_path / f"{n}.nii.gz" for n in range(4)]
    common = ["interact", "-m", model, "-i", image, "--device", "cpu"]
    shown = run(*common, "-o", names[0], "--log", log, "--point", "left box,3,5,2", "--not", "2,8,6,3")
    assert shown.splitlines()[-1] == f"{names[0]}: 2 prompts"
    run(*common, "-o", names[1], "--log", log)
    typed = "point left box 3 5 2\n\nnot 2 8 6 3\nlist\nquit\nundo\n"
    shown = run(*common, "-o", names[2], "--log", tmp_path / "typed.json", stdin=typed)
    lines = shown.splitlines()
    assert lines[2:4] == ["0 point: class 1 at 3 5 2", "1 point: not class 2 at 8 6 3"]
    run(*common, "-o", names[3], stdin="")
    session = Session(Segmenter.from_pretrained(model, device="cpu"), read_image(image))
    automatic = session.labels
    session.add_point(1, (3, 5, 2))
    session.add_point(2, (8, 6, 3), positive=False)
    for name, expected in zip(names, [session.labels] * 3 + [automatic], strict=True):
        np.testing.assert_array_equal(read_labels(name).data, expected)
    assert json.loads(log.read_text()) == json.loads((tmp_path / "typed.json").read_text())
    for ending in ("csv", "md"):
        assert run("export-log", log, "-o", tmp_path / f"log.{ending}") == f"{tmp_path / f'log.{ending}'}\n"
    assert (tmp_path / "log.csv").read_text().splitlines()[1] == "0,point,1,true,3 5 2"
    assert (tmp_path / "log.md").read_text().startswith("| number | kind |")


def test_a_wrong_prompt_ends_what_nobody_watches_and_keeps_the_rest(
    model: Path, image: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, output = tmp_path / "log.json", tmp_path / "a.nii.gz"
    common = ["interact", "-m", model, "-i", image, "-o", output, "--log", log]
    wrong = ["error: no class 'liver'; classes of the model: 0 background, 1 left box, 2 right"]
    assert main(*common, "--point", "1,3,5,2", "--point", "liver,1,1,1") == (1, wrong)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sys, "stdin", io.StringIO("point 1 3 5 2\npoint liver 1 1 1\n"))
    assert main(*common) == (1, wrong)
    assert [file.name for file in tmp_path.iterdir()] == ["log.json"]
    assert len(json.loads(log.read_text())["entries"]) == 1


def test_a_wrong_prompt_can_be_typed_again_and_an_interrupt_keeps_the_labels(
    model: Path, image: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def __next__(self) -> str:
            line = super().__next__()
            if line == "interrupt\n":
                raise KeyboardInterrupt
            return line

    monkeypatch.setattr(sys, "stdin", Terminal("point liver 1 1 1\npoint 1 3 5 2\ninterrupt\n"))
    code, lines = main("interact", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz", "--log", tmp_path / "l.json")
    assert code == 130
    said = ["commands", "classes", "error", "interrupted; nothing half-written is left"]
    assert [line.split(":")[0] for line in lines] == said
    assert read_labels(tmp_path / "a.nii.gz").data[3, 5, 2] == 1
    assert len(json.loads((tmp_path / "l.json").read_text())["entries"]) == 1


@pytest.mark.parametrize("command", ["interact", "evaluate"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    model: Path, image: Path, tmp_path: Path, main: Main, command: str
) -> None:
    given: list[object] = (
        ["-m", model, "-i", image, "-o"] if command == "interact" else ["-i", image, "-g", image, "-o"]
    )
    name, folder = "a.nii.gz" if command == "interact" else "r.json", tmp_path / "nowhere"
    code, lines = main(command, *given, folder / name)
    reason = "No such file or directory; choose an existing, writable folder"
    assert (code, lines) == (1, [f"error: cannot write to {folder}: {reason}"])
    if command == "interact":
        assert main(command, *given, tmp_path / "a.nii.gz", "--log", tmp_path / "a.nii.gz")[0] == 1


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


def test_cases_that_were_not_predicted_are_named(dataset: Path, tmp_path: Path, main: Main) -> None:
    for n in (0, 1):
        shutil.copy(dataset / "labelsTr" / f"box{n}.nii.gz", tmp_path)
    shutil.copy(dataset / "imagesTr" / "box0_0000.nii.gz", tmp_path / "box0_probabilities.nii.gz")
    code, lines = main("evaluate", "-i", tmp_path, "-g", dataset / "labelsTr", "-o", tmp_path / "report.json")
    assert (code, lines) == (0, [f"note: 3 of 5 labelled cases are not in {tmp_path}: box2, box3, box4"])
    assert len(json.loads((tmp_path / "report.json").read_text())["automatic"]["cases"]) == 2


def test_a_single_slice_and_voxels_to_fill(model: Path, tmp_path: Path, main: Main) -> None:
    data = np.random.default_rng(0).normal(size=(1, 12, 14, 1)).astype(np.float32)
    data[0, 3, 4, 0] = np.nan
    write_image(tmp_path / "one.nii.gz", Volume(data, Geometry((12, 14, 1), np.eye(4))))
    common = ["predict", "-m", model, "-i", tmp_path / "one.nii.gz", "-o", tmp_path / "labels.nii.gz"]
    code, lines = main(*common)
    assert code == 1
    assert "1 of 168 voxels are NaN or infinite" in lines[0]
    code, lines = main(*common, "--fill-nan", 0)
    assert code == 0
    assert [line.split(",")[0] for line in lines] == [
        "note: one: unlike the training data: the volume is 1 mm long from foot to head",
    ]
    assert read_labels(tmp_path / "labels.nii.gz").data.shape == (12, 14, 1)


def test_channels_in_a_folder_are_one_image_and_are_never_replaced(
    model: Path, image: Path, tmp_path: Path, main: Main
) -> None:
    case = tmp_path / "case"
    case.mkdir()
    shutil.copy(image, case / "x_0000.nii.gz")
    before = (case / "x_0000.nii.gz").read_bytes()
    code, lines = main("interact", "-m", model, "-i", case, "-o", case / "x_0000.nii.gz", "--point", "1,3,5,2")
    assert code == 1
    assert "the labels would replace the image" in lines[0]
    assert main("interact", "-m", model, "-i", case, "-o", tmp_path / "a.nii.gz", "--point", "1,3,5,2") == (0, [])
    assert (case / "x_0000.nii.gz").read_bytes() == before
    assert read_labels(tmp_path / "a.nii.gz").data[3, 5, 2] == 1


def test_a_file_that_the_system_refuses_is_one_line(
    model: Path, image: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    code, lines = main("predict", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz")
    assert (code, lines) == (1, [f"error: {image}: Permission denied"])


def test_what_a_later_prompt_overrules_is_noted(model: Path, image: Path, tmp_path: Path, main: Main) -> None:
    points = ["--point", "1,3,5,2", "--point", "2,3,5,2"]
    code, lines = main("interact", "-m", model, "-i", image, "-o", tmp_path / "a.nii.gz", *points)
    assert (code, lines) == (0, ["note: prompt 1 overrules prompt 0 where they overlap"])


def test_the_demo_tells_what_a_round_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Main) -> None:
    monkeypatch.setattr(
        "s2vnet.demo.run.run_demo",
        lambda output, device, scene, say: SimpleNamespace(seconds_automatic=2.0, seconds=[0.1, 0.3]),
    )
    shown = run("demo", "-o", tmp_path / "demo")
    assert shown == f"a round costs 1/10 of encoding and segmenting the image again; see {tmp_path / 'demo' / 'overlay.png'}\n"
    assert (tmp_path / "demo").is_dir()
    code, lines = main("demo", "-o", tmp_path / "other", "--scene", "knee")
    assert (code, lines) == (1, ["error: no scene 'knee'; choose one of abdomen, hippocampus"])
    assert not (tmp_path / "other").exists()


def test_one_of_several_series_is_chosen_by_number(
    model: Path, tmp_path: Path, main: Main, write_series: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, data = tmp_path / "study", np.random.default_rng(2).integers(0, 500, (12, 14, 6)).astype(np.int16)
    study.mkdir()
    write_series(study, data)
    for file in list(study.iterdir()):
        file.rename(study / f"first-{file.name}")
    write_series(study, data[:, :, :4])
    output = tmp_path / "out.nii.gz"
    code, (line,) = main("predict", "-m", model, "-i", study, "-o", output)
    assert code == 1
    assert "2 DICOM series" in line
    assert "--series" in line
    depths = set()
    for number in (1, 2):
        assert main("predict", "-m", model, "-i", study, "-o", output, "--series", number) == (0, [])
        automatic = read_labels(output)
        contours = tmp_path / "out.rtstruct.dcm"
        assert main("predict", "-m", model, "-i", study, "-o", contours, "--series", number) == (0, [])
        prompted = ["-o", contours, "--series", number, "--point", "1,3,5,2"]
        assert main("interact", "-m", model, "-i", study, *prompted) == (0, [])
        assert contours.is_file()
        depths.add(automatic.geometry.shape[2])
        served: list[int] = []
        monkeypatch.setattr("s2vnet.server.app.viewer_hint", lambda: None)  # the page's library is not needed here
        monkeypatch.setattr(
            "s2vnet.server.run.run",
            lambda settings, started, served=served: served.append(read_image(settings.data).geometry.shape[2]),
        )
        state = ["--state", tmp_path / "state", "--no-browser"]
        assert main("view", study, "-m", model, "--series", number, *state) == (0, [])
        assert served == [automatic.geometry.shape[2]]
    assert depths == {4, 6}


def test_view_opens_the_page_of_its_one_scan(
    main: Main, image: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2vnet.server.app import create_app
    from s2vnet.server.settings import Settings

    opened: list[str] = []

    def serve(settings: Settings, started: Any) -> None:
        application = create_app(settings)
        started("http://127.0.0.1:1/", application)
        name = opened[-1].partition("#")[2]
        assert application.state.store.get(name).wait_ready(60).geometry.shape == read_image(image).geometry.shape
        application.state.store.close()

    monkeypatch.setattr("s2vnet.server.app.viewer_hint", lambda: None)
    monkeypatch.setattr("s2vnet.server.run.run", serve)
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main("view", image, "-m", model, "--state", tmp_path / "state")[0] == 0
    assert opened[0].startswith("http://127.0.0.1:1/?token=")
