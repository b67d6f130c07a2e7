"""Label maps of a DICOM series as RT structure sets (PS3.3 A.19): closed contours in patient coordinates, LPS mm.

One region of interest per class. A contour passes halfway between the centres of voxels inside and outside, on the
plane that its own image states, so that an oblique series or a tilted gantry needs no resampling; every voxel centre
lies on the right side of it. A hole is joined to the contour around it by a keyhole of no width, as every reader
knows it (PS3.3 C.8.8.6.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.dicom.references import EMPTY, SERIES_NUMBER, Source, read_referenced_series
from s2vnet.io.dicom.series import Plane
from s2vnet.io.geometry import FloatArray, LabelMap
from s2vnet.utils.atomic_write import atomic_write

ENDING = ".rtstruct.dcm"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, which a reference to a study names although it is retired."""


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
        corrected: whether somebody corrected the labels (SEMIAUTOMATIC, else AUTOMATIC).

    Raises:
        InputError: another grid, values without a name, or as
            :func:`s2vnet.io.dicom.references.read_referenced_series`.
    """
    source = read_referenced_series(series)
    source.geometry.require_same_grid(labels.geometry, f"{series} and its labels")
    names = {value: name for value, name in sorted(class_names.items()) if value}
    unnamed = sorted(set(np.unique(labels.data).tolist()) - {0, *names})
    if unnamed:
        raise InputError(f"{path}: label {unnamed[0]} has no name; a structure needs one")
    images = _references(source)
    written = _structure_set(source, images)
    for value, name in names.items():
        found = [
            _contour(points, plane, image)
            for k, (plane, image) in enumerate(zip(source.planes, images, strict=True))
            for points in contours(labels.data[:, :, k] == value)
        ]
        _add(written, value, name, colours[value], found, corrected)
    with atomic_write(Path(path)) as temporary:
        # a value of more than 64 kB, as a long contour is, has no place in explicit VR
        written.save_as(temporary, enforce_file_format=True)


def contours(inside: npt.NDArray[np.bool_]) -> list[FloatArray]:
    """Closed contours (N, 2) of a slice's mask (I, J) in voxels, one per part with its holes; left open."""
    from contourpy import FillType, contour_generator

    if not inside.any():
        return []
    padded = np.pad(inside, 1).astype(np.float64)
    found = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2)
    parts = zip(*found, strict=True)
    return [_joined([_plain(points[a:b, ::-1] - 1) for a, b in pairwise(at)]) for points, at in parts]


def _plain(ring: FloatArray) -> FloatArray:
    """A ring without its last point, which is the first again, and without points on straight lines."""
    ring = ring[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: npt.NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(ring[turns], np.float64)


def _joined(rings: list[FloatArray]) -> FloatArray:
    """A ring and those of its holes as one: along a line to the hole, around it, and back the same way.

    The lines run between voxel centres, of which none may lie on a contour.
    """
    joined, *holes = rings
    for number, hole in enumerate(holes):
        x = float(hole[:, 0].min()) + 0.3 + 0.1 * number / len(holes)  # rings have their corners at multiples of 0.5
        edges, heights = _crossings(hole, x)
        first = int(heights.argmin())
        around, low = np.roll(hole, -1 - edges[first], axis=0), float(heights[first])
        edges, heights = _crossings(joined, x)
        hit = int(np.where(heights < low, heights, -np.inf).argmax())
        way = np.array([(x, heights[hit]), (x, low)])
        at = edges[hit] + 1
        joined = np.concatenate([joined[:at], way, around, way[::-1], joined[at:]])
    return joined


def _crossings(ring: FloatArray, x: float) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Edges of a ring that cross a line of constant first coordinate, and where they do."""
    after = np.roll(ring, -1, axis=0)
    edges = np.flatnonzero((ring[:, 0] - x) * (after[:, 0] - x) < 0)
    start, stop = ring[edges], after[edges]
    return edges, start[:, 1] + (x - start[:, 0]) / (stop[:, 0] - start[:, 0]) * (stop[:, 1] - start[:, 1])


def _contour(points: FloatArray, plane: Plane, image: Any) -> Any:
    from pydicom import Dataset

    affine = plane.geometry.affine_lps
    places = points @ affine[:3, :2].T + affine[:3, 3]
    contour = Dataset()
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    contour.ContourData = [f"{value:.4f}" for value in places.ravel()]
    return contour


def _references(source: Source) -> list[Any]:
    """Per slice a reference to its image, or to its frame."""
    from pydicom import Dataset

    images = source.images if source.frames is None else source.images * len(source.planes)
    found = []
    for plane, image in zip(source.planes, images, strict=True):
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        if plane.frame is not None:
            reference.ReferencedFrameNumber = plane.frame + 1
        found.append(reference)
    return found


def _structure_set(source: Source, references: list[Any]) -> Any:
    """Everything but the regions of interest."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    image, made = source.images[0], Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = (
        RTStructureSetStorage,
        generate_uid(),
        generate_uid(),
    )
    made.SpecificCharacterSet = "ISO_IR 192"
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", *EMPTY):
        setattr(made, name, str(image.get(name) or ""))
    made.Modality, made.SeriesNumber, made.InstanceNumber = "RTSTRUCT", SERIES_NUMBER + 1, 1
    made.SeriesDescription, made.OperatorsName = "s2vnet segmentation", ""
    made.Manufacturer = made.ManufacturerModelName = "s2vnet"
    made.SoftwareVersions, made.DeviceSerialNumber = version("s2vnet"), "0"
    now = datetime.now()
    made.StructureSetLabel, made.ApprovalStatus = "s2vnet", "UNAPPROVED"
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = references
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, image.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = image.FrameOfReferenceUID, [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    return made


def _add(made: Any, value: int, name: str, colour: str, found: list[Any], corrected: bool) -> None:
    """A region of interest with its contours."""
    from pydicom import Dataset

    region, drawn, observed = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName = value, name[:64]
    region.ReferencedFrameOfReferenceUID = made.FrameOfReferenceUID
    region.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if corrected else "AUTOMATIC"
    drawn.ReferencedROINumber = value
    drawn.ROIDisplayColor = list(bytes.fromhex(colour.removeprefix("#")))
    for number, contour in enumerate(found, 1):
        contour.ContourNumber = number
    if found:
        drawn.ContourSequence = found
    observed.ObservationNumber = observed.ReferencedROINumber = value
    observed.RTROIInterpretedType = observed.ROIInterpreter = ""
    made.StructureSetROISequence.append(region)
    made.ROIContourSequence.append(drawn)
    made.RTROIObservationsSequence.append(observed)
