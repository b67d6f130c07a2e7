"""Patient and study attributes of an image, for objects derived from it: decoded, and repaired where necessary.

Scanners, archives and anonymisers write values that the standard forbids: other date formats, fields that are missing,
character sets without a name. Values that can be written are kept as they are, in UTF-8; the others are left empty.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from typing import Any

from s2vnet.io.library_output import quiet_libraries

TYPE_2_ATTRIBUTES = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes that are required but may be empty (PS3.5, 7.4); anonymisation removes them."""
CHARACTER_SET = "ISO_IR 192"
"""UTF-8."""
_FURTHER = ("StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "AdmittingDiagnosesDescription")
_GROUPS = (0x0010, 0x0012)
"""Groups of patient and clinical trial, whose other attributes are optional."""
_TEXT = frozenset(("AE", "AS", "CS", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT"))
_REPLACEMENT = "\ufffd"
"""Character that stands for bytes that cannot be decoded."""
_DATE = re.compile(r"(\d{4})([.\-/]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?")


@quiet_libraries()
def patient_and_study(image: Any) -> tuple[Any, list[str]]:
    """Copy patient and study attributes of a header.

    Args:
        image: pydicom data set.

    Returns:
        Data set with all ``TYPE_2_ATTRIBUTES``, which pydicom writes in UTF-8, and a line for each attribute that had
        to be changed, without its value.
    """
    from pydicom import Dataset

    copied, notes = Dataset(), list[str]()
    copied.SpecificCharacterSet = CHARACTER_SET
    if not isinstance(image.get("SpecificCharacterSet", ""), str):
        notes.append("text in several character sets is written in UTF-8")
    for tag, name in _attributes(image):
        element, note = _copy_element(image, tag, name)
        if note:
            notes.append(f"{name} {note}")
        if element is not None:
            copied.add(element)
    return copied, notes


def _attributes(image: Any) -> Iterator[tuple[int, str]]:
    """Tags and names of the attributes to copy, in ascending order."""
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    wanted = {tag_for_keyword(name) for name in (*TYPE_2_ATTRIBUTES, *_FURTHER)}
    tags = list(image.keys())  # iterating over the data set itself parses all values
    wanted |= {tag for tag in tags if tag.group in _GROUPS and not tag.is_private}
    for tag in sorted(tag for tag in wanted if tag is not None):
        name = keyword_for_tag(tag)
        if name and (tag in image or name in TYPE_2_ATTRIBUTES):
            yield tag, name


def _copy_element(image: Any, tag: int, name: str) -> tuple[Any, str]:
    """Element to write, or None, and what was changed."""
    from pydicom import DataElement
    from pydicom.config import IGNORE
    from pydicom.datadict import dictionary_VR
    from pydicom.multival import MultiValue

    vr, lost, rewritten = dictionary_VR(tag), False, False
    required = name in TYPE_2_ATTRIBUTES

    def element(value: Any) -> Any:
        return DataElement(tag, vr, value, validation_mode=IGNORE)

    if tag not in image:
        return element(""), ""
    try:
        value = image[tag].value
        if vr in _TEXT:
            value = list(map(_text, value)) if isinstance(value, MultiValue) else _text(value)
            lost = _REPLACEMENT in "".join(value)
        elif vr in ("DA", "TM"):
            stored = _text(value).strip()
            value = _date(stored) if vr == "DA" else _time(stored)
            rewritten = value is not None and value != stored
        copied = None if value is None else element(value)
    except Exception:  # pydicom has an exception type for each of many faults
        copied = None
    if copied is not None and _can_be_written(copied):
        if rewritten:
            return copied, "is written in DICOM's format"
        return copied, "has characters outside its character set, which are replaced" if lost else ""
    what = {"DA": "is not a date", "TM": "is not a time"}.get(vr, "cannot be read")
    return (element(""), f"{what} and is left empty") if required else (None, f"{what} and is left out")


def _text(value: Any) -> str:
    return "" if value is None else str(value).rstrip("\0 ")


def _date(text: str) -> str | None:
    """A date as YYYYMMDD; None for text that is no date."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None if text else ""
    with suppress(ValueError):
        return date(int(match[1]), int(match[3]), int(match[4])).strftime("%Y%m%d").zfill(8)
    return None


def _time(text: str) -> str | None:
    """A time as HHMMSS.F; None for text that is no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None if text else ""
    return "".join(part or "" for part in match.groups())


def _can_be_written(element: Any) -> bool:
    from pydicom import Dataset, dcmwrite

    alone = Dataset()
    alone.SpecificCharacterSet = CHARACTER_SET
    alone.add(element)
    try:
        dcmwrite(io.BytesIO(), alone, implicit_vr=False, little_endian=True, enforce_file_format=False)
    except Exception:  # as above
        return False
    return True
