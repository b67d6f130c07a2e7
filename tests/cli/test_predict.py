"""``s2vnet predict``: labels of images, files and folders."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Main, run
from odd_headers import SECRET, set_odd_values

from s2vnet.batch import jobs
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_image, read_labels, write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.utils.file_names import printable


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


@pytest.fixture
def odd_names(dataset: Path, tmp_path: Path) -> Path:
    """Images with names that are no text, or have a meaning elsewhere, and one that is damaged."""
    folder = tmp_path / os.fsdecode(b"images \xff")
    folder.mkdir()
    for name in (b"\xff\xe9", "Größe 山".encode(), b"a\nb", b"[red]x[bold]", b"a::b\\c", b"-x"):
        shutil.copyfile(dataset / "imagesTr" / "box0_0000.nii.gz", folder / os.fsdecode(name + b".nii.gz"))
    (folder / os.fsdecode(b"bad \xe9.nii.gz")).write_bytes(b"bad")
    return folder


SHOWN = {r"\xff\xe9", "Größe 山", "a\nb", "[red]x[bold]", r"a::b\c", "-x"}


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("batch", [False, True])
def test_any_name_goes_through_predict_and_evaluate(
    model: Path, odd_names: Path, tmp_path: Path, main: Main, batch: bool
) -> None:
    output, options = tmp_path / "out", ["--workers", 1] if batch else []
    command = ["predict", "-m", model, "-i", odd_names, "-o", output, "--volumes", "--device", "cpu", *options]
    assert main(*command)[0] == 1
    written = {file.name.removesuffix(".nii.gz") for file in output.glob("*.nii.gz")}
    assert {printable(name) for name in written} == SHOWN
    with (output / "volumes.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == SHOWN
    if batch:
        assert main(*command)[0] == 1  # it resumes
        with (output / "summary.csv").open(newline="", encoding="utf-8") as stream:
            states = {row["case"]: row["state"] for row in csv.DictReader(stream)}
        assert states == dict.fromkeys(SHOWN, "skipped") | {r"bad \xe9": "failed"}
    (odd_names / os.fsdecode(b"bad \xe9.nii.gz")).unlink()
    assert main("evaluate", "-i", output, "-g", output, "-o", tmp_path / "r.json")[0] == 0
    report = json.loads((tmp_path / "r.json").read_bytes())
    assert {case["case"] for case in report["automatic"]["cases"]} == SHOWN
    assert "\n| a b | 1.000 |" in (tmp_path / "r.md").read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_any_name_goes_through_in_a_locale_of_ascii(model: Path, odd_names: Path, tmp_path: Path) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ["-m", model, "-i", odd_names, "-o", tmp_path / "out", "--volumes", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "s2vnet", "predict", *options], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"error: bad " in done.stderr
    with (tmp_path / "out" / "volumes.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == SHOWN


@pytest.mark.parametrize("odd", ["unknown character set", "no time", "several names"])
def test_no_name_of_a_patient_is_shown(
    odd: str, model: Path, tmp_path: Path, write_series: Callable[..., None]
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_series(series, np.random.default_rng(2).integers(0, 500, (12, 14, 4)).astype(np.int16))
    set_odd_values(series, odd)
    options = ["-m", model, "-i", series, "-o", tmp_path / "labels.rtstruct.dcm", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "s2vnet", "predict", *options], capture_output=True, check=True
    )
    assert SECRET.encode() not in done.stdout + done.stderr
    assert b"pydicom" not in done.stderr


def test_an_error_that_nobody_expected_ends_one_case_only(
    model: Path, dataset: Path, tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = jobs.read_lazy_image

    def fails(images: tuple[Path, ...], **options: Any) -> Any:
        if "box1" in images[0].name:
            raise KeyError("Doe^Jane")
        return read(images, **options)

    monkeypatch.setattr(jobs, "read_lazy_image", fails)
    code, lines = main("predict", "-m", model, "-i", dataset / "imagesTr", "-o", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert lines[0].startswith("error: box1: unexpected KeyError in test_predict.py, line ")
    assert not any("Doe" in line for line in lines)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


def test_a_log_file_gets_a_line_per_case_and_what_was_written(model: Path, dataset: Path, tmp_path: Path) -> None:
    call = ("predict", "-m", model, "-i", dataset / "imagesTr", "-o", tmp_path / "out", "--device", "cpu", "--volumes")
    *lines, last = run(*call).splitlines()
    assert [line.split(" in ")[0] for line in lines] == [f"{n + 1} of 5 box{n}: done" for n in range(5)]
    assert lines[0].endswith(" left")
    assert last == f"{tmp_path / 'out'}: 5 label files, beside them volumes.csv"
    *lines, last = run(*call[:-1], "--skip-existing").splitlines()
    assert lines[4] == "5 of 5 box4: labels exist, finished"
    assert last == f"{tmp_path / 'out'}: 0 label files"
    (_, last) = run("predict", "-m", model, "-i", dataset / "imagesTr" / "box0_0000.nii.gz", "-o", tmp_path / "a.nii",
                    "--overlay").splitlines()  # fmt: skip
    assert last == f"{tmp_path / 'a.nii'}: labels, beside it overlays"


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
            lambda settings, started, served=served, **_: served.append(read_image(settings.data).geometry.shape[2]),
        )
        state = ["--state", tmp_path / "state", "--no-browser"]
        assert main("view", study, "-m", model, "--series", number, *state) == (0, [])
        assert served == [automatic.geometry.shape[2]]
    assert depths == {4, 6}


@pytest.mark.parametrize("batch", [[], ["--workers", 1]])
@pytest.mark.usefixtures("in_process")
def test_images_are_given_to_the_model_of_their_modality(tmp_path: Path, main: Main, batch: list[object]) -> None:
    """A brain MR is not segmented by the abdominal CT model unless that is wanted."""
    voxels = np.random.default_rng(0).gamma(2, 100, (1, 16, 18, 8)).astype(np.float32)
    grid = Geometry((16, 18, 8), np.diag([2.0, 2, 2, 1]))
    (tmp_path / "scans").mkdir()
    write_image(tmp_path / "scans" / "brain.nii.gz", Volume(voxels, grid))
    call = ("predict", "-i", tmp_path / "scans", "-o", tmp_path / "out", "--device", "cpu", *batch)
    code, lines = main(*call, "-m", "abdomen-ct")
    assert code == 1
    assert "no CT in HU, which the model is for" in lines[0]
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    code, lines = main(*call, "-m", "abdomen-ct", "-m", "hippocampus-mr")
    assert (code, "segmented by hippocampus-mr" in "\n".join(lines)) == (0, True)
    assert read_labels(tmp_path / "out" / "brain.nii.gz").data.max() <= 2
    for option in (["--volumes"], ["--classes", "1"]):
        code, (line,) = main(*call, "-m", "abdomen-ct", "-m", "hippocampus-mr", *option)
        assert (code, "need one model" in line) == (1, True)
    one = ("predict", "-i", tmp_path / "scans" / "brain.nii.gz", "-o", tmp_path / "one.nii.gz", "--device", "cpu")
    assert main(*one, "-m", "abdomen-ct", "-m", "hippocampus-mr")[0] == 0
    expected = read_labels(tmp_path / "out" / "brain.nii.gz").data
    np.testing.assert_array_equal(read_labels(tmp_path / "one.nii.gz").data, expected)
    assert main(*call, "-m", "abdomen-ct", "--any-modality")[0] == 0
