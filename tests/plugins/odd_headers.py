"""DICOM headers with values that the standard forbids, as scanners, archives and anonymisers write them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

SECRET = "Doe"
"""In every patient's name here."""
NAME = f"{SECRET}^Jane"
ODD_VALUES: dict[str, Mapping[str, Any]] = {
    "first character set empty": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": f"{NAME}=山田^太郎"},
    "korean": {"SpecificCharacterSet": ["", "ISO 2022 IR 149"], "PatientName": f"{NAME}=洪^吉洞=홍^길동"},
    "chinese": {"SpecificCharacterSet": "GB18030", "PatientName": f"{NAME}=王^小东"},
    "unknown character set": {"SpecificCharacterSet": f"{SECRET}_IR 999", "PatientName": NAME},
    "character set that does not fit": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": b"Doe^J\xe9an"},
    "letters in a date": {"PatientBirthDate": "1960XXXX"},
    "slashes in a date": {"PatientBirthDate": "00/00/0000"},
    "dots in a date": {"PatientBirthDate": "1950.12.11"},
    "no day of the calendar": {"StudyDate": "20230231"},
    "colons in a time": {"StudyTime": "12:30:05"},
    "no time": {"StudyTime": f"{SECRET} noon"},
    "several names": {"PatientName": f"{NAME}\\{NAME}^II"},
    "long values": {"PatientID": f"{SECRET}{'1' * 90}", "StudyID": "S" * 40, "AccessionNumber": "7" * 30},
    "long name": {"PatientName": f"{SECRET}{'n' * 100}^Jane^A^B^C^D^E"},
    "no sex": {"PatientSex": "unknown"},
    "no age": {"PatientAge": f"{SECRET} 45 years"},
    "no numbers": {"PatientWeight": f"{SECRET}", "PatientSize": "1,75", "SliceThickness": ""},
    "no thickness": {"SliceThickness": "-1"},
    "private class": {"SOPClassUID": "1.3.46.670589.11.0.0.12.1"},
    "invalid identifiers": {"StudyInstanceUID": "1.2.03.4", "FrameOfReferenceUID": "1..2"},
    "long identifier": {"StudyInstanceUID": "1.2." + "3" * 70},
    "control characters": {"PatientName": f"{NAME}\x07\n", "PatientComments": f"{SECRET}\x00\x1b"},
    "other patient": {"OtherPatientNames": [NAME, f"{NAME}^II"], "EthnicGroup": "x" * 40},
    "a bare name": {"PatientName": SECRET, "PatientBirthName": f"{NAME}^^^^^^^^", "ReferringPhysicianName": "^^^^^^"},
}
"""Values by name of the case."""


_ENCODINGS = {
    "ISO 2022 IR 87": (b"", "iso2022_jp"),
    "ISO 2022 IR 149": (b"\x1b$)C", "euc_kr"),
    "GB18030": (b"", "gb18030"),
}


def set_odd_values(folder: Path, name: str) -> None:
    """Set the values in all files of a series, as bytes that no library checks."""
    values = {"PatientName": NAME, **ODD_VALUES[name]}
    (*_, charset) = "", *_as_list(values.get("SpecificCharacterSet", ""))
    for file in folder.iterdir():
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # pydicom decodes names where the character set changes, so that comes first
            for keywords in ({"SpecificCharacterSet"}, set(values) - {"SpecificCharacterSet"}):
                image = pydicom.dcmread(file)
                for keyword in keywords & set(values):
                    _set_raw(image, keyword, values[keyword], charset)
                image.save_as(file)


def _set_raw(image: pydicom.Dataset, keyword: str, value: Any, charset: str) -> None:
    tag = Tag(keyword)
    raw = value if isinstance(value, bytes) else _encode("\\".join(_as_list(value)), charset)
    raw += b" " * (len(raw) % 2)
    image[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _encode(text: str, charset: str) -> bytes:
    """Encode text; character sets have to be designated anew after each delimiter of a name."""
    prefix, encoding = _ENCODINGS.get(charset, (b"", "latin-1"))
    parts = re.split(r"([=^\\])", text)
    return b"".join(part.encode() if part.isascii() else prefix + part.encode(encoding) for part in parts)
