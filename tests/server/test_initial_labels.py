"""Labels that a session starts from: classes of the model by name or value, and added ones for all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.prompts import Extent, NewClass
from s2vnet.server.initial_labels import read_initial, split_labels, write_initial

GRID = Geometry((3, 4, 5), np.diag([1.0, 2, 3, 1]))
NETWORK = {0: "background", 1: "liver", 2: "spleen"}


def labels_of(*values: int) -> LabelMap:
    data = np.zeros(GRID.shape, np.uint16)
    data.reshape(-1)[: len(values)] = values
    return LabelMap(data, GRID)


def test_values_without_names_are_classes_by_their_number() -> None:
    initial, log = split_labels(labels_of(1, 2, 7, 7, 300), {}, NETWORK)
    assert initial.data.reshape(-1)[:5].tolist() == [1, 2, 0, 0, 0]
    seven, seven_voxels, other, _ = log
    assert (seven, other) == (NewClass(class_id=7, name="label 7"), NewClass(class_id=8, name="label 300"))
    assert isinstance(seven_voxels, Extent)
    assert seven_voxels.mask.voxels().tolist() == [[0, 0, 2], [0, 0, 3]]


def test_names_decide_what_is_a_class_of_the_model() -> None:
    initial, log = split_labels(labels_of(1, 2, 5), {1: "Spleen", 2: "cyst", 5: "liver"}, NETWORK)
    assert initial.data.reshape(-1)[:3].tolist() == [2, 0, 1]
    assert log[0] == NewClass(class_id=3, name="cyst")


def test_an_image_in_place_of_labels_is_refused() -> None:
    data = np.arange(400, dtype=np.uint16).reshape(4, 10, 10)
    with pytest.raises(InputError, match="are these labels"):
        split_labels(LabelMap(data, Geometry(data.shape, np.eye(4))), {}, NETWORK)


def test_the_labels_of_a_session_are_kept_with_its_record(tmp_path: Path) -> None:
    assert read_initial(tmp_path, GRID) is None
    write_initial(tmp_path, labels_of(1, 2))
    read = read_initial(tmp_path, GRID)
    assert read is not None
    np.testing.assert_array_equal(read.data, labels_of(1, 2).data)
