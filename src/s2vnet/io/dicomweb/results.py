"""Objects that are stored in an archive as results of a series, with UIDs that the same result has each time.

The UIDs are computed from the images, the model and its options, so that a result that an archive has already is known
before any work, and a repeated run stores nothing twice. They are UUID-derived (PS3.5, B.2).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from s2vnet.io.dicom import rtstruct, seg
from s2vnet.io.library_output import quiet_libraries

KINDS = {"seg": seg.ENDING, "labelmap": seg.LABELMAP_ENDING, "rtstruct": rtstruct.ENDING}
"""Endings of files by kind of result."""


class ResultUIDs(NamedTuple):
    """Identifiers of a result."""

    series: str
    instance: str


def result_uids(kind: str, instances: Collection[str], options: Mapping[str, object]) -> ResultUIDs:
    """UIDs of a result.

    Args:
        kind: one of KINDS.
        instances: SOPInstanceUIDs of the segmented images.
        options: what the labels depend on besides the images; JSON.
    """
    content = json.dumps([kind, sorted(instances), options], sort_keys=True)
    return ResultUIDs(*(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, part + content).int}" for part in ("series", "sop")))


@quiet_libraries()
def read_result(file: Path, uids: ResultUIDs) -> Any:
    """Read a DICOM object (a pydicom data set) from a file, and give it UIDs."""
    from pydicom import dcmread

    result = dcmread(file)
    result.SeriesInstanceUID, result.SOPInstanceUID = uids
    result.file_meta.MediaStorageSOPInstanceUID = uids.instance
    return result
