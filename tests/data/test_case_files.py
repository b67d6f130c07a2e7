"""Case names: four digits at the end of a name are a channel only where they must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2vnet.data.case_files import (
    case_name,
    case_names,
    channel_file,
    file_stem,
    find_case_files,
    find_channel_files,
    find_label_files,
    group_channels,
)
from s2vnet.data.dataset import read_dataset
from s2vnet.errors import InputError
from s2vnet.io.files import write_image, write_labels
from s2vnet.io.geometry import LabelMap, Volume

MakePhantom = Callable[..., tuple[Volume, LabelMap]]
PREFIXES = st.text("ab_01", min_size=1, max_size=6)


def touch(folder: Path, *stems: str) -> Path:
    folder.mkdir(exist_ok=True)
    for stem in stems:
        (folder / f"{stem}.nii.gz").touch()
    return folder


def found(folder: Path, channels: int, known: tuple[str, ...] = ()) -> dict[str, int]:
    return {case.name: len(case.images) for case in find_case_files(folder, channels, known)}


@pytest.mark.parametrize(
    ("stems", "channels", "known", "expected"),
    [
        # labels and predictions are never channels
        (("case_0000", "case_0001", "case_0002"), 0, (), {"case_0000": 1, "case_0001": 1, "case_0002": 1}),
        (("x_0000",), 0, (), {"x_0000": 1}),
        # one channel: nnU-Net's suffix, or the numbers of WORD, AMOS and others
        (("x_0000", "y_0000"), 1, (), {"x": 1, "y": 1}),
        (("word_0001",), 1, (), {"word_0001": 1}),
        (("case_0000", "case_0001"), 1, (), {"case_0000": 1, "case_0001": 1}),
        (("word_0001_0000", "word_0002_0000"), 1, (), {"word_0001": 1, "word_0002": 1}),
        (("case_0000_0000", "case_0001_0000"), 1, (), {"case_0000": 1, "case_0001": 1}),
        (("a_0000", "word_0001", "plain"), 1, (), {"a": 1, "word_0001": 1, "plain": 1}),
        # several channels
        (("x_0000", "x_0001"), 2, (), {"x": 2}),
        (("case_0000_0000", "case_0000_0001"), 2, (), {"case_0000": 2}),
        (("x", "y_0000", "y_0001"), 2, (), {"x": 1, "y": 2}),
        # names of labels decide
        (("case_0000",), 1, ("case_0000",), {"case_0000": 1}),
        (("case_0000",), 1, ("case",), {"case": 1}),
        (("case_0000", "case_0001"), 2, ("case_0000", "case_0001"), {"case_0000": 1, "case_0001": 1}),
    ],
)
def test_names_of_cases(
    tmp_path: Path, stems: tuple[str, ...], channels: int, known: tuple[str, ...], expected: dict[str, int]
) -> None:
    assert found(touch(tmp_path, *stems), channels, known) == expected


@pytest.mark.parametrize(
    ("stems", "channels", "known", "message"),
    [
        (("a_0001",), 2, (), "case a lacks channel _0000"),
        (("a_0000",), 2, (), r"case a has 1 of 2 channels \(missing files\)"),
        (("a_0000", "a_0001", "a_0002"), 2, (), "case a has 3 of 2 channels$"),
        (("a_0000", "a_0001", "b_0000", "b_0001"), 1, (), "case a has 2 of 1 channels"),
        (("a_0000", "a_0001"), 1, ("a",), "case a has 2 of 1 channels"),
        (("a", "a_0000"), 1, (), r"duplicate of .*a\.nii\.gz \(case a\); keep one"),
        ((), 1, (), "no images"),
    ],
)
def test_names_that_are_refused(
    tmp_path: Path, stems: tuple[str, ...], channels: int, known: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_case_files(touch(tmp_path, *stems), channels, known)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(PREFIXES, min_size=1, max_size=6, unique=True), st.integers(1, 3))
def test_a_written_dataset_reads_as_its_cases(cases: list[str], channels: int) -> None:
    """Whatever cases are called, nnU-Net's naming of their channels is read back where their labels are known."""
    files = {channel_file(case, c, ""): (case, c) for case in cases for c in range(channels)}
    clash = len(files) < channels * len(cases) or files.keys() & set(cases)
    if not clash:
        read = group_channels("folder", files, channels, cases)
        assert read == {case: tuple((case, c) for c in range(channels)) for case in cases}


@settings(deadline=None)
@given(st.lists(PREFIXES, min_size=1, max_size=6, unique=True))
def test_a_file_is_never_in_two_cases_or_in_none(stems: list[str]) -> None:
    for channels in (0, 1):
        try:
            cases = group_channels("folder", {stem: stem for stem in stems}, channels)
        except InputError:
            assert channels == 1
            continue
        assert sorted(file for files in cases.values() for file in files) == sorted(stems)
        assert all(len(files) == 1 for files in cases.values())


def test_find_images_by_any_name(tmp_path: Path) -> None:
    for name in ("x_0000.nii.gz", "x_0001.nii.gz", "scan.NRRD", "_0001.mha", ".hidden.nii.gz", "readme.txt"):
        (tmp_path / name).touch()
    cases = {case.name: [file.name for file in case.images] for case in find_case_files(tmp_path, 2)}
    assert cases == {"_0001": ["_0001.mha"], "scan": ["scan.NRRD"], "x": ["x_0000.nii.gz", "x_0001.nii.gz"]}
    assert sorted(find_label_files(tmp_path)) == ["_0001", "scan", "x_0000", "x_0001"]


def test_numbered_files_of_all_channels_are_cases(tmp_path: Path, make_phantom: MakePhantom) -> None:
    for number in range(2):
        write_image(tmp_path / f"case_{number:04d}.nii.gz", make_phantom(channels=2, shape=(4, 4, 4))[0])
    assert found(tmp_path, 2) == {"case_0000": 1, "case_0001": 1}


def test_channels_of_one_case_in_a_folder(tmp_path: Path) -> None:
    assert find_channel_files(tmp_path, 2) is None
    folder = touch(tmp_path, "a_0000", "a_0001")
    assert find_channel_files(folder, 2) == (folder / "a_0000.nii.gz", folder / "a_0001.nii.gz")
    assert find_channel_files(folder / "a_0000.nii.gz", 2) is None
    with pytest.raises(InputError, match="2 images in this folder; name one of them"):
        find_channel_files(folder, 1)


def test_names_without_a_folder(tmp_path: Path) -> None:
    assert file_stem("ward 1/a.b.NII.GZ") == "ward 1/a.b"
    assert [file_stem(Path(name)) for name in ("x/a.zip", "x/1.2.840")] == ["a", "1.2.840"]
    assert case_names(["a_0000", "b_0001", "c_0000", "c_0001", "d", "d_0000"]) == [
        *("a", "b_0001", "c_0000", "c_0001", "d", "d_0000")
    ]
    folder = touch(tmp_path, "x_0000", "case_0000", "case_0001")
    assert [case_name(folder / f"{stem}.nii.gz") for stem in ("x_0000", "case_0000")] == ["x", "case_0000"]
    assert case_name(folder) == folder.name


@pytest.mark.parametrize("suffix", ["", "_0000"])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 7), (0,)])
def test_datasets_with_numbered_cases(
    tmp_path: Path, make_phantom: MakePhantom, suffix: str, numbers: tuple[int, ...]
) -> None:
    """With and without nnU-Net's suffix on the images: a label belongs to the image of its name."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for number in numbers:
        volume, labels = make_phantom(shape=(4, 5, 6), seed=number)
        write_image(tmp_path / "imagesTr" / f"amos_{number:04d}{suffix}.nii.gz", volume)
        write_labels(tmp_path / "labelsTr" / f"amos_{number:04d}.nii.gz", labels)
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.training] == [f"amos_{number:04d}" for number in numbers]
    assert all(case.labels is not None and case.labels.exists() for case in dataset.training)
