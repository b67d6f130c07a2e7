"""Classes of one's own, their names and colours, and labels to start from, in the page and in saved files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from viewer_page import Viewer

from s2vnet.io.files import read_labels, write_labels
from s2vnet.io.geometry import LabelMap, Volume


def test_an_added_class_is_drawn_renamed_and_saved_with_its_name(viewer: Viewer, tmp_path: Path) -> None:
    page = viewer.open().page
    with viewer.asking():
        page.get_by_role("button", name="+ Add").click()
        page.get_by_label("Name").fill("lesion")
        page.keyboard.press("Enter")
    viewer.until("s2vnet.tools.classId === 3")
    viewer.press("m")
    page.evaluate("() => s2vnet.tools.resize(1.2)")
    viewer.draw((9, 9, 7), (11, 9, 7))
    assert (viewer.labels() == 3).sum() >= 3
    page.get_by_role("button", name="edit lesion").click()
    page.get_by_label("Name").fill("cyst")
    page.get_by_label("Colour").fill("#123456")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("button", name="edit cyst").wait_for()
    page.reload()
    viewer.until("s2vnet.ready")
    page.get_by_role("button", name="edit cyst").wait_for()
    page.get_by_label("file format").select_option("nrrd")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save labels").click()
    assert saved.value.suggested_filename == "one-labels.seg.nrrd"
    saved.value.save_as(tmp_path / "labels.seg.nrrd")
    image = sitk.ReadImage(str(tmp_path / "labels.seg.nrrd"))
    number = next(n for n in range(9) if image.GetMetaData(f"Segment{n}_Name") == "cyst")
    assert image.GetMetaData(f"Segment{number}_LabelValue") == "3"
    color = [round(255 * float(part)) for part in image.GetMetaData(f"Segment{number}_Color").split()]
    assert color == [0x12, 0x34, 0x56]
    page.get_by_label("file format").select_option("nii.gz")
    with page.expect_download(lambda file: file.suggested_filename.endswith(".txt")) as described:
        page.get_by_role("button", name="Save labels").click()
    described.value.save_as(tmp_path / "labels.txt")
    assert '    3    18   52   86        1  1  1    "cyst"' in (tmp_path / "labels.txt").read_text().splitlines()
    before, first = viewer.labels(), viewer.state()["session"]
    page.set_input_files("#labels-file", tmp_path / "labels.seg.nrrd")
    viewer.until(f"s2vnet.state && s2vnet.state.session !== '{first}' && s2vnet.ready")
    np.testing.assert_array_equal(viewer.labels(), before)
    page.get_by_role("button", name="edit cyst").wait_for()


def test_a_session_starts_from_labels_of_another_program(viewer: Viewer, bordered: Volume, tmp_path: Path) -> None:
    labels = np.zeros(bordered.data.shape[1:], np.uint8)
    labels[3:6, 3:6, 3:6], labels[8:10, 8:10, 5:8] = 2, 40
    write_labels(tmp_path / "labels.nii.gz", LabelMap(labels, bordered.geometry))
    page = viewer.open().page
    first = viewer.state()["session"]
    page.set_input_files("#labels-file", tmp_path / "labels.nii.gz")
    viewer.until(f"s2vnet.state && s2vnet.state.session !== '{first}' && s2vnet.ready")
    np.testing.assert_array_equal(viewer.labels(), labels)
    page.get_by_role("button", name="edit label 40").wait_for()
    with page.expect_download(lambda file: file.suggested_filename.endswith(".gz")) as saved:
        page.get_by_role("button", name="Save labels").click()
    saved.value.save_as(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "again.nii.gz").data, labels)
