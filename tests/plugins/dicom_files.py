"""DICOM files of voxels at known places: a series of single files, and one file of many frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid


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


def _group(**values: object) -> list[pydicom.Dataset]:
    """A sequence of one item."""
    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return [made]
