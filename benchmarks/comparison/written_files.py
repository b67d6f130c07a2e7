"""Compare the files of two runs of a command, without dates, times and generated names."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image

UID = "1.2.3.4"
"""Prefix of the UIDs of test images. Generated UIDs, neither these nor those of the standard, are not compared."""
TIMED = ("seconds", "Seconds per", "memory_mb", "worker", "attempts")
"""Prefixes of columns of tables, keys of reports and lines of texts that differ from run to run."""
Content = dict[str, npt.NDArray[Any] | list[str]]


def differences(old: Path, new: Path) -> list[str]:
    """List the differences between the files of two folders, one line each; empty if all are equal."""
    a, b = ({str(path.relative_to(folder)) for path in _compared(folder)} for folder in (old, new))
    lines = [f"{name}: written by only one of the two" for name in a ^ b]
    for name in a & b:
        lines += [f"{name}: {text}" for text in _different(read_content(old / name), read_content(new / name))]
    return sorted(lines)


def _compared(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix != ".parquet":  # the same as summary.csv
            yield path


def _different(old: Content, new: Content) -> Iterator[str]:
    if old.keys() != new.keys():
        yield f"{', '.join(new)} in place of {', '.join(old)}"
    for part in old.keys() & new.keys():
        a, b = old[part], new[part]
        if isinstance(a, list) or isinstance(b, list):
            if list(a) != list(b):
                pairs = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
                first = f"; the first: {pairs[0][0]!r:.100}, {pairs[0][1]!r:.100}" if pairs else ""
                yield f"{part} differs in {len(pairs) + abs(len(a) - len(b))} lines{first}"
        elif (a.shape, a.dtype) != (b.shape, b.dtype):
            yield f"{part} of {b.shape} {b.dtype} in place of {a.shape} {a.dtype}"
        elif count := int(np.count_nonzero((a != b) & ~((a != a) & (b != b)))):  # NaN counts as equal to NaN
            yield f"{part} differs in {count} of {a.size} voxels"


def read_content(file: Path) -> Content:
    """Read a file as arrays and lines of text."""
    if file.name.endswith((".nii", ".nii.gz")):
        image = nibabel.load(file)
        return {"image": np.asanyarray(image.dataobj), "affine": image.affine}
    if file.suffix == ".png":
        return {"picture": np.asarray(Image.open(file))}
    if file.suffix == ".dcm":
        return _dicom(pydicom.dcmread(file))
    if file.suffix == ".json":
        return {"text": json.dumps(_untimed(json.loads(file.read_text())), indent=1, sort_keys=True).splitlines()}
    if file.suffix == ".csv":
        with file.open(newline="") as stream:
            return {"table": [json.dumps(_untimed(row)) for row in csv.DictReader(stream)]}
    if file.suffix in (".txt", ".md"):
        return {"text": [line for line in file.read_text().splitlines() if not line.startswith(TIMED)]}
    return {"sha256": [hashlib.sha256(file.read_bytes()).hexdigest()]}


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(inner) for key, inner in value.items() if not key.startswith(TIMED)}
    return [_untimed(inner) for inner in value] if isinstance(value, list) else value


def _dicom(data: pydicom.Dataset) -> Content:
    lines = []
    for element in data.iterall():
        value = element.value
        if element.VR in ("DA", "TM", "DT") or element.keyword == "PixelData":
            continue
        if element.VR == "UI" and not str(value).startswith((f"{UID}.", "1.2.840.10008.")):
            value = "generated"
        lines.append(f"{element.tag} {element.keyword} {len(value) if element.VR == 'SQ' else value}")
    return {"elements": lines, **({"pixels": data.pixel_array} if "PixelData" in data else {})}
