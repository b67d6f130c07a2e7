"""Pairing and scoring of label files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2vnet.data.label_definitions import IGNORED
from s2vnet.errors import InputError
from s2vnet.evaluation.compare import FilePair, compare_labels, find_definitions, pair_files, read_pairs
from s2vnet.io.files import write_labels
from s2vnet.io.geometry import Geometry, LabelMap

GRID = Geometry((4, 4, 4), np.eye(4))


def write(folder: Path, *names: str, value: int = 1, grid: Geometry = GRID) -> Path:
    folder.mkdir(exist_ok=True)
    labels = np.zeros(grid.shape, np.uint8)
    labels[:2] = value
    for name in names:
        write_labels(folder / f"{name}.nii.gz", LabelMap(labels, grid))
    return folder


def test_files_are_paired_by_name_and_extras_are_left_out(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a", "a_uncertainty", "a_probabilities")
    labels = write(tmp_path / "labels", "a", "b", "c")
    notes: list[str] = []
    assert pair_files(images, labels, note=notes.append) == [FilePair("a", (images / "a.nii.gz",), labels / "a.nii.gz")]
    assert notes == [f"2 of 3 labelled cases are not in {images}: b, c"]
    file = labels / "b.nii.gz"
    assert pair_files(images / "a.nii.gz", file) == [FilePair("a", (images / "a.nii.gz",), file)]


@pytest.mark.parametrize("name", ["case_{:04d}", "word_{:04d}", "case_{:04d}_0000", "{:04d}", "a.b_{:04d}"])
def test_four_digits_of_labels_are_no_channels(tmp_path: Path, name: str) -> None:
    """One perfect prediction and four empty ones of five cases: Dice 0.2, not 1 over one case."""
    names = [name.format(number) for number in range(5)]
    labels, images = write(tmp_path / "labels", *names), write(tmp_path / "images", *names[1:], value=0)
    write(images, names[0])
    report = compare_labels(pair_files(images, labels))["automatic"]
    assert report["dice"] == pytest.approx(0.2)
    assert [row["case"] for row in report["cases"]] == names


def test_channels_of_images_belong_to_the_labels_of_their_case(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels", "amos_0001", "amos_0002")
    images = write(tmp_path / "images", *(f"amos_{n:04d}_{c:04d}" for n in (1, 2) for c in (0, 1)))
    pairs = pair_files(images, labels, 2)
    assert [(pair.name, len(pair.images), pair.labels.name) for pair in pairs] == [
        ("amos_0001", 2, "amos_0001.nii.gz"),
        ("amos_0002", 2, "amos_0002.nii.gz"),
    ]
    assert [len(pair.images) for pair in pair_files(labels, labels, 1)] == [1, 1]


def test_predictions_without_labels_are_refused(tmp_path: Path) -> None:
    images, labels = write(tmp_path / "images", "a", "b"), write(tmp_path / "labels", "a")
    with pytest.raises(InputError, match="no labels for b"):
        pair_files(images, labels)
    with pytest.raises(InputError, match="give two folders, or two files"):
        pair_files(images, labels / "a.nii.gz")


def test_scores_cover_the_classes_of_either_file(tmp_path: Path) -> None:
    images, labels = write(tmp_path / "images", "a", value=2), write(tmp_path / "labels", "a")
    done: list[str] = []
    report = compare_labels(pair_files(images, labels), ["liver"], done.append)["automatic"]
    assert (list(report["per_class"]), report["dice"], done) == (["liver", "2"], 0, ["a"])
    same = pair_files(labels, labels)
    assert compare_labels(same)["automatic"]["dice"] == 1
    ((name, image, truth),) = read_pairs(same)
    assert (name, image.data[0].tolist()) == ("a", truth.data.tolist())


def test_another_grid_is_refused(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a", grid=Geometry((4, 4, 4), np.diag([2.0, 2, 2, 1])))
    with pytest.raises(InputError, match="a: labels and prediction"):
        compare_labels(pair_files(images, write(tmp_path / "labels", "a")))


def test_names_regions_and_ignored_voxels_are_those_of_dataset_json(tmp_path: Path) -> None:
    """Three bands of classes 1, 2 and to ignore; the prediction calls all of them 2."""
    for folder, values in (("labelsTr", (1, 2, 3, 0)), ("predicted", (2, 2, 2, 0))):
        (tmp_path / folder).mkdir()
        labels = np.broadcast_to(np.array(values, np.uint8)[:, None, None], GRID.shape).copy()
        write_labels(tmp_path / folder / "a.nii.gz", LabelMap(labels, GRID))
    notes: list[str] = []
    assert find_definitions(tmp_path / "labelsTr", note=notes.append) is None
    assert notes == []
    content = {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = find_definitions(tmp_path / "labelsTr")
    assert found is not None
    assert found == find_definitions(tmp_path / "labelsTr" / "a.nii.gz") == find_definitions(tmp_path, tmp_path)
    pairs = pair_files(tmp_path / "predicted", tmp_path / "labelsTr")
    names = list(found.classes)[1:]
    report = compare_labels(pairs, names, regions=found.regions, ignore=found.ignore)["automatic"]
    assert {name: row["dice"] for name, row in report["per_class"].items()} == {
        "whole without core": 0,
        "core": pytest.approx(2 / 3),
    }
    assert report["regions"]["per_region"]["whole"]["dice"] == 1
    ((_, _, truth),) = read_pairs(pairs, ignore=3)
    assert set(np.unique(truth.data)) == {0, 1, 2, IGNORED}
    (tmp_path / "dataset.json").write_text("[")
    assert find_definitions(tmp_path / "labelsTr", note=notes.append) is None
    assert notes == [f"{tmp_path / 'dataset.json'}: not valid JSON (line 1, column 2); it is not used"]
    with pytest.raises(InputError, match="not valid JSON"):
        find_definitions(tmp_path / "labelsTr", tmp_path / "dataset.json")
