"""A phantom that every test may use: two ellipsoids of known place on an oblique, anisotropic grid. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.volume.geometry import Geometry, LabelMap, Volume

pytest_plugins = ["random_models"]

SPACING = (0.8, 1.1, 2.5)
"""Of the phantom's voxels, mm."""

MakePhantom = Callable[..., tuple[Volume, LabelMap]]


def oblique_affine(spacing: tuple[float, float, float] = SPACING, degrees: float = 15.0) -> npt.NDArray[np.float64]:
    """Affine (4, 4) whose axes are turned by ``degrees`` about x and then about z; nearest axes are RAS."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 12.25, 7.0)
    return affine


def phantom_of(
    shape: tuple[int, int, int] = (14, 16, 9),
    affine: npt.NDArray[np.float64] | None = None,
    channels: int = 1,
    seed: int = 0,
) -> tuple[Volume, LabelMap]:
    """Volume (channels, *shape) and labels 0, 1, 2: ellipsoids at 1/3 and 2/3 of the first axis, brighter by class."""
    geometry = Geometry(shape, oblique_affine() if affine is None else affine)
    place = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"), axis=-1)
    labels = np.zeros(shape, np.uint8)
    for class_id, centre in ((1, (0.3, 0.5, 0.5)), (2, (0.7, 0.5, 0.5))):
        labels[(((place - centre) / (0.18, 0.3, 0.35)) ** 2).sum(-1) <= 1] = class_id
    noise = np.random.default_rng(seed).normal(0, 5, (channels, *shape))
    return Volume((100.0 * labels + noise).astype(np.float32), geometry), LabelMap(labels, geometry)


@pytest.fixture
def make_phantom() -> MakePhantom:
    """:func:`phantom_of`, for tests that choose shape, affine, channels or seed."""
    return phantom_of


@pytest.fixture
def phantom() -> tuple[Volume, LabelMap]:
    """The default phantom: 14 x 16 x 9 voxels of 0.8 x 1.1 x 2.5 mm, oblique, one channel, two classes."""
    return phantom_of()


@pytest.fixture(scope="session")
def write_series() -> Callable[..., None]:
    """``write_series(folder, voxels, step)``: a CT series of voxels (I, J, K) in HU, its slices a step (LPS mm) apart.

    Its files are named against the order of its slices. `cosines` are DICOM's of a row and a column.
    """
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def write(
        folder: Path,
        voxels: npt.NDArray[np.int16],
        step: npt.ArrayLike = (0.0, 0.0, 2.5),
        cosines: tuple[float, ...] = (0.96, 0.28, 0, -0.28, 0.96, 0),
    ) -> None:
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

    return write


@pytest.fixture(scope="session")
def write_frames() -> Callable[..., None]:
    """``write_frames(file, voxels, places)``: an enhanced MR file of frames (I, J, K) at places (K, 3), LPS mm.

    `slopes` are the frames' own, by which stored values are voxels.
    """
    import pydicom
    from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

    def group(**values: object) -> list[pydicom.Dataset]:
        made = pydicom.Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return [made]

    def write(
        file: Path, voxels: npt.NDArray[np.int16], places: npt.ArrayLike, slopes: Sequence[float] | None = None
    ) -> None:
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
        (shared,) = group(PixelMeasuresSequence=group(PixelSpacing=[0.9, 0.7], SliceThickness=2.5))
        shared.PlaneOrientationSequence = group(ImageOrientationPatient=[0.96, 0.28, 0, -0.28, 0.96, 0])
        image.SharedFunctionalGroupsSequence = [shared]
        image.PerFrameFunctionalGroupsSequence = [
            group(
                FrameContentSequence=group(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1]),
                PlanePositionSequence=group(ImagePositionPatient=[f"{v:.6f}" for v in place]),
                PixelValueTransformationSequence=group(
                    RescaleIntercept=0, RescaleSlope=1 if slopes is None else slopes[k], RescaleType="US"
                ),
            )[0]
            for k, place in enumerate(np.asarray(places, np.float64))
        ]
        image.PixelData = np.ascontiguousarray(voxels.transpose(2, 1, 0).astype(np.int16)).tobytes()
        image.save_as(file, enforce_file_format=True)

    return write
