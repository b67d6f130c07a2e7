"""Odd but well-formed inputs of each reader, generated from a seed: headers, folders, archives.

Other than :mod:`hostile`, which damages bytes, values are changed within the formats.
"""

from __future__ import annotations

import gzip
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from dicom_files import write_frames, write_series
from odd_headers import ODD_VALUES, set_odd_values
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

Rng = np.random.Generator
SHAPE = (6, 5, 4)
_NUMBERS = (0.0, 1.0, -1.0, 0.5, 2.0, 1e-30, 1e30, np.nan, np.inf, -3.25, 0.7071)
_TEXTS = (
    b"",
    b" ",
    b"0",
    b"-1",
    b"1.5",
    b"1\\2",
    b"NaN",
    b"1e400",
    b"Doe^Jane",
    b"\xff\xfe",
    b"9" * 40,
    b"A\\B\\C",
    b"1,5",
)
_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8", "c8", ">i2", ">f4")


def odd_nifti(folder: Path, rng: Rng) -> Path:
    """A NIfTI file whose header states a few fields oddly."""
    shape = SHAPE if rng.random() < 0.7 else tuple(rng.integers(1, 5, rng.integers(1, 6)).tolist())
    kind: Any = rng.choice(np.array([nib.Nifti1Image, nib.Nifti2Image], object))
    dtype = np.dtype(str(rng.choice(_DTYPES)))
    image = kind(rng.integers(0, 5, shape).astype(dtype), np.diag([-2.0, 2, 3, 1]), dtype=dtype)
    header = image.header
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        content = bytearray(image.to_bytes())
        header = type(header)(bytes(content[: header.template_dtype.itemsize]), check=False)
        for _ in range(rng.integers(1, 5)):
            name = str(rng.choice(list(header.keys())[1:]))
            value = header[name]
            if value.dtype.kind == "f":
                header[name] = rng.choice(_NUMBERS, value.shape)
            elif value.dtype.kind in "iu" and name not in ("dim", "bitpix", "datatype", "vox_offset", "sizeof_hdr"):
                header[name] = rng.integers(-2, 8, value.shape)
            elif value.dtype.kind == "S" and name != "magic":
                header[name] = _TEXTS[rng.integers(len(_TEXTS))]
    content[: len(header.binaryblock)] = header.binaryblock
    if rng.random() < 0.2:
        content += bytes(rng.integers(0, 64))
    path = folder / str(rng.choice(["a.nii", "a.nii.gz", "A.NII.GZ"]))
    path.write_bytes(gzip.compress(content, 1) if rng.random() < 0.5 else bytes(content))
    return path


def odd_itk(folder: Path, rng: Rng) -> Path:
    """An NRRD or MetaImage file, some lines of whose header are changed, doubled or left out."""
    ending = str(rng.choice([".nrrd", ".mha", ".nhdr", ".mhd"]))
    array = rng.integers(0, 5, SHAPE[: rng.integers(2, 4)]).astype(str(rng.choice(["u1", "i2", "f4", "f8"])))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(rng.choice([1.0, 2.5, 0.3], image.GetDimension()).tolist())
    image.SetMetaData("PatientName", "Doe^Jane")
    path = folder / f"a{ending}"
    sitk.WriteImage(image, str(path), useCompression=bool(rng.integers(2)))
    lines, blank, voxels = path.read_bytes().partition(b"\n\n" if "n" in ending else b"ElementDataFile")
    changed = lines.split(b"\n")
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(changed))), rng.integers(4)
        key, colon, _ = changed[at].partition(b":" if b":" in changed[at] else b"=")
        if kind == 0:
            changed[at] = key + colon + b" " + _TEXTS[rng.integers(len(_TEXTS))]
        elif kind == 1 and len(changed) > 1:
            del changed[at]
        elif kind == 2:
            changed.insert(at, changed[at])
        else:
            changed.insert(at, b"# Doe^Jane" if "n" in ending else b"Comment = Doe^Jane")
    path.write_bytes(b"\n".join(changed) + blank + voxels)
    return path


_KEYWORDS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "InstanceNumber", "SeriesNumber", "Modality", "SeriesInstanceUID"),
    *("SpecificCharacterSet", "PatientName", "PatientBirthDate", "StudyDate", "StudyInstanceUID", "SOPClassUID"),
    *("FrameOfReferenceUID", "ImageType", "SOPInstanceUID", "WindowCenter", "PatientSex", "PatientID"),
)
_FILE_NAMES: tuple[Callable[[int], bytes], ...] = (
    lambda k: f"{k}.dcm".encode(),
    lambda k: f"IM{k:05d}".encode(),
    lambda k: f"A{k}.IMA".encode(),
    lambda k: f"PA/ST{k % 2}/{k}".encode(),
    lambda k: f"1.2.840.{k}".encode(),
    lambda k: b"\xff%d" % k,
)


def odd_series(folder: Path, rng: Rng) -> Path:
    """A DICOM series with odd values in all files or in one, as a folder or an archive, single or multi-frame."""
    plain, series = folder / "plain", folder / "series"
    plain.mkdir()
    voxels = rng.integers(0, 99, SHAPE).astype(np.int16)
    if rng.random() < 0.3:
        write_frames(plain / "0.dcm", voxels, np.arange(SHAPE[2])[:, None] * np.array([0, 0, 2.5]))
    else:
        write_series(plain, voxels)
    if rng.random() < 0.5:
        set_odd_values(plain, str(rng.choice(list(ODD_VALUES))))
    files = sorted(plain.iterdir())
    for keyword in rng.choice(_KEYWORDS, rng.integers(0, 3)).tolist():
        value = _TEXTS[rng.integers(len(_TEXTS))]
        for file in files if rng.random() < 0.5 else files[:1]:
            _set(file, keyword, None if rng.random() < 0.3 else value)
    name = _FILE_NAMES[rng.integers(len(_FILE_NAMES))]
    for k, file in enumerate(files):
        target = series / os.fsdecode(name(k))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    litter = {".DS_Store": b"\0", "._1.dcm": b"\0\5", "Thumbs.db": b"\xd0", "README": b"text", "b/__MACOSX/1.dcm": b"x"}
    for other, content in litter.items():
        if rng.random() < 0.3:
            (series / other).parent.mkdir(parents=True, exist_ok=True)
            (series / other).write_bytes(content)
    shutil.rmtree(plain)
    if rng.random() < 0.7:
        return series
    packed = folder / "series.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for number, file in enumerate(file for file in sorted(series.rglob("*")) if file.is_file()):
            archive.write(file, f"{number}-{file.name}" if file.name.isascii() else str(number))
    return packed


def _set(file: Path, keyword: str, value: bytes | None) -> None:
    """Set an element's bytes, or remove it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pydicom.dcmread(file)
        tag = Tag(keyword)
        image.pop(keyword, None)
        if value is not None:
            value += b" " * (len(value) % 2)
            image[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        with suppress(Exception):  # a value that even the writer refuses is no input
            image.save_as(file)


READERS: dict[str, Callable[[Path, Rng], Path]] = {"nifti": odd_nifti, "itk": odd_itk, "dicom": odd_series}
"""Generators by reader: each writes an input to an empty folder and returns its path."""
