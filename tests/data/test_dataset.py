"""Datasets: both layouts read the same, folds are nnU-Net's, and each fault is one clear line.

More than 400 lines, because each wrong dataset is a small case of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2vnet.data.dataset import Dataset, make_folds, read_dataset, read_folds
from s2vnet.errors import InputError
from s2vnet.io.files import read_image, read_labels, write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume

MakePhantom = Callable[..., tuple[Volume, LabelMap]]
WriteDataset = Callable[..., Path]
WriteJson = Callable[[dict[str, Any]], Path]

# validation cases of sklearn.model_selection.KFold(5, shuffle=True, random_state=12345) over sorted names
TEN = [["c00", "c07"], ["c03", "c09"], ["c04", "c06"], ["c01", "c08"], ["c02", "c05"]]
THIRTEEN = [["c00", "c07", "c09"], ["c03", "c06", "c10"], ["c08", "c11", "c12"], ["c01", "c04"], ["c02", "c05"]]


def with_truth(dataset: Dataset) -> list[LabelMap]:
    """Labels of all training cases."""
    found = [dataset.read(case)[1] for case in dataset.training]
    return [labels for labels in found if labels is not None]


def one_line(caught: pytest.ExceptionInfo[InputError]) -> bool:
    return "\n" not in str(caught.value)


def decathlon(root: Path, listed: list[Any] | None = None) -> Path:
    """Turn a written dataset of one channel into the Decathlon's form, in place."""
    for file in (root / "imagesTr").iterdir():
        file.rename(file.with_name(file.name.replace("_0000", "")))
    names = sorted(file.name for file in (root / "imagesTr").iterdir())
    pairs = [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names]
    content = {
        "name": "Phantoms",
        "modality": {"0": "MR"},
        "labels": {"0": "background", "1": "left", "2": "right"},
        "training": pairs if listed is None else listed,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_nnunet_form(write_dataset: WriteDataset, make_phantom: MakePhantom, ending: str) -> None:
    root = write_dataset(("b", "a"), ("T1", "T2"), ending)

    dataset = read_dataset(str(root))

    assert (dataset.name, dataset.channels, dataset.ending) == ("Phantoms", ("T1", "T2"), ending)
    assert list(dataset.labels.items()) == [("background", 0), ("left", 1), ("right", 2)]
    assert [case.name for case in dataset.training] == ["a", "b"]
    assert [f.name for f in dataset.case("b").images] == [f"b_0000{ending}", f"b_0001{ending}"]
    assert dataset.test == ()
    volume, labels = dataset.read(dataset.case("b"))
    expected, truth = make_phantom(channels=2, seed=0)
    np.testing.assert_array_equal(volume.data, expected.data)
    assert labels is not None
    np.testing.assert_array_equal(labels.data, truth.data)
    with pytest.raises(InputError, match="no case 'c'"):
        dataset.case("c")


def test_the_folder_names_a_dataset_without_name(write_dataset: WriteDataset) -> None:
    root = write_dataset(name=None)
    assert read_dataset(root).name == root.name


def test_test_cases_need_no_labels(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    shutil.copytree(root / "imagesTr", root / "imagesTs")
    (root / "labelsTs").mkdir()
    shutil.copy(root / "labelsTr" / "b.nii.gz", root / "labelsTs")

    dataset = read_dataset(root)

    assert [(case.name, case.labels is None) for case in dataset.test] == [("a", True), ("b", False)]
    assert dataset.read(dataset.test[0])[1] is None


def test_an_empty_test_folder_is_no_test_cases(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    (root / "imagesTs").mkdir()
    assert read_dataset(root).test == ()


def test_decathlon_form_reads_as_nnunet_form(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    before = read_dataset(root)
    truth = with_truth(before)
    root = decathlon(root)

    after = read_dataset(root)

    assert (after.name, after.channels, after.labels) == (before.name, before.channels, before.labels)
    assert [case.name for case in after.training] == ["a", "b"]
    for found, expected in zip(with_truth(after), truth, strict=True):
        np.testing.assert_array_equal(found.data, expected.data)


def test_decathlon_lists_only_what_it_lists(write_dataset: WriteDataset) -> None:
    root = decathlon(write_dataset(), [{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}])
    shutil.copytree(root / "imagesTr", root / "imagesTs")
    content = json.loads((root / "dataset.json").read_text()) | {"test": ["./imagesTs/a.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(content))

    dataset = read_dataset(root)

    assert [case.name for case in dataset.training] == ["b"]
    assert [(case.name, case.labels) for case in dataset.test] == [("a", None)]


def test_frames_of_a_4d_image_are_channels(write_dataset: WriteDataset, make_phantom: MakePhantom) -> None:
    root = decathlon(write_dataset(("a",)))
    volume, _ = make_phantom(channels=3)
    write_image(root / "imagesTr" / "a.nii.gz", volume)
    content = json.loads((root / "dataset.json").read_text())
    content["modality"] = {"0": "FLAIR", "1": "T1w", "2": "T2w"}
    (root / "dataset.json").write_text(json.dumps(content))

    dataset = read_dataset(root)

    np.testing.assert_array_equal(dataset.read(dataset.training[0])[0].data, volume.data)
    write_image(root / "imagesTr" / "a.nii.gz", Volume(volume.data[:2], volume.geometry))
    with pytest.raises(InputError, match=r"a\.nii\.gz: 2 channels where dataset\.json names 3") as caught:
        dataset.read(dataset.training[0])
    assert one_line(caught)


def test_a_decathlon_list_above_nnunet_names_leaves_the_folder_to_count(write_dataset: WriteDataset) -> None:
    root = write_dataset(training=[{"image": f"./imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in "ab"])
    assert [case.name for case in read_dataset(root).training] == ["a", "b"]
    assert read_dataset(root).notes == ()


def test_a_listed_image_that_is_missing_is_not_skipped(write_dataset: WriteDataset) -> None:
    root = decathlon(write_dataset(("a", "b", "c")))
    (root / "imagesTr" / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"b\.nii\.gz: no such file"):
        read_dataset(root)


def test_nnunet_dataset_key_names_files_anywhere(write_dataset: WriteDataset) -> None:
    root = write_dataset(("a",), ("T1", "T2"))
    (root / "elsewhere").mkdir()
    for name in ("one", "two"):
        shutil.copy(root / "imagesTr" / "a_0000.nii.gz", root / "elsewhere" / f"{name}.nii.gz")
    listed = {"x": {"images": ["elsewhere/one.nii.gz", "elsewhere/two.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    content = json.loads((root / "dataset.json").read_text()) | {"dataset": listed}
    (root / "dataset.json").write_text(json.dumps(content))

    dataset = read_dataset(root)

    assert [case.name for case in dataset.training] == ["x"]
    volume, labels = dataset.read(dataset.training[0])
    assert volume.data.shape[0] == 2
    assert labels is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"x": {"images": ["imagesTr/a_0000.nii.gz"]}}},
        {"dataset": {"x": {"label": "labelsTr/a.nii.gz"}}},
        {"dataset": {"x": 3}},
        {"training": [{"label": "labelsTr/a.nii.gz"}]},
        {"training": 2},
    ],
)
def test_cases_without_paths_are_refused(write_dataset: WriteDataset, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: a case lacks its image or label path") as caught:
        read_dataset(write_dataset(**changes))
    assert one_line(caught)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": None}, "needs channel_names"),
        ({"channel_names": []}, "needs channel_names"),
        ({"channel_names": {}}, "needs channel_names"),
        ({"channel_names": {"1": "MR"}}, r"numbered 0, 1, \.\.\.; found 1$"),
        ({"file_ending": ".png"}, r"file_ending '\.png' is not one of \.nii"),
    ],
)
def test_bad_json_content_is_refused(write_dataset: WriteDataset, changes: dict[str, Any], message: str) -> None:
    root = write_dataset()
    content = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(root)
    assert "dataset.json: " in str(caught.value)
    assert one_line(caught)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"labels": ', "not valid JSON"), (b"\xff\xfe\x00", "not valid JSON"), (b"[1]", "must hold a JSON object")],
)
def test_damaged_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(tmp_path)
    assert one_line(caught)


def test_missing_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a folder in nnU-Net's raw layout"):
        read_dataset(tmp_path / "nowhere")


def test_no_training_cases_are_refused(write_json: WriteJson) -> None:
    root = write_json({})
    with pytest.raises(InputError, match="no training cases"):
        read_dataset(root)
    (root / "imagesTr").mkdir()
    (root / "imagesTr" / "notes.txt").touch()
    with pytest.raises(InputError, match="no training cases"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("imagesTr/a_0000.nii.gz", "case a lacks channel _0000"),
        ("imagesTr/a_0001.nii.gz", "case a lacks channel _0001"),
        ("imagesTr/a_0002.nii.gz", "case a has 2 of 3 channels"),
        ("labelsTr/a.nii.gz", r"case a has no label file \(.*labelsTr/a\.nii\.gz\)"),
    ],
)
def test_missing_files_are_refused(write_dataset: WriteDataset, removed: str, message: str) -> None:
    root = write_dataset(channels=("T1", "T2", "FLAIR"))
    (root / removed).unlink()
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(root)
    assert one_line(caught)


def test_the_first_of_two_channels_is_no_4d_image(write_dataset: WriteDataset) -> None:
    root = write_dataset(channels=("T1", "T2"))
    (root / "imagesTr" / "b_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="case b has 1 of 2 channels"):
        read_dataset(root)


def test_wrong_file_ending_is_refused(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    content = json.loads((root / "dataset.json").read_text()) | {"file_ending": ".nrrd"}
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"case a has no label file \(.*labelsTr/a\.nrrd\)"):
        read_dataset(root)


def test_a_listed_case_without_label_is_refused(write_dataset: WriteDataset) -> None:
    root = decathlon(write_dataset(("a",)), ["imagesTr/a.nii.gz"])
    with pytest.raises(InputError, match=r"case a has no label file \(none is named\)"):
        read_dataset(root)


def test_duplicate_cases_are_refused(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    shutil.copy(root / "imagesTr" / "a_0000.nii.gz", root / "imagesTr" / "a.nii.gz")
    with pytest.raises(InputError, match=r"duplicate of .* \(case a\); keep one of them"):
        read_dataset(root)


def test_a_case_listed_twice_is_refused(write_dataset: WriteDataset) -> None:
    pair = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    with pytest.raises(InputError, match="case a is listed twice"):
        read_dataset(decathlon(write_dataset(("a",)), [pair, pair]))


def test_unknown_label_values_are_refused(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    path = root / "labelsTr" / "a.nii.gz"
    labels = read_labels(path)
    write_labels(path, LabelMap(np.where(labels.data == 2, 7, labels.data), labels.geometry))
    dataset = read_dataset(root)
    with pytest.raises(InputError, match=r"a\.nii\.gz: label values 7 are not in dataset\.json") as caught:
        dataset.read(dataset.case("a"))
    assert one_line(caught)


def test_labels_lie_on_the_grid_of_the_image(write_dataset: WriteDataset) -> None:
    root = write_dataset(ending=".nii.gz")
    path = root / "labelsTr" / "a.nii.gz"
    labels = read_labels(path)
    dataset = read_dataset(root)
    noisy = labels.geometry.affine + 1e-8 * np.array([[1, -1, 1, 1]] * 3 + [[0] * 4])
    flipped = labels.geometry.affine @ np.diag([-1, 1, 1, 1])

    write_labels(path, LabelMap(labels.data, Geometry(labels.data.shape, noisy)))
    dataset.read(dataset.case("a"))
    write_labels(path, LabelMap(labels.data, Geometry(labels.data.shape, flipped)))
    with pytest.raises(InputError, match=r"a_0000\.nii\.gz and .*a\.nii\.gz: grids differ, axes point") as caught:
        dataset.read(dataset.case("a"))
    assert one_line(caught)


def test_nonfinite_voxels_are_filled_on_request(write_dataset: WriteDataset) -> None:
    root = write_dataset()
    path = root / "imagesTr" / "a_0000.nii.gz"
    volume = read_image(path)
    data = volume.data.copy()
    data[0, 0, 0, 0] = np.nan
    write_image(path, Volume(data, volume.geometry))
    dataset = read_dataset(root)
    with pytest.raises(InputError, match="NaN"):
        dataset.read(dataset.case("a"))
    assert dataset.read(dataset.case("a"), fill_nonfinite=3)[0].data[0, 0, 0, 0] == 3


@pytest.mark.parametrize("validation", [TEN, THIRTEEN], ids=["10", "13"])
def test_folds_are_those_of_nnunet(validation: list[list[str]]) -> None:
    names = sorted(name for fold in validation for name in fold)

    found = make_folds(names[::-1])

    assert [fold["val"] for fold in found] == validation
    assert all(fold["train"] == [n for n in names if n not in fold["val"]] for fold in found)


def test_fewer_cases_than_folds_are_refused(write_dataset: WriteDataset) -> None:
    with pytest.raises(InputError, match=r"2 cases cannot be split into 5 folds; write your own splits_final\.json"):
        read_folds(read_dataset(write_dataset()))


def test_read_folds_are_the_default_or_the_file(write_dataset: WriteDataset) -> None:
    root = write_dataset(tuple("abcde"))
    dataset = read_dataset(root)
    assert read_folds(dataset) == make_folds("abcde")

    splits = [{"train": ["a", "c"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    (root / "splits_final.json").write_text(json.dumps(splits))

    assert read_folds(dataset) == splits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"train": ["a"], "val": ["z"]}]', "unknown cases z$"),
        (b'[{"train": ["a", "b"], "val": ["b"]}]', "fold 0 lists b twice"),
        (b'[{"train": ["a"]}]', 'each with lists "train" and "val"'),
        (b'{"train": ["a"], "val": ["b"]}', "must be a list of folds"),
        (b"7", "must be a list of folds"),
        (b"[", "must be a list of folds"),
        (b"\xff", "must be a list of folds"),
    ],
)
def test_bad_splits_are_refused(write_dataset: WriteDataset, content: bytes, message: str) -> None:
    root = write_dataset()
    (root / "splits_final.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_folds(read_dataset(root))
    assert one_line(caught)


def test_a_listed_case_is_named_without_its_ending_in_any_case(write_dataset: WriteDataset) -> None:
    root = decathlon(write_dataset(("a",)), [{"image": "imagesTr/a.NII.GZ", "label": "labelsTr/a.nii.gz"}])
    (root / "imagesTr" / "a.nii.gz").rename(root / "imagesTr" / "a.NII.GZ")
    assert [case.name for case in read_dataset(root).training] == ["a"]
