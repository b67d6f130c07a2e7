"""Read and write label maps of a DICOM series as DICOM SEG objects (PS3.3 A.51) by highdicom.

A binary object has a frame of bits for each class and slice; a labelmap object (since 2024) has one frame of label
values for each slice, and fewer programs read it. One segment per class, with its SNOMED CT code where there is one,
and references to the series' images. Frames have the positions of the source images, so that a tilted gantry needs no
resampling.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.io.dicom.references import SERIES_NUMBER, ReferencedSeries, read_referenced_series
from s2vnet.io.dicom.validate import read_header
from s2vnet.io.geometry import LabelMap
from s2vnet.io.library_output import quiet_libraries
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.extras import require_extra

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

ENDING = ".dcm"
LABELMAP_ENDING = ".labelmap.dcm"
PRIVATE_SCHEME = "99S2VNET"
"""Coding scheme of classes without a SNOMED CT code; 99 marks private schemes (PS3.16, 8.2)."""
SNOMED_TERMS = {
    "adrenal gland": "AdrenalGland",
    "aorta": "Aorta",
    "bladder": "Bladder",
    "brain": "Brain",
    "breast": "Breast",
    "colon": "Colon",
    "duodenum": "Duodenum",
    "esophagus": "Esophagus",
    "gallbladder": "Gallbladder",
    "heart": "Heart",
    "head of femur": "HeadOfFemur",
    "hippocampus": "Hippocampus",
    "inferior vena cava": "InferiorVenaCava",
    "kidney": "Kidney",
    "liver": "Liver",
    "lung": "Lung",
    "pancreas": "Pancreas",
    "portal vein": "PortalVein",
    "prostate": "Prostate",
    "rectum": "Rectum",
    "spinal cord": "SpinalCord",
    "spleen": "Spleen",
    "splenic vein": "SplenicVein",
    "stomach": "Stomach",
    "trachea": "Trachea",
    "uterus": "Uterus",
    "portal and splenic vein": "PortalVein",
    "portal vein and splenic vein": "PortalVein",
    "postcava": "InferiorVenaCava",
    "gall bladder": "Gallbladder",
    "oesophagus": "Esophagus",
    "urinary bladder": "Bladder",
    "femur head": "HeadOfFemur",
}
"""pydicom's keyword of the SNOMED CT code by the name of an anatomical structure in datasets."""


@quiet_libraries()
def write_segmentation(
    path: Path | str,
    labels: LabelMap,
    class_names: Mapping[int, str],
    series: Path | str,
    *,
    corrected: bool = False,
    labelmap: bool = False,
) -> None:
    """Write a label map on the grid of a DICOM series as one DICOM SEG object.

    Args:
        path: file to write, ``.dcm``.
        labels: (I, J, K) on the grid of :func:`s2vnet.io.dicom.series.series_geometry`; every value has a name.
        class_names: name by label value, background (0) included or not; segment numbers are the label values.
        series: folder of the series, or a zip archive of it.
        corrected: whether a user corrected the labels (SEMIAUTOMATIC, else AUTOMATIC).
        labelmap: write a labelmap object instead of a binary one.

    Raises:
        InputError: highdicom is missing, another grid, values without a name, with gaps between them or above 255,
            images that a SEG object cannot refer to, or as :func:`s2vnet.io.dicom.references.read_referenced_series`.
    """
    names = {value: name for value, name in sorted(class_names.items()) if value}
    source = read_referenced_series(series)
    source.geometry.require_same_grid(labels.geometry, f"{series} and its labels")
    planes = labels.data.transpose(2, 1, 0).astype(np.uint8)
    if source.frames is not None:
        planes = planes[np.argsort(source.frames)]
    unnamed = sorted(set(np.unique(labels.data).tolist()) - {0, *names})
    if unnamed:
        raise InputError(f"label {unnamed[0]} has no name; a segment needs one", path=path)
    if list(names) != list(range(1, len(names) + 1)) or len(names) > 255:
        raise InputError(f"classes {list(names)} are not numbered 1, 2, 3, ... 255 as segments are", path=path)
    segmentation = _make_segmentation(series, source, planes, names, corrected, labelmap)
    with atomic_write(Path(path)) as temporary:
        segmentation.save_as(temporary)


@quiet_libraries()
def check_segmentation(series: Path | str) -> tuple[str, ...]:
    """Check before any work that a SEG object can refer to a series: one of its first slice is made.

    Returns:
        What will differ from the series' headers, one line each.

    Raises:
        InputError: as :func:`write_segmentation`.
    """
    source = read_referenced_series(series)
    first = ReferencedSeries(source.geometry, source.slices[:1], source.images[:1], source.patient)
    image = first.images[0]
    if source.frames is not None:
        image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:1]
        image.NumberOfFrames = 1
    planes = np.ones((1, image.Rows, image.Columns), np.uint8)
    segmentation = _make_segmentation(series, first, planes, {1: "liver"}, False)
    try:
        segmentation.save_as(io.BytesIO())
    except Exception as error:  # pydicom has an exception type for each of many faults
        raise InputError(f"{series}: {_NO_REFERENCE} ({type(error).__name__})") from error
    return source.notes


_NO_REFERENCE = "these images cannot be referred to by a SEG object; write .nii.gz instead"


def _make_segmentation(
    series: Path | str,
    source: ReferencedSeries,
    planes: npt.NDArray[np.uint8],
    names: Mapping[int, str],
    corrected: bool,
    labelmap: bool = False,
) -> Any:
    """SEG object of planes (K, J, I) in the order of the source's images or frames."""
    seg = _highdicom()
    from highdicom import UID
    from pydicom.uid import ExplicitVRLittleEndian

    kind = seg.SegmentationTypeValues.LABELMAP if labelmap else seg.SegmentationTypeValues.BINARY

    classes = [image.SOPClassUID for image in source.images]
    for image in source.images:
        image.SOPClassUID = _known_class(image)
    try:
        segmentation = seg.Segmentation(
            source_images=source.images,
            pixel_array=np.ascontiguousarray(planes),
            segmentation_type=kind,
            segment_descriptions=[_segment_description(value, name, corrected) for value, name in names.items()],
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="s2vnet",
            manufacturer_model_name="s2vnet",
            software_versions=version("s2vnet"),
            device_serial_number="0",
            series_description="s2vnet segmentation",
            content_label="SEGMENTATION",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=bool(planes.any()),
        )
    except Exception as error:  # highdicom has exception types for each of many faults; messages may quote values
        raise InputError(f"{series}: {_NO_REFERENCE} ({type(error).__name__})") from error
    for image, uid in zip(source.images, classes, strict=True):
        if image.SOPClassUID != uid:
            _restore_class(segmentation, image.SOPInstanceUID, uid)
            image.SOPClassUID = uid
    # highdicom refuses some values that the images have
    for element in source.patient:
        segmentation.add(element)
    return segmentation


def _known_class(image: Any) -> str:
    """Class of an image if highdicom knows it, else one of the same number of frames."""
    from highdicom._standard_utils import get_sop_class_iod_map, is_multiframe_image
    from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

    several = "NumberOfFrames" in image
    if image.SOPClassUID in get_sop_class_iod_map() and is_multiframe_image(image) == several:
        return str(image.SOPClassUID)
    return str(EnhancedCTImageStorage if several else CTImageStorage)


def _restore_class(content: Any, instance: str, uid: str) -> None:
    """Set the class in all references to an image."""

    def visit(dataset: Any, element: Any) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == instance:
            dataset.ReferencedSOPClassUID = uid

    content.walk(visit)


@quiet_libraries()
def read_segmentation(path: Path | str, series: Path | str) -> tuple[LabelMap, dict[int, str]]:
    """Read a binary or labelmap DICOM SEG object of a series, and the names of its segments.

    Returns:
        labels (I, J, K) on the series' grid, segment numbers as values, and name by value.

    Raises:
        InputError: highdicom is missing, no SEG object, of other images, segments that overlap, or as
            :func:`s2vnet.io.dicom.references.read_referenced_series`.
    """
    seg = _highdicom()
    source = read_referenced_series(series)
    uids = [image.SOPInstanceUID for image in source.images]
    common = {"combine_segments": True, "assert_missing_frames_are_empty": True, "ignore_spatial_locations": True}
    try:
        read_header(Path(path))
        segmentation = seg.segread(str(path))
        if not {uid for *_, uid in segmentation.get_source_image_uids()} <= set(uids):
            raise ValueError("it refers to others")
        if source.frames is None:
            planes = segmentation.get_pixels_by_source_instance(uids, **common)
        else:
            planes = segmentation.get_pixels_by_source_frame(uids[0], [frame + 1 for frame in source.frames], **common)
        names = {n: str(segmentation.get_segment_description(n).SegmentLabel) for n in segmentation.segment_numbers}
        needs_uint16 = max(names) > 255
    except OSError as error:
        raise InputError(f"{error.strerror or error}", path=path) from error
    except Exception as error:  # highdicom and pydicom have exception types for each of many faults
        raise InputError(f"not a SEG object of these images ({type(error).__name__})", path=path) from error
    data: npt.NDArray[np.uint16] = np.ascontiguousarray(planes.transpose(2, 1, 0)).astype(np.uint16)
    return LabelMap(data if needs_uint16 else data.astype(np.uint8), source.geometry), names


def require_highdicom() -> None:
    """Raise InputError where highdicom is missing."""
    require_extra("dicom", "DICOM SEG", "highdicom")


def _highdicom() -> Any:
    require_highdicom()
    import highdicom.seg

    return highdicom.seg


def _segment_description(value: int, name: str, corrected: bool) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    side, code = class_codes(name)
    types = SegmentAlgorithmTypeValues
    description = SegmentDescription(
        segment_number=value,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=code,
        algorithm_type=types.SEMIAUTOMATIC if corrected else types.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="S2VNet", version=version("s2vnet"), family=codes.DCM.ArtificialIntelligence
        ),
    )
    if side is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return description


def class_codes(name: str) -> tuple[Any, Any]:
    """Laterality (or None) and property type of a class as coded concepts, of SNOMED CT or else of a private scheme."""
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    def concept(code: Any) -> CodedConcept:
        return CodedConcept(code.value, code.scheme_designator, code.meaning)

    words = name.lower().replace("_", " ").split()
    sides = [word for word in words if word in ("left", "right")]
    term = " ".join(word for word in words if word not in sides)
    code = getattr(codes.SCT, SNOMED_TERMS[term]) if term in SNOMED_TERMS else None
    if code is None or len(sides) > 1:
        return None, CodedConcept(blake2b(name.encode(), digest_size=8).hexdigest(), PRIVATE_SCHEME, name[:64])
    return (concept(getattr(codes.SCT, sides[0].capitalize())) if sides else None), concept(code)
