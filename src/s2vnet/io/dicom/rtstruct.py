"""Write label maps of a DICOM series as RT structure sets (PS3.3 A.19): closed contours, LPS mm.

One region of interest per class. A contour passes halfway between the centres of voxels inside and outside, in the
plane of its own image, so that an oblique series or a tilted gantry needs no resampling. Holes are connected to the
contour around them by keyholes of zero width, which all readers support (PS3.3 C.8.8.6.3).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.dicom.references import SERIES_NUMBER, ReferencedSeries, read_referenced_series
from s2vnet.io.dicom.slices import SeriesSlice
from s2vnet.io.geometry import FloatArray, LabelMap
from s2vnet.io.library_output import quiet_libraries
from s2vnet.utils.atomic_write import atomic_write

ENDING = ".rtstruct.dcm"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management (retired), the class that references to a study name."""


@quiet_libraries()
def write_rtstruct(
    path: Path | str,
    labels: LabelMap,
    class_names: Mapping[int, str],
    colours: Mapping[int, str],
    series: Path | str,
    *,
    corrected: bool = False,
) -> None:
    """Write a label map on the grid of a DICOM series as an RT structure set.

    Args:
        path: file to write, ``.rtstruct.dcm``.
        labels: (I, J, K) on the grid of :func:`s2vnet.io.dicom.series.series_geometry`; every value has a name.
        class_names: name by label value, background (0) included or not; a class without voxels has no contour.
        colours: ``#rrggbb`` by label value.
        series: folder of the series, or a zip archive of it.
        corrected: whether a user corrected the labels (SEMIAUTOMATIC, else AUTOMATIC).

    Raises:
        InputError: another grid, values without a name, or as
            :func:`s2vnet.io.dicom.references.read_referenced_series`.
    """
    source = read_referenced_series(series)
    source.geometry.require_same_grid(labels.geometry, f"{series} and its labels")
    names = {value: name for value, name in sorted(class_names.items()) if value}
    unnamed = sorted(set(np.unique(labels.data).tolist()) - {0, *names})
    if unnamed:
        raise InputError(f"label {unnamed[0]} has no name; a structure needs one", path=path)
    images = _image_references(source)
    structure_set = _make_structure_set(source, images)
    for value, name in names.items():
        items = [
            _contour_item(points, plane, image)
            for k, (plane, image) in enumerate(zip(source.slices, images, strict=True))
            for points in mask_contours(labels.data[:, :, k] == value)
        ]
        _add_region(structure_set, value, name, colours[value], items, corrected)
    with atomic_write(Path(path)) as temporary:
        # implicit VR, since explicit VR limits values to 64 kB, which long contours exceed
        structure_set.save_as(temporary, enforce_file_format=True)


@quiet_libraries()
def check_rtstruct(series: Path | str) -> tuple[str, ...]:
    """Check before any work that a structure set can refer to a series: one without contours is made.

    Returns:
        What will differ from the series' headers, one line each.

    Raises:
        InputError: as :func:`write_rtstruct`.
    """
    source = read_referenced_series(series)
    try:
        structure_set = _make_structure_set(source, _image_references(source))
        structure_set.save_as(io.BytesIO(), enforce_file_format=True)
    except Exception as error:  # pydicom has an exception type for each of many faults
        what = "these images cannot be referred to by a structure set; write .nii.gz instead"
        raise InputError(f"{series}: {what} ({type(error).__name__})") from error
    return source.notes


def mask_contours(mask: npt.NDArray[np.bool_]) -> list[FloatArray]:
    """Closed contours (N, 2) of a mask (I, J) in voxels, one per part with its holes, without repeated end points."""
    from contourpy import FillType, contour_generator

    if not mask.any():
        return []
    padded = np.pad(mask, 1).astype(np.float64)
    parts = zip(*contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2), strict=True)
    return [
        _connect_holes([_simplify(points[a:b, ::-1] - 1) for a, b in pairwise(offsets)]) for points, offsets in parts
    ]


def _simplify(ring: FloatArray) -> FloatArray:
    """A ring without its repeated last point and without collinear points."""
    ring = ring[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: npt.NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(ring[turns], np.float64)


def _connect_holes(rings: list[FloatArray]) -> FloatArray:
    """Outer ring with its holes as one ring: along a line to each hole, around it, and back along the line.

    The lines pass between voxel centres, so that none lies on the contour.
    """
    outer, *holes = rings
    for number, hole in enumerate(holes):
        x = float(hole[:, 0].min()) + 0.3 + 0.1 * number / len(holes)  # rings have their corners at multiples of 0.5
        edges, heights = _crossings(hole, x)
        first = int(heights.argmin())
        around, low = np.roll(hole, -1 - edges[first], axis=0), float(heights[first])
        edges, heights = _crossings(outer, x)
        hit = int(np.where(heights < low, heights, -np.inf).argmax())
        keyhole = np.array([(x, heights[hit]), (x, low)])
        at = edges[hit] + 1
        outer = np.concatenate([outer[:at], keyhole, around, keyhole[::-1], outer[at:]])
    return outer


def _crossings(ring: FloatArray, x: float) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Edges of a ring that cross the line of first coordinate `x`, and the second coordinates of the crossings."""
    after = np.roll(ring, -1, axis=0)
    edges = np.flatnonzero((ring[:, 0] - x) * (after[:, 0] - x) < 0)
    start, stop = ring[edges], after[edges]
    return edges, start[:, 1] + (x - start[:, 0]) / (stop[:, 0] - start[:, 0]) * (stop[:, 1] - start[:, 1])


def _contour_item(points: FloatArray, plane: SeriesSlice, image: Any) -> Any:
    from pydicom import Dataset

    affine = plane.geometry.affine_lps
    positions = points @ affine[:3, :2].T + affine[:3, 3]
    contour = Dataset()
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    contour.ContourData = [f"{value:.4f}" for value in positions.ravel()]
    return contour


def _image_references(source: ReferencedSeries) -> list[Any]:
    """Reference to the image, or to its frame, for each slice."""
    from pydicom import Dataset

    images = source.images if source.frames is None else source.images * len(source.slices)
    references = []
    for plane, image in zip(source.slices, images, strict=True):
        reference = Dataset()
        for name in ("SOPClassUID", "SOPInstanceUID"):
            _refer(reference, f"Referenced{name}", image[name].value)
        if plane.frame is not None:
            reference.ReferencedFrameNumber = plane.frame + 1
        references.append(reference)
    return references


def _make_structure_set(source: ReferencedSeries, references: list[Any]) -> Any:
    """Structure set without regions of interest."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    image, structure_set = source.images[0], Dataset()
    structure_set.file_meta = FileMetaDataset()
    structure_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    structure_set.SOPClassUID = RTStructureSetStorage
    structure_set.SOPInstanceUID, structure_set.SeriesInstanceUID = generate_uid(), generate_uid()
    for element in source.patient:
        structure_set.add(element)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator"):
        structure_set.add(image[name])
    structure_set.Modality, structure_set.SeriesNumber, structure_set.InstanceNumber = "RTSTRUCT", SERIES_NUMBER + 1, 1
    structure_set.SeriesDescription, structure_set.OperatorsName = "s2vnet segmentation", ""
    structure_set.Manufacturer = structure_set.ManufacturerModelName = "s2vnet"
    structure_set.SoftwareVersions, structure_set.DeviceSerialNumber = version("s2vnet"), "0"
    now = datetime.now()
    structure_set.StructureSetLabel, structure_set.ApprovalStatus = "s2vnet", "UNAPPROVED"
    structure_set.StructureSetDate, structure_set.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    series, study, frame = Dataset(), Dataset(), Dataset()
    _refer(series, "SeriesInstanceUID", image.SeriesInstanceUID)
    series.ContourImageSequence = references
    study.ReferencedSOPClassUID = _STUDY_CLASS
    _refer(study, "ReferencedSOPInstanceUID", image.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    _refer(frame, "FrameOfReferenceUID", image.FrameOfReferenceUID)
    frame.RTReferencedStudySequence = [study]
    structure_set.ReferencedFrameOfReferenceSequence = [frame]
    for name in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        setattr(structure_set, name, [])
    return structure_set


def _refer(dataset: Any, name: str, uid: str) -> None:
    """Set a UID as it is, also where it breaks the standard's rules as that of the image does."""
    from pydicom import DataElement
    from pydicom.config import IGNORE
    from pydicom.datadict import tag_for_keyword

    dataset.add(DataElement(tag_for_keyword(name) or 0, "UI", uid, validation_mode=IGNORE))


def _add_region(structure_set: Any, value: int, name: str, colour: str, items: list[Any], corrected: bool) -> None:
    """Add a region of interest with its contours."""
    from pydicom import Dataset

    region, contours, observation = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName = value, name[:64]
    _refer(region, "ReferencedFrameOfReferenceUID", structure_set.FrameOfReferenceUID)
    region.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if corrected else "AUTOMATIC"
    contours.ReferencedROINumber = value
    contours.ROIDisplayColor = list(bytes.fromhex(colour.removeprefix("#")))
    for number, contour in enumerate(items, 1):
        contour.ContourNumber = number
    if items:
        contours.ContourSequence = items
    observation.ObservationNumber = observation.ReferencedROINumber = value
    observation.RTROIInterpretedType = observation.ROIInterpreter = ""
    structure_set.StructureSetROISequence.append(region)
    structure_set.ROIContourSequence.append(contours)
    structure_set.RTROIObservationsSequence.append(observation)
