"""An oblique axial DICOM series of single files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

Array = npt.NDArray[np.int16]
VOXELS: Array = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)
"""(I, J, K) stored values; the rescale intercept is added to them."""
SPACING = (0.7, 0.9)
ROWS, COLUMNS = np.array([0.96, 0.28, 0.0]), np.array([-0.28, 0.96, 0.0])
STEP = np.array([0.0, 0.0, 2.5])
ORIGIN = np.array([-30.0, 12.5, 100.0])
"""LPS mm; an oblique axial stack."""


def write_slice(
    file: Path,
    pixels: Array,
    position: npt.NDArray[np.float64],
    *,
    uid: str = "1.2.826.0.1.1",
    intercept: int = -1024,
    spacing: tuple[float, float] = SPACING,
    modality: str = "CT",
) -> None:
    """One file with ``pixels`` (I, J) whose first pixel lies at ``position`` (LPS mm)."""
    image = sitk.GetImageFromArray(pixels.T[None] + np.int16(intercept))
    image.SetSpacing((*spacing, 2.5))
    image.SetOrigin(position.tolist())
    image.SetDirection(np.column_stack([ROWS, COLUMNS, np.cross(ROWS, COLUMNS)]).ravel().tolist())
    tags = {
        "0008|0060": modality,
        "0020|000e": uid,
        "0020|0013": str(int(position[2])),
        "0020|0032": "\\".join(f"{v:.6f}" for v in position),
        "0020|0037": "\\".join(f"{v:.6f}" for v in (*ROWS, *COLUMNS)),
        "0028|1052": str(intercept),
        "0028|1053": "1",
    }
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(file))
    writer.Execute(image)


def write_series(folder: Path, step: npt.NDArray[np.float64] = STEP, uid: str = "1.2.826.0.1.1") -> list[Path]:
    """The stack, its files named against the order of the slices, so that names cannot sort them."""
    files = [folder / f"{uid}-{9 - k}.dcm" for k in range(VOXELS.shape[2])]
    for k, file in enumerate(files):
        write_slice(file, VOXELS[:, :, k], ORIGIN + k * step, uid=uid)
    return files


FRAMES = ORIGIN + np.arange(5)[:, None] * STEP
