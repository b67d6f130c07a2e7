"""UIDs of results: the same for the same images, model and kind, different for any other."""

from __future__ import annotations

from pathlib import Path

import pydicom
from dicom_files import dicom_of, write_series

from s2vnet.io.dicomweb.address import is_uid
from s2vnet.io.dicomweb.results import KINDS, ResultUIDs, read_result, result_uids


def test_uids_depend_on_all_that_the_result_depends_on() -> None:
    same = [result_uids("seg", images, {"m": 1, "n": None}) for images in (["1", "2"], ("2", "1"), {"1", "2"})]
    assert len(set(same)) == 1
    others = [result_uids(kind, ["1", "2"], {"m": 1, "n": None}) for kind in KINDS]
    others += [result_uids("seg", ["1", "2", "3"], {"m": 1, "n": None}), result_uids("seg", ["1", "2"], {"m": 2})]
    uids = [uid for each in others for uid in each]
    assert len(set(uids)) == len(uids) == 10
    assert all(map(is_uid, uids))


def test_a_result_gets_its_uids(tmp_path: Path) -> None:
    file = dicom_of(tmp_path, write_series)
    result = read_result(file, ResultUIDs("1.2", "1.3"))
    result.save_as(file, enforce_file_format=True)
    back = pydicom.dcmread(file)
    assert (back.SeriesInstanceUID, back.SOPInstanceUID, back.file_meta.MediaStorageSOPInstanceUID) == (
        "1.2",
        "1.3",
        "1.3",
    )
