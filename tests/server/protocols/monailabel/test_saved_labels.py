"""Saved labels, and what clients' values mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.io.files import read_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.server.protocols.monailabel.saved_labels import SavedLabels, map_classes

CLASSES = {0: "background", 1: "spleen", 2: "liver", 3: "aorta"}


def labels_of(*values: int) -> LabelMap:
    """A label map with these values."""
    return LabelMap(np.array(values, np.uint8).reshape(-1, 1, 1), Geometry((len(values), 1, 1), np.eye(4)))


def mapped(labels: LabelMap, label_info: Any) -> list[int]:
    """Class ids of all voxels."""
    return [int(value) for value in map_classes(labels, label_info, CLASSES).data.ravel()]


@given(st.permutations([1, 2, 3]), st.integers(1, 3), st.data())
def test_segments_exported_by_slicer_keep_their_classes(order: list[int], count: int, data: st.DataObject) -> None:
    """The segments that are left, in any order, are numbered from 1; `idx` is their place among all segments."""
    kept = order[:count]
    label_info = [{"name": CLASSES[class_id], "idx": place} for place, class_id in enumerate(kept, 1)]
    truth = data.draw(st.lists(st.sampled_from([0, *kept]), min_size=1, max_size=9))
    exported = [kept.index(class_id) + 1 if class_id else 0 for class_id in truth]
    assert mapped(labels_of(*exported), label_info) == truth


@pytest.mark.parametrize(
    ("values", "label_info", "expected"),
    [
        ((0, 1, 3), [], [0, 1, 3]),
        ((0, 1, 3), None, [0, 1, 3]),
        ((0, 1, 2), [{"name": "liver"}, {"name": "aorta"}], [0, 2, 3]),  # names only, as OHIF 2
        ((0, 5, 9), [{"name": "aorta", "idx": 5}, {"name": "spleen", "idx": 9}], [0, 3, 1]),
        ((0, 1, 2), [{"name": "spleen", "idx": 2}, {"name": "liver", "idx": 3}], [0, 1, 2]),  # background was first
        ((0, 1), [{"name": "background", "idx": 1}, {"name": "liver", "idx": 2}], [0, 0]),
        ((0, 2), [{"name": "spleen", "idx": 2}, {"name": "liver", "idx": 3}], [0, 2]),  # by Slicer
        ((0, 2), [{"name": "liver", "idx": 2}, {"name": "aorta", "idx": 3}], [0, 2]),  # by class ids
        ((0, 0), [{"name": "of the client alone", "idx": 1}], [0, 0]),
    ],
)
def test_values_are_mapped_by_name(values: tuple[int, ...], label_info: Any, expected: list[int]) -> None:
    assert mapped(labels_of(*values), label_info) == expected


@pytest.mark.parametrize(
    ("values", "label_info", "message"),
    [
        ((0, 4), [], r"values \[4\], which are no classes"),
        ((0, 1), [{"name": "tumor", "idx": 1}], "has tumor, which the model does not know"),
        ((0, 3), [{"name": "spleen", "idx": 1}], r"values \[3\], and label_info names \[1\]"),
    ],
)
def test_values_without_a_class_are_refused(values: tuple[int, ...], label_info: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mapped(labels_of(*values), label_info)


def test_labels_and_facts_are_kept_until_they_are_removed(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"")
    saved = SavedLabels(tmp_path / "labels", lambda name: tmp_path / name)
    for tag in ("version_1", "original", "final"):
        saved.save(tag, scan.name, labels_of(0, 2), {"label_info": [], "tag": tag})
    saved.update_label_info("final", scan.name, {"segmentationMeta": {"status": "approved"}})
    saved.update_image_info(scan.name, {"reader": "x"})
    saved = SavedLabels(tmp_path / "labels", lambda name: tmp_path / name)
    assert saved.tags(scan.name) == ["final", "original", "version_1"]
    info = saved.label_info("final", scan.name)
    assert (info["tag"], info["segmentationMeta"]["status"]) == ("final", "approved")
    assert saved.image_info(scan.name) == {"reader": "x"}
    np.testing.assert_array_equal(read_labels(saved.find("version_1", scan.name)).data.ravel(), [0, 2])
    saved.remove("original", scan.name)
    with pytest.raises(InputError, match="no such label"):
        saved.label_info("original", scan.name)
    saved.forget(scan.name)
    assert not [path for path in (tmp_path / "labels").rglob("*") if path.is_file()]
    assert saved.image_info(scan.name) == {}


@pytest.mark.parametrize("tag", ["", "../x", ".images", "a/b", "x" * 65, "a\0"])
def test_tags_are_no_paths(tmp_path: Path, tag: str) -> None:
    saved = SavedLabels(tmp_path / "labels", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="no tag"):
        saved.save(tag, "scan", labels_of(1))


def test_facts_are_limited(tmp_path: Path) -> None:
    saved = SavedLabels(tmp_path / "labels", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="1 MB"):
        saved.update_image_info("scan", {"x": "y" * 2**20})
