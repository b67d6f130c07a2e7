"""Lists of dataset.json are followed, or it is said that they are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2vnet.data.case_lists import listed_cases
from s2vnet.data.dataset import read_dataset
from s2vnet.errors import InputError
from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import LabelMap

WriteDataset = Callable[..., Path]


def with_content(root: Path, **changes: Any) -> Path:
    content = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def entry(name: str, labels: str = "labelsTr", images: str = "imagesTr") -> dict[str, str]:
    return {"image": f"./{images}/{name}.nii.gz", "label": f"./{labels}/{name}.nii.gz"}


@pytest.mark.parametrize("channels", [("MR",), ("T1", "T2")])
def test_another_label_folder_and_a_subset_are_followed(write_dataset: WriteDataset, channels: tuple[str, ...]) -> None:
    """Listed without channel, as nnU-Net 1 and the Decathlon do, above images with nnU-Net's suffix."""
    root = write_dataset(("a", "b", "c"), channels)
    shutil.copytree(root / "labelsTr", root / "labelsTr2")
    labels = read_labels(root / "labelsTr2" / "b.nii.gz")
    write_labels(root / "labelsTr2" / "b.nii.gz", LabelMap(np.ones_like(labels.data), labels.geometry))
    with_content(root, training=[entry(name, "labelsTr2") for name in "ba"])

    dataset = read_dataset(root)

    assert [case.name for case in dataset.training] == ["b", "a"]
    assert [len(case.images) for case in dataset.training] == [len(channels)] * 2
    _, truth = dataset.read(dataset.case("b"))
    assert truth is not None
    assert truth.data.min() == 1
    assert dataset.notes == (f"dataset.json lists 2 of the 3 cases in {root / 'imagesTr'}; only these are used",)


@pytest.mark.parametrize("listed", ["a", "a_0000"])
def test_cases_are_named_as_their_labels(write_dataset: WriteDataset, listed: str) -> None:
    root = write_dataset(("a",), ("T1", "T2"))
    with_content(root, training=[{"image": f"imagesTr/{listed}.nii.gz", "label": "labelsTr/a.nii.gz"}])
    (case,) = read_dataset(root).training
    assert (case.name, [file.name for file in case.images]) == ("a", ["a_0000.nii.gz", "a_0001.nii.gz"])


def test_other_folders_names_and_separators(write_dataset: WriteDataset) -> None:
    """A folder per patient, with files of the same names in each, listed as on Windows or with a file per channel."""
    root = write_dataset(("a", "b"))
    for name in "ab":
        (root / f"p_{name}").mkdir()
        (root / "imagesTr" / f"{name}_0000.nii.gz").rename(root / f"p_{name}" / "image.nii.gz")
        (root / "labelsTr" / f"{name}.nii.gz").rename(root / f"p_{name}" / "seg.nii.gz")
    listed = [{"image": ["p_a/image.nii.gz"], "label": "p_a/seg.nii.gz"}]
    listed += [{"image": "p_b\\image.nii.gz", "label": "p_b\\seg.nii.gz", "fold": 0}]
    dataset = read_dataset(with_content(root, training=listed, validation=[entry("x")]))
    assert [case.name for case in dataset.training] == ["p_a_image", "p_b_image"]
    assert all(dataset.read(case)[1] is not None for case in dataset.training)
    assert dataset.notes == (
        "dataset.json lists 1 cases under 'validation', which are not used; held-out cases are named in "
        "splits_final.json",
        "the folds in the lists of dataset.json are not used; they are named in splits_final.json",
    )


@pytest.mark.parametrize("name", ["a" * 300, "nul\0"])
def test_names_that_no_system_has_are_no_files(write_dataset: WriteDataset, name: str) -> None:
    root = with_content(write_dataset(("a",)), training=[entry(name)])
    assert [case.name for case in read_dataset(root).training] == ["a"]
    with_content(root, training=[entry(name), entry("a")])
    with pytest.raises(InputError, match="no such file"):
        read_dataset(root)


def test_test_cases_of_other_folders(write_dataset: WriteDataset) -> None:
    root = write_dataset(("a", "b"))
    shutil.copytree(root / "imagesTr", root / "imagesTs2")
    dataset = read_dataset(with_content(root, test=["imagesTs2/b.nii.gz", {"image": "imagesTs2/a.nii.gz"}]))
    assert [(case.name, case.labels) for case in dataset.test] == [("b", None), ("a", None)]
    with_content(root, test=["imagesTs/nowhere.nii.gz"])  # a release without its test images
    assert (read_dataset(root).test, read_dataset(root).notes) == ((), ())


def test_lists_of_names_that_no_file_has_are_said_to_be_unused(write_dataset: WriteDataset) -> None:
    root = write_dataset(("a", "b"))
    dataset = read_dataset(with_content(root, training=[entry("x")]))
    assert [case.name for case in dataset.training] == ["a", "b"]
    assert dataset.notes == (
        "dataset.json lists training cases under names that no file has; those in the folder are used",
    )
    shutil.rmtree(root / "imagesTr")
    with pytest.raises(InputError, match=r"x\.nii\.gz: no such file"):
        read_dataset(root)


@pytest.mark.parametrize(
    "content",
    [
        {"training": [3]},
        {"training": [{"image": [], "label": "x"}]},
        {"test": 7},
        {"test": "abc"},
        {"training": {"a": 1}},
        {"training": [{"image": " ", "label": "x"}]},
        {"dataset": {"x": {"images": [], "label": "x"}}},
    ],
)
def test_entries_without_paths_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    part = "test" if "test" in content else "training"
    with pytest.raises(InputError, match=r"dataset\.json: a case lacks its image or label path in '") as caught:
        listed_cases(tmp_path, content, part, 1)
    assert "\n" not in str(caught.value)


KEYS = ("image", "images", "label", "fold", "0", "1", "background", "left", "ignore", "\0")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=4) | st.just("imagesTr/a.nii.gz"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from(
            ("channel_names", "labels", "training", "test", "dataset", "validation", "file_ending", "name")
        ),
        VALUES,
        max_size=3,
    )
)
def test_odd_contents_are_read_or_refused_in_one_line(odd: Path, changes: dict[str, Any]) -> None:
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "left": 1}, **changes}
    (odd / "dataset.json").write_text(json.dumps(content))
    text = ""
    try:
        read_dataset(odd)
    except InputError as error:
        text = str(error)
    assert "\n" not in text
    assert not any(word in text for word in ("Error", "object at", "NoneType", "int()", "Traceback"))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A dataset of one case whose dataset.json is replaced again and again."""
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    return tmp_path
