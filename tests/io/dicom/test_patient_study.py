"""Patient and study attributes are kept, repaired where that loses nothing, and otherwise left empty with a note."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from odd_headers import NAME, ODD_VALUES, SECRET, set_odd_values

from s2vnet.io.dicom.patient_study import TYPE_2_ATTRIBUTES, patient_and_study
from s2vnet.io.library_output import quiet_libraries

EXPECTED = {
    "first character set empty": ("PatientName", f"{NAME}=山田^太郎", ""),
    "korean": ("PatientName", f"{NAME}=洪^吉洞=홍^길동", ""),
    "chinese": ("PatientName", f"{NAME}=王^小东", ""),
    "unknown character set": ("PatientName", NAME, ""),
    "character set that does not fit": (
        "PatientName",
        "Doe^J\ufffdan",
        "PatientName has characters outside its character set, which are replaced",
    ),
    "letters in a date": ("PatientBirthDate", "", "PatientBirthDate is not a date and is left empty"),
    "slashes in a date": ("PatientBirthDate", "", "PatientBirthDate is not a date and is left empty"),
    "dots in a date": ("PatientBirthDate", "19501211", "PatientBirthDate is written in DICOM's format"),
    "no day of the calendar": ("StudyDate", "", "StudyDate is not a date and is left empty"),
    "colons in a time": ("StudyTime", "123005", "StudyTime is written in DICOM's format"),
    "no time": ("StudyTime", "", "StudyTime is not a time and is left empty"),
    "several names": ("PatientName", [NAME, f"{NAME}^II"], ""),
    "long values": ("PatientID", f"{SECRET}{'1' * 90}", ""),
    "no sex": ("PatientSex", "unknown", ""),
    "no numbers": ("PatientWeight", None, "PatientWeight cannot be read and is left out"),
}


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_values_come_back_from_a_file(
    odd: str, tmp_path: Path, write_series: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    write_series(tmp_path, np.zeros((4, 3, 1), np.int16))
    set_odd_values(tmp_path, odd)
    caplog.clear()
    (file,) = tmp_path.iterdir()
    with quiet_libraries():
        image = pydicom.dcmread(file)
    copied, notes = patient_and_study(image)
    assert SECRET not in caplog.text
    assert not any(SECRET in text for text in notes)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, copied, implicit_vr=False, little_endian=True, enforce_file_format=False)
    stream.seek(0)
    back = pydicom.dcmread(stream, force=True)
    assert back.SpecificCharacterSet == "ISO_IR 192"
    assert set(TYPE_2_ATTRIBUTES) <= {element.keyword for element in copied}
    if odd not in EXPECTED:
        return
    name, value, note = EXPECTED[odd]
    with quiet_libraries():
        found = back.get(name)
    assert (found if found is None or isinstance(value, list) else str(found or "")) == value
    assert [text for text in notes if text.startswith(name)] == ([note] if note else [])


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        ("19991231", "19991231"),
        ("1999-12-31", "19991231"),
        ("1999/12/31", "19991231"),
        (" 19991231 ", "19991231"),
        ("", ""),
    ],
)
def test_a_date_in_another_format_is_a_date(stored: str, kept: str) -> None:
    image = pydicom.Dataset()
    image[0x00100030] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(0x00100030), "DA", len(stored), stored.encode(), 0, False, True
    )
    copied, notes = patient_and_study(image)
    rewritten = stored.strip() != kept
    assert (copied.PatientBirthDate, notes) == (
        kept,
        ["PatientBirthDate is written in DICOM's format"] if rewritten else [],
    )
