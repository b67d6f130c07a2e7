"""One voxel, one line or one failed command is enough; what differs in every run is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from benchmarks import same_labels
from benchmarks.comparison.cases import CASES, QUICK, without_texts
from benchmarks.comparison.inputs import write_series
from benchmarks.comparison.written_files import differences, read_content
from benchmarks.same_labels import Checkout, compare, run_case

FAKE = """import sys
import nibabel
import numpy as np
voxels = np.zeros((4, 5, 6), np.uint8)
voxels[1, 2, 3] = {value}
if sys.argv[1] == "predict":
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), "labels.nii.gz")
print("error: refused", file=sys.stderr)
sys.exit({code})
"""


def _checkout(folder: Path, value: int = 1, code: int = 0) -> Checkout:
    """A checkout whose s2vnet writes labels with one voxel of a value, and ends with a code."""
    package = folder / "src" / "s2vnet"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE.format(value=value, code=code))
    return Checkout(folder, folder / "results", "commit")


def _compared(old: Checkout, new: Checkout, tmp_path: Path) -> same_labels.Record:
    records = [run_case("case", one, tmp_path, old.results, threads=1) for one in (old, new)]
    return compare(old.results / "case", new.results / "case", records)


@pytest.fixture(autouse=True)
def _one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "case", ["predict -o labels.nii.gz"])


def test_one_voxel_makes_checkouts_differ(tmp_path: Path) -> None:
    old, same, other = (_checkout(tmp_path / f"{n}", value) for n, value in enumerate((1, 1, 2)))
    assert _compared(old, same, tmp_path)["equal"]
    row = _compared(old, other, tmp_path)
    assert not row["equal"]
    assert row["differences"] == ["labels.nii.gz: image differs in 1 of 120 voxels"]


def test_a_failed_run_is_reported_and_run_again(tmp_path: Path) -> None:
    old, new = _checkout(tmp_path / "old"), _checkout(tmp_path / "new", code=1)
    row = _compared(old, new, tmp_path)
    assert not row["equal"]
    assert row["differences"] == ["new failed: CaseError: predict -o: exit code 1, not 0: error: refused"]
    main = new.source / "src/s2vnet/__main__.py"
    main.write_text(FAKE.format(value=1, code=0))
    os.utime(main, (0, 0))  # another time than the compiled file's, which has seconds only
    assert _compared(old, new, tmp_path)["equal"]


def test_a_case_is_run_once_until_it_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _checkout(tmp_path / "old")
    first = run_case("case", old, tmp_path, old.results, threads=1)
    assert run_case("case", old, tmp_path, old.results, threads=1) == first
    monkeypatch.setitem(CASES, "case", ["predict => 0"])
    assert run_case("case", old, tmp_path, old.results, threads=1)["key"] != first["key"]


def test_an_exit_code_may_be_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "case", ["predict => 2"])
    checkout = _checkout(tmp_path / "old", code=2)
    assert run_case("case", checkout, tmp_path, checkout.results, threads=1)["error"] is None


def test_files_are_compared_by_content(tmp_path: Path) -> None:
    for name, value in (("old", 1.0), ("new", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(
            json.dumps({"seconds_per_case": value, "dice": 0.5, "cases": [value]})
        )
        (tmp_path / name / "summary.csv").write_text(f"case,seconds\na,{value}\n")
        nan = np.array([[[np.nan, value]]])
        nibabel.save(nibabel.Nifti1Image(nan, np.eye(4)), tmp_path / name / "uncertainty.nii.gz")
    (tmp_path / "new" / "more.txt").touch()
    assert differences(tmp_path / "old", tmp_path / "new") == [
        "more.txt: written by only one of the two",
        "report.json: text differs in 1 lines; the first: '  1.0', '  2.0'",
        "uncertainty.nii.gz: image differs in 1 of 2 voxels",
    ]


def test_dicom_objects_are_compared_without_generated_names(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_series(tmp_path, nibabel.Nifti1Image(voxels, np.diag([3, 2, 1, 1])))
    file = tmp_path / "002.dcm"
    content = read_content(file)
    np.testing.assert_array_equal(content["pixels"], voxels[::-1, ::-1, 1].T)
    read = pydicom.dcmread(file)
    read.StudyDate, read.SeriesInstanceUID = "20260101", "2.25.1"
    read.save_as(tmp_path / "dated.dcm")
    lines = [line for line in read_content(tmp_path / "dated.dcm")["elements"] if line not in content["elements"]]
    assert len(lines) == 1
    assert lines[0].endswith("SeriesInstanceUID generated")


def test_texts_of_a_schema_are_left_out() -> None:
    schema = {"description": "text", "get": [{"operationId": "f", "required": ["description"]}]}
    assert without_texts(schema) == {"get": [{"required": ["description"]}]}
    described = {"properties": {"description": {"type": "string"}}}
    assert without_texts(described) == described


def test_the_quick_cases_are_some_of_all() -> None:
    assert set(CASES) > QUICK
