"""DICOM files of voxels at known places: a series of single files, and one file of many frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)


def write_series(
    folder: Path,
    voxels: npt.NDArray[np.int16],
    step: npt.ArrayLike = (0.0, 0.0, 2.5),
    cosines: tuple[float, ...] = (0.96, 0.28, 0, -0.28, 0.96, 0),
) -> None:
    """A CT series of voxels (I, J, K) in HU, its slices a step (LPS mm) apart; `cosines` are of a row and a column.

    Its files are named against the order of its slices.
    """
    study, series, frame = (generate_uid() for _ in range(3))
    columns, rows, depth = voxels.shape
    for k in range(depth):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientID = image.PatientName = image.PatientBirthDate = image.PatientSex = ""
        image.StudyID = image.StudyDate = image.StudyTime = image.AccessionNumber = ""
        image.ReferringPhysicianName = image.PositionReferenceIndicator = ""
        image.Modality, image.InstanceNumber = "CT", k + 1
        image.ImagePositionPatient = [f"{v:.6f}" for v in np.array([-30, 12.5, 100]) + k * np.asarray(step)]
        image.ImageOrientationPatient = [f"{v:.8f}" for v in cosines]
        image.PixelSpacing, image.SliceThickness = [0.9, 0.7], 2.5
        image.Columns, image.Rows, image.SamplesPerPixel = columns, rows, 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleIntercept, image.RescaleSlope = -1024, 1
        image.PixelData = np.ascontiguousarray(voxels[:, :, k].T.astype(np.int16) + 1024).tobytes()
        image.save_as(folder / f"{1000 - k}.dcm", enforce_file_format=True)


def write_frames(
    file: Path, voxels: npt.NDArray[np.int16], places: npt.ArrayLike, slopes: Sequence[float] | None = None
) -> None:
    """An enhanced MR file of frames (I, J, K) at places (K, 3), LPS mm, with rescale `slopes` of their own."""
    columns, rows, depth = voxels.shape
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = EnhancedMRImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    image.Modality, image.InstanceNumber, image.NumberOfFrames = "MR", 1, depth
    image.Columns, image.Rows, image.SamplesPerPixel = columns, rows, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    (shared,) = _group(PixelMeasuresSequence=_group(PixelSpacing=[0.9, 0.7], SliceThickness=2.5))
    shared.PlaneOrientationSequence = _group(ImageOrientationPatient=[0.96, 0.28, 0, -0.28, 0.96, 0])
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [
        _group(
            FrameContentSequence=_group(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1]),
            PlanePositionSequence=_group(ImagePositionPatient=[f"{v:.6f}" for v in place]),
            PixelValueTransformationSequence=_group(
                RescaleIntercept=0, RescaleSlope=1 if slopes is None else slopes[k], RescaleType="US"
            ),
        )[0]
        for k, place in enumerate(np.asarray(places, np.float64))
    ]
    image.PixelData = np.ascontiguousarray(voxels.transpose(2, 1, 0).astype(np.int16)).tobytes()
    image.save_as(file, enforce_file_format=True)


def encodings(slice_: bytes) -> tuple[bytes, ...]:
    """A slice of a series with sequences of both kinds of length, in every transfer syntax that can be written here."""
    made = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        for delimited in (False, True):
            image = pydicom.dcmread(io.BytesIO(slice_))
            image.file_meta.TransferSyntaxUID = syntax
            image.ReferencedStudySequence = _group(ReferencedSeriesSequence=_group(SeriesInstanceUID="1.2.3"))
            image["ReferencedStudySequence"].is_undefined_length = delimited
            image.ReferencedStudySequence[0].is_undefined_length_sequence_item = delimited
            if syntax == ExplicitVRBigEndian:
                image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
            made.append(_saved(image, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian))
    for syntax in (RLELossless, JPEGLSLossless):
        image = pydicom.dcmread(io.BytesIO(slice_))
        image.compress(syntax, generate_instance_uid=False)
        made.append(_saved(image))
    image = pydicom.dcmread(io.BytesIO(slice_))
    image.PixelRepresentation = 0
    pixels = Image.fromarray(np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns))
    for bare in (True, False):
        with io.BytesIO() as file:
            pixels.save(file, "JPEG2000", no_jp2=bare, irreversible=False)
            made.append(_encapsulated(image, JPEG2000Lossless, file.getvalue()))
    return tuple(made)


def write_jpeg(file: Path, slice_: bytes, *, progressive: bool = False) -> None:
    """A slice whose values, of 8 bits, are a ramp along i: a lossy JPEG."""
    image = pydicom.dcmread(io.BytesIO(slice_))
    image.PixelRepresentation = image.RescaleIntercept = 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    ramp = np.tile(np.arange(image.Columns, dtype=np.uint8) * 8, (image.Rows, 1))
    with io.BytesIO() as packed:
        Image.fromarray(ramp).save(packed, "JPEG", quality=100, progressive=progressive)
        file.write_bytes(_encapsulated(image, JPEGBaseline8Bit, packed.getvalue()))


def _encapsulated(image: pydicom.Dataset, syntax: str, frame: bytes) -> bytes:
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = pydicom.encaps.encapsulate([frame])
    image["PixelData"].is_undefined_length, image["PixelData"].VR = True, "OB"
    return _saved(image)


def _saved(image: pydicom.Dataset, **encoding: bool) -> bytes:
    with io.BytesIO() as file:
        pydicom.dcmwrite(file, image, enforce_file_format=True, **encoding)
        return file.getvalue()


def _group(**values: object) -> list[pydicom.Dataset]:
    """A sequence of one item."""
    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return [made]


def dicom_of(folder: Path, write_series: Callable[..., None], **changes: Any) -> Path:
    write_series(folder, np.zeros((4, 3, 1), np.int16))
    (file,) = folder.iterdir()
    image = pydicom.dcmread(file)
    for name, value in changes.items():
        setattr(image, name, value)
    image.save_as(file)
    return file
