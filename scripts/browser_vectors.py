"""Write the test vectors that the preprocessing in the browser is compared with.

    python scripts/browser_vectors.py

They are computed by the Python package and read by tests of the JavaScript in ``server/viewer/local/engine``, in
Node.js and in a browser. Arrays are base64: voxels of int16 with i fastest, slices and probabilities of float32, labels
of uint8 with k fastest; all little endian.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.preprocess import PreparedSlices, with_neighbours
from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.inference.postprocessing import find_detached_parts, remove_detached_parts
from s2vnet.inference.segmentation import Segmentation
from s2vnet.io.files import read_image
from s2vnet.io.geometry import Geometry, Volume

TARGET = Path(__file__).parent.parent / "tests" / "server" / "viewer" / "local" / "vectors.json"
CT = IntensityScheme(kind="ct", low=-125.0, high=275.0, mean=84.7, std=59.3)
CELLS = 4
"""Classes of the probabilities that are upsampled."""


def main() -> None:
    """Write the vectors."""
    TARGET.write_text(to_text(), encoding="utf-8")


def to_text() -> str:
    """Content of the file, a line for each case."""
    lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in (make_vectors() | make_files()).items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def make_files() -> dict[str, Any]:
    """NIfTI files by name, with the affine that the Python package gives them, and whether it has something to note."""
    grid = np.array([[0, -0.8, 0, 9], [0.7, 0, 0.1, -7], [0, 0, 2.5, 3], [0, 0, 0, 1]])
    other = np.diag([2.0, 2.0, 2.0, 1.0])
    quaternion = np.array([[-0.8, 0, 0, 9], [0, 0.7, 0, -7], [0, 0, -2.5, 3], [0, 0, 0, 1]])
    singular = np.diag([0.7, 0.8, 0.0, 1.0])
    return {
        "file, sform": _file(grid, 1, None, 0),
        "file, qform": _file(None, 0, quaternion, 1),
        "file, both": _file(quaternion, 1, quaternion, 1),
        "file, sform against qform": _file(other, 1, quaternion, 2),
        "file, singular sform": _file(singular, 1, quaternion, 1),
        "file, none": _file(None, 0, None, 0),
        "file, metres": _file(grid / [[1000], [1000], [1000], [1]], 1, None, 0, units=1),
        "file, big endian": _file(grid, 1, quaternion, 0, endianness=">"),
        "file, scaled": _file(grid, 1, None, 0, slope=0.5),
        "file, NIfTI-2": _file(grid, 1, None, 0, kind=nib.Nifti2Image),
    }


def _file(
    sform: npt.NDArray[np.float64] | None,
    sform_code: int,
    qform: npt.NDArray[np.float64] | None,
    qform_code: int,
    *,
    units: int = 2,
    endianness: str = "<",
    slope: float | None = None,
    kind: Any = nib.Nifti1Image,
) -> dict[str, Any]:
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 2) - 5
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.int16)
    image = kind(values, None, header)
    image.header.set_sform(sform, sform_code)
    image.header.set_qform(qform, qform_code)
    image.header["pixdim"][1:4] = (0.7, 0.8, 2.5) if qform is None else nib.affines.voxel_sizes(qform)
    if sform is not None and qform is None:
        image.header["pixdim"][1:4] = nib.affines.voxel_sizes(sform)
    image.header["xyzt_units"] = units
    image.header.set_slope_inter(slope, None if slope is None else -3.0)
    content = image.to_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii"
        path.write_bytes(content)
        volume = read_image(path)
    return {
        "file": _base64(np.frombuffer(content, np.uint8), "u1"),
        "affine": volume.geometry.affine.tolist(),
        "notes": len(volume.geometry.notes),
        "values": _base64(volume.data[0].ravel(order="F")),
    }


def make_vectors() -> dict[str, Any]:
    """Cases by name, each with its inputs and what the Python package makes of them."""
    return {
        "as stored": _case("RAS", (1.0, 1.0, 3.0), plane="axial"),
        "flipped": _case("LPS", (0.7, 0.9, 3.0), plane="axial", spacing=(1.3, 1.1)),
        "permuted": _case("ASL", (1.1, 0.6, 2.0), plane="coronal", spacing=(0.9, 1.7), intensity="zscore"),
        "sagittal": _case("IPR", (2.0, 2.0, 2.0), plane="sagittal", stride=2),
        "oblique": _case("RAS", (0.8, 0.8, 2.5), plane="axial", angle=0.4, context=0),
        "slabs": _case("LPS", (0.8, 0.8, 1.0), plane="axial", thinnest=3.0, smallest_part=0.3),
        "cropped": _case("PIR", (1.0, 1.2, 2.0), plane="axial", crop=True, intensity="zscore", smallest_part=0.2),
        "two channels": _case("RPI", (1.0, 1.0, 1.0), plane="axial", channels=2, stride=2, context=2),
    }


def _case(
    codes: str,
    voxel: tuple[float, float, float],
    *,
    plane: str,
    spacing: tuple[float, float] = (1.0, 1.0),
    intensity: str = "ct",
    stride: int = 1,
    angle: float = 0.0,
    context: int = 1,
    thinnest: float | None = None,
    smallest_part: float = 0.0,
    crop: bool = False,
    channels: int = 1,
) -> dict[str, Any]:
    rng = np.random.default_rng(len(codes) + sum(map(ord, codes + plane)) + channels)
    shape = (9, 11, 7)
    scheme = CT if intensity == "ct" else IntensityScheme(kind="zscore")
    seen = None
    if thinnest is not None:
        lengths = (thinnest,) * 3
        seen = TrainingRanges(spacing=(lengths, lengths), size=(lengths, lengths), tissue=((0.0, 1.0),))
    plan = Plan(
        dataset="vectors",
        channels=tuple(f"channel {n}" for n in range(channels)),
        labels={"background": 0, "a": 1, "b": 2, "c": 3},
        plane=plane,  # type: ignore[arg-type]
        spacing=spacing,
        patch_size=(16, 16),
        intensities=(scheme,) * channels,
        crop_to_nonzero=crop,
        context_slices=context,
        encoder="tiny",
        stem_stride=stride,  # type: ignore[arg-type]
        smallest_part=smallest_part,
        seen=seen,
    )
    stored = rng.integers(-300, 700, (channels, *shape)).astype(np.int16)
    if crop:
        stored[:, :2] = stored[:, :, -1:] = 0
    slope, inter = (1.0, 0.0) if crop else (0.5, -10.0)
    geometry = Geometry(shape, _rotation(angle) @ Geometry.from_codes(shape, voxel, codes).affine)
    volume = Volume(stored.astype(np.float32) * np.float32(slope) + np.float32(inter), geometry)
    prepared = PreparedSlices(volume, plan)
    mirrored = prepared.mirror(next(a for a in prepared.grid.axes[1:]))
    grid = prepared.grid
    scores = _scores(rng, grid.depth, grid.padded[0] // stride, grid.padded[1] // stride)
    kept = remove_detached_parts(scores, smallest_part)
    labels = scores.max(1).indices.to(torch.uint8).numpy()
    some = sorted({0, grid.depth // 2, grid.depth - 1})
    return {
        "image": {
            "shape": list(shape),
            "affine": geometry.affine.tolist(),
            "slope": slope,
            "inter": inter,
            "channels": [_base64(channel.ravel(order="F"), "<i2") for channel in stored],
        },
        "plan": plan.model_dump(mode="json", exclude={"regions"}),
        "grid": {
            "codes": grid.orientation.codes,
            "start": list(grid.start),
            "size": list(grid.size),
            "sampled": list(grid.sampled),
            "padded": list(grid.padded),
            "slabSize": grid.slab_size,
            "depth": grid.depth,
        },
        "slices": {d: _base64(with_neighbours(prepared, [d], context)[0]) for d in some},
        "mirrored": {
            "axis": grid.axes[1],
            "slice": _base64(with_neighbours(mirrored, [some[1]], context)[0]),
            "labels": _base64(Segmentation(mirrored.grid, kept, {}).labels().data, "u1"),
        },
        "scores": _base64(scores.float().numpy()),
        "detached": _base64(find_detached_parts(labels, smallest_part), "u1"),
        "labels": _base64(Segmentation(grid, kept, {}).labels().data, "u1"),
    }


def _scores(rng: np.random.Generator, depth: int, height: int, width: int) -> torch.Tensor:
    """Class probabilities (depth, classes, height, width) in float16 with areas of one class and small parts."""
    coarse = torch.from_numpy(rng.normal(size=(1, CELLS, depth, 4, 4)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(depth, height, width), mode="trilinear")[0]
    noise = torch.from_numpy(rng.normal(size=(CELLS, depth, height, width)).astype(np.float32))
    return (3 * smooth + 0.5 * noise).softmax(0).movedim(0, 1).contiguous().half()


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    """Rotation (4, 4) by an angle in radians about two axes."""
    cosine, sine = np.cos(angle), np.sin(angle)
    about_x = np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]])
    about_z = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    rotation: npt.NDArray[np.float64] = about_x @ about_z
    return rotation


def _base64(values: npt.NDArray[Any], dtype: str = "<f4") -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


if __name__ == "__main__":
    main()
