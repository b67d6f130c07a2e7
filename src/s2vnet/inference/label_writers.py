"""Writers for labels: label maps, DICOM SEG and RTSTRUCT, chosen by the file's ending."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from s2vnet.errors import InputError, S2VNetError
from s2vnet.io.dicom import rtstruct
from s2vnet.io.dicom import seg as dicom_seg
from s2vnet.io.dicom.series import is_series
from s2vnet.io.files import ENDINGS, image_ending, write_labels
from s2vnet.io.geometry import Geometry, LabelMap
from s2vnet.io.segment_names import Segment
from s2vnet.utils.file_names import fit_file_name
from s2vnet.visualization.palettes import hex_palette

NIFTI = ".nii.gz"
LABEL_MAP_FORMATS = ("nii.gz", "nrrd", "mha")
DICOM_FORMATS = {"dcm": dicom_seg.ENDING, "labelmap": dicom_seg.LABELMAP_ENDING, "rtstruct": rtstruct.ENDING}
"""Endings by the names of formats that refer to a DICOM series."""
_ALL = (rtstruct.ENDING, dicom_seg.LABELMAP_ENDING, dicom_seg.ENDING, *ENDINGS)


def output_formats(image: Path) -> tuple[str, ...]:
    """Names of the formats in which labels of an image can be written."""
    if not is_series(image):
        return LABEL_MAP_FORMATS
    return (*LABEL_MAP_FORMATS, *(name for name in DICOM_FORMATS if name == "rtstruct" or _has_highdicom()))


@cache
def _has_highdicom() -> bool:
    return find_spec("highdicom") is not None


def is_label_file(path: Path) -> bool:
    """Whether a path has an ending that labels can be written to."""
    return path.name.lower().endswith(_ALL)


def is_dicom_output(path: Path) -> bool:
    """Whether a label file refers to a DICOM series (SEG or RTSTRUCT)."""
    return path.name.lower().endswith(dicom_seg.ENDING)


def is_rtstruct(path: Path) -> bool:
    """Whether a label file is an RT structure set."""
    return path.name.lower().endswith(rtstruct.ENDING)


def label_stem(path: Path) -> str:
    """Name of a label file without its ending. Raises InputError for any other ending."""
    return path.name[: -len(next((e for e in _ALL if path.name.lower().endswith(e)), None) or image_ending(path))]


def require_dicom_source(path: Path, image: Path) -> None:
    """Check that the source of a label file in a DICOM format is a DICOM series, and that its writer is installed.

    Raises:
        InputError: The image is not a DICOM series, or highdicom is missing.
    """
    if not is_dicom_output(path):
        return
    if not is_series(image):
        what = "an RT structure set" if is_rtstruct(path) else "a DICOM SEG object"
        raise InputError(f"{path.name}: {what} belongs to a DICOM series, which this image is not; write .nii.gz")
    if not is_rtstruct(path):
        dicom_seg.require_highdicom()


def require_format(path: Path, image: Path) -> tuple[str, ...]:
    """Check before any work that labels of an image can be written to a file.

    Returns:
        What a DICOM file will not state as the image does, one line each.

    Raises:
        InputError: unknown ending, or as :func:`require_dicom_source`,
            :func:`s2vnet.io.dicom.seg.check_segmentation` or :func:`s2vnet.io.dicom.rtstruct.check_rtstruct`.
    """
    if not is_dicom_output(path):
        image_ending(path)
        return ()
    require_dicom_source(path, image)
    notes = (rtstruct.check_rtstruct if is_rtstruct(path) else dicom_seg.check_segmentation)(image)
    return tuple(f"{path.name}: {text}" for text in notes)


def geometry_notes(path: Path, geometry: Geometry) -> tuple[str, ...]:
    """What other programs cannot do with labels of a grid in the format of a file, one line each."""
    if path.name.lower().endswith((NIFTI, ".nii")) and geometry.is_sheared:
        what = "the slices are sheared (a tilted gantry), which ITK-based programs such as 3D Slicer and ITK-SNAP"
        return (f"{what} cannot open in NIfTI; name the labels .nrrd for them",)
    return ()


def save_result(
    path: Path, labels: LabelMap, class_names: Mapping[int, str], image: Path, *, corrected: bool = False
) -> None:
    """Write labels as :func:`write_result` does; if their format fails for any reason, as NIfTI beside the file.

    Raises:
        InputError: the format failed; the message names the NIfTI file, if that could be written.
    """
    try:
        write_result(path, labels, class_names, image, corrected=corrected)
    except Exception as error:  # the labels took long, whatever a library did not expect
        beside, reason = fallback_file(path), error
        if not isinstance(reason, S2VNetError):
            reason = InputError(f"cannot be written ({type(error).__name__})", path=path)
        if beside == path:
            raise reason from (error.__cause__ if reason is error else error)
        write_labels(beside, labels)
        raise InputError(f"{reason.message}; the labels are in {{kept}}", path=reason.path, kept=beside) from error


def fallback_file(path: Path) -> Path:
    """File beside a label file that :func:`save_result` writes where the label file's format fails."""
    return path.with_name(fit_file_name(label_stem(path), NIFTI))


def write_result(
    path: Path,
    labels: LabelMap,
    class_names: Mapping[int, str],
    image: Path,
    *,
    corrected: bool = False,
    colors: Mapping[int, str] | None = None,
) -> None:
    """Write labels in the format of the path's ending.

    Args:
        path: file to write.
        labels: label map on the image's grid.
        class_names: class name by label value.
        image: file, DICOM folder or zip archive that the labels belong to.
        corrected: whether a user corrected the labels.
        colors: ``#rrggbb`` by label value; with them, NRRD states classes as 3D Slicer does.

    Raises:
        InputError: as :func:`require_dicom_source`, :func:`s2vnet.io.dicom.seg.write_segmentation`,
            :func:`s2vnet.io.dicom.rtstruct.write_rtstruct` or :func:`s2vnet.io.files.write_labels`.
    """
    if not is_dicom_output(path):
        segments = [Segment(value, class_names[value], color) for value, color in (colors or {}).items()]
        write_labels(path, labels, segments)
        return
    require_dicom_source(path, image)
    if is_rtstruct(path):
        colours = colors or dict(enumerate(hex_palette(max(class_names) + 1)))
        rtstruct.write_rtstruct(path, labels, class_names, colours, image, corrected=corrected)
    else:
        labelmap = path.name.lower().endswith(dicom_seg.LABELMAP_ENDING)
        dicom_seg.write_segmentation(path, labels, class_names, image, corrected=corrected, labelmap=labelmap)
