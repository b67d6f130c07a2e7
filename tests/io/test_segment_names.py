"""Names and colours of classes are read as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s2vnet.io.files import read_label_names, read_labels, write_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.io.segment_names import Segment, names_of_fields, slicer_fields, snap_descriptions

SEGMENTS = (Segment(0, "background", "#000000"), Segment(2, "left  kidney", "#ff8000"), Segment(7, "Läsion", "#0a0b0c"))


def test_nrrd_states_names_as_slicer_reads_them(tmp_path: Path) -> None:
    labels = LabelMap(np.full((3, 4, 5), 2, np.uint8), Geometry((3, 4, 5), np.diag([1.0, 2, 3, 1])))
    write_labels(tmp_path / "labels.seg.nrrd", labels, SEGMENTS)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.seg.nrrd").data, labels.data)
    assert read_label_names(tmp_path / "labels.seg.nrrd") == {2: "left kidney", 7: "Läsion"}
    write_labels(tmp_path / "labels.nii.gz", labels, SEGMENTS)
    assert read_label_names(tmp_path / "labels.nii.gz") == {}


def test_fields_have_a_group_a_segment() -> None:
    fields = slicer_fields(SEGMENTS, (3, 4, 5))
    assert fields["Segment0_Color"] == "1 0.501961 0"
    assert fields["Segment1_Extent"] == "0 2 0 3 0 4"
    assert names_of_fields(fields | {"Segment9_Name": "no value"}) == {2: "left kidney", 7: "Läsion"}


def test_descriptions_are_those_of_itk_snap() -> None:
    rows = [row for row in snap_descriptions(SEGMENTS).splitlines() if not row.startswith("#")]
    assert [row.split(maxsplit=7) for row in rows] == [
        ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"'],
        ["2", "255", "128", "0", "1", "1", "1", '"left kidney"'],
        ["7", "10", "11", "12", "1", "1", "1", '"Läsion"'],
    ]
