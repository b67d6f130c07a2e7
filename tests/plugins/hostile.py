"""Parsers of untrusted input as fuzz targets, for the fuzzer (scripts/fuzz.py) and a short test.

A target rejects bytes by an S2VNetError of one line; any other exception is a bug. Seeds are made here.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dicom_files import encodings, write_frames, write_series
from pydantic import TypeAdapter, ValidationError

from s2vnet.config import ModelConfig, TrainConfig
from s2vnet.data import dataset, plan
from s2vnet.errors import InputError, S2VNetError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.interactive.prompt_log import LOG_FORMAT, read_log
from s2vnet.io.dicom.seg import read_segmentation, write_segmentation
from s2vnet.io.files import count_voxels, read_geometry, read_image, read_labels, write_image
from s2vnet.io.geometry import Geometry, LabelMap, Volume
from s2vnet.model.checkpoint import DESCRIPTION, WEIGHTS, save_model
from s2vnet.model.s2vnet import S2VNet
from s2vnet.prompts import Lock, Mask, Point
from s2vnet.server import schemas
from s2vnet.server.protocols import array_codec, itksnap
from s2vnet.server.protocols.monailabel.prompts import class_clicks
from s2vnet.server.protocols.monailabel.service import parse_params

TOKENS = (
    b"Infinity",
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b"[" * 20000,
    b"9" * 30,
    b'"',
    b"\xff",
    b"\x00" * 8,
)
TOKENS = (*TOKENS, b"true", b"\\ud800", b"../", b"\n", b"\xff\xff\xff\x7f", b"DICM", b"LOCAL", b"list", b"sizes: ")
"""Bytes that are often mishandled, for mutations and for libFuzzer's dictionary."""
SHAPE = (4, 3, 3)
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


class Target(NamedTuple):
    """Parser of bytes, with valid examples."""

    seeds: Callable[[Path], Sequence[bytes]]
    """Make valid bytes; files may be written to the folder."""
    take: Callable[[bytes, Path], object]
    """Parse bytes, written to a file in an empty folder where it reads files."""


def is_accepted(target: Target, data: bytes, folder: Path) -> bool:
    """Whether a target accepts bytes; False where it rejects them in one line. Other exceptions are raised."""
    try:
        target.take(data, folder)
    except S2VNetError as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {error}") from error
        return False
    return True


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes at random in one to three places."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(changed) + 1)), rng.integers(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            changed[at : at + int(rng.integers(9))] = TOKENS[rng.integers(len(TOKENS))]
        elif kind == 3:
            changed[at:at] = changed[at : at + int(rng.integers(64))]
        elif at > 0:
            del changed[at:]
    return bytes(changed)


# images


def _image_seeds(ending: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        contents = []
        for number, data in enumerate((VOXELS[None].astype(np.float32), np.stack([VOXELS, VOXELS]).astype(np.float32))):
            path = folder / f"{number}{ending}"
            write_image(path, Volume(data, Geometry(SHAPE, np.diag([1, 2, 3, 1.0]))))
            contents.append(path.read_bytes())
        return contents

    return seeds


def _take_image(ending: str) -> Callable[[bytes, Path], None]:
    def take(data: bytes, folder: Path) -> None:
        path = folder / f"a{ending}"
        path.write_bytes(data)
        _read_every_way(path)

    return take


def _take_zipped(data: bytes, folder: Path) -> None:
    _take_image(".nii.gz")(gzip.compress(data, 0), folder)


def _read_every_way(path: Path) -> None:
    """Read an image in every way; the last error is raised."""
    refused: S2VNetError | None = None
    for read in (read_geometry, count_voxels, read_labels, lambda p: read_image(p, frames_as_channels=True)):
        try:
            read(path)
        except S2VNetError as error:
            refused = error
        else:
            refused = None if read is not read_labels else refused
    if refused is not None:
        raise refused


# DICOM


@cache
def _series() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as name:
        write_series(Path(name), VOXELS)
        return tuple(file.read_bytes() for file in sorted(Path(name).iterdir()))


@cache
def _encodings() -> tuple[bytes, ...]:
    """A slice in every encoding."""
    with tempfile.TemporaryDirectory() as name:
        write_series(Path(name), np.arange(256, dtype=np.int16).reshape(16, 16, 1))
        return encodings(next(Path(name).iterdir()).read_bytes())


def _write_files(folder: Path, *files: bytes) -> Path:
    for number, data in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(data)
    return folder


def _multi_frame(folder: Path) -> list[bytes]:
    write_frames(folder / "a", VOXELS, np.arange(SHAPE[2])[:, None] * (0, 0, 2.5), slopes=[1, 2, 3])
    return [(folder / "a").read_bytes()]


def _segmentation(folder: Path) -> list[bytes]:
    labels = LabelMap((VOXELS % 3).astype(np.uint8), read_geometry(_write_files(folder, *_series())))
    write_segmentation(folder / "labels.seg", labels, {1: "liver", 2: "left kidney"}, folder)
    return [(folder / "labels.seg").read_bytes()]


def _take_segmentation(data: bytes, folder: Path) -> None:
    (folder / "labels.seg").write_bytes(data)
    (folder / "series").mkdir(exist_ok=True)
    read_segmentation(folder / "labels.seg", _write_files(folder / "series", *_series()))


def _archives(folder: Path) -> list[bytes]:
    contents = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w", method) as archive:
                for number, data in enumerate(_series()):
                    archive.writestr(f"study/{number}.dcm", data)
            contents.append(file.getvalue())
    return contents


# JSON


def _as_json(*values: Any) -> Callable[[Path], list[bytes]]:
    return lambda folder: [json.dumps(value).encode() for value in values]


PLAN = {
    "dataset": "phantom",
    "channels": ["CT"],
    "labels": {"background": 0, "liver": 1},
    "plane": "axial",
    "spacing": [1.0, 1.0],
    "patch_size": [16, 16],
    "intensities": [{"kind": "ct", "low": -100.0, "high": 200.0, "mean": 50.0, "std": 70.0}],
    "crop_to_nonzero": False,
    "context_slices": 1,
    "encoder": "tiny",
    "stem_stride": 1,
}
LABELLED = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
DECATHLON = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver"},
    "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
    "test": ["imagesTs/b.nii.gz"],
}
LISTED = LABELLED | {"dataset": {"a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}}
MASK = Mask.from_array(np.eye(4, dtype=bool)[:, :, None], 1)
ENTRIES: tuple[dict[str, Any], ...] = (
    Point(class_id=1, voxel=(1, 2, 0)).model_dump(),
    {"kind": "scribble", "class_id": 1, "positive": False, "voxels": [[0, 0, 0], [1, 1, 1]]},
    {"kind": "lasso", "class_id": 2, "axis": 2, "vertices": [[0, 0, 1], [3, 0, 1], [0, 3, 1]]},
    {"kind": "box", "class_id": 1, "start": [0, 0, 0], "stop": [2, 2, 2]},
    MASK.model_dump(),
    Lock(class_id=2).model_dump(),
)
LOG = {
    "format": LOG_FORMAT,
    "model_sha256": "0" * 64,
    "shape": SHAPE,
    "affine": np.eye(4).tolist(),
    "entries": ENTRIES,
}


def _take_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    def take(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        read(path)

    return take


def _dataset_folder(folder: Path) -> Path:
    """Create the files that the seeds name, empty."""
    for name in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b.nii.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


def _take_splits(path: Path) -> None:
    cases = tuple(dataset.CaseFiles(name, ()) for name in "abcde")
    dataset.read_folds(dataset.Dataset(path.parent, "phantom", ("CT",), {"background": 0}, ".nii.gz", cases, ()))


def _model(folder: Path) -> None:
    config = ModelConfig(in_channels=3, num_classes=2, encoder="tiny", dim=8, mask_dim=8, heads=1)
    save_model(folder, S2VNet(config), PLAN, {})


@cache
def _model_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        _model(Path(name))
        return {file.name: file.read_bytes() for file in Path(name).iterdir()}


def _take_model(data: bytes, folder: Path) -> None:
    if not (folder / WEIGHTS).exists():
        (folder / WEIGHTS).write_bytes(_model_files()[WEIGHTS])
    (folder / DESCRIPTION).write_bytes(data)
    Segmenter.from_pretrained(folder, device="cpu")


# requests to a server

_operations: TypeAdapter[schemas.Operation] = TypeAdapter(schemas.Operation)


def _take_operation(data: bytes, folder: Path) -> None:
    """Parse as the server's API and decode masks as a session does."""
    try:
        operation = _operations.validate_json(data)
    except ValidationError as error:
        raise InputError("no operation") from error
    for entry in getattr(operation, "entries", ()):
        if isinstance(entry, Mask):
            entry.voxels()


def _take_text(read: Callable[[str], object]) -> Callable[[bytes, Path], None]:
    """Read a form field, which arrives as text."""
    return lambda data, folder: read(data.decode("utf-8", "replace"))


def _arrays(folder: Path) -> list[bytes]:
    return [array_codec.pack(VOXELS[None].astype(kind)) for kind in (np.float32, np.int16, np.uint8)]


def _drawings(folder: Path) -> list[bytes]:
    return [gzip.compress(np.zeros(SHAPE[::-1], "<f4").tobytes())]


GRID = {
    "dimensions": SHAPE,
    "spacing": [1.0, 2.0, 3.0],
    "origin": [0.0, 0.0, 0.0],
    "direction": np.eye(3).ravel().tolist(),
    "components_per_pixel": 1,
}


def _take_drawing(data: bytes, folder: Path) -> None:
    itksnap.read_array(io.BytesIO(data), itksnap.parse_grid(json.dumps(GRID)), 10**6)


def _take_train_config(data: bytes, folder: Path) -> None:
    from s2vnet.server.training_jobs import parse_config

    parse_config(parse_params(data.decode("utf-8", "replace")))


def _take_clicks(text: str) -> None:
    class_clicks(parse_params(text), {0: "background", 1: "liver"})


TARGETS: dict[str, Target] = {
    "nii": Target(_image_seeds(".nii"), _take_image(".nii")),
    "nii.gz": Target(_image_seeds(".nii.gz"), _take_image(".nii.gz")),
    "nii.gz-unpacked": Target(_image_seeds(".nii"), _take_zipped),
    "nrrd": Target(_image_seeds(".nrrd"), _take_image(".nrrd")),
    "mha": Target(_image_seeds(".mha"), _take_image(".mha")),
    "dicom": Target(lambda folder: _encodings(), lambda data, folder: read_image(_write_files(folder, data))),
    "dicom-frames": Target(_multi_frame, lambda data, folder: read_image(_write_files(folder, data))),
    "dicom-series": Target(
        lambda folder: _series()[:1], lambda data, folder: read_image(_write_files(folder, data, *_series()[1:]))
    ),
    "dicom-seg": Target(_segmentation, _take_segmentation),
    "zip": Target(_archives, lambda data, folder: _take_file("a.zip", read_image)(data, folder)),
    "plan.json": Target(_as_json(PLAN), _take_file("plan.json", plan.read_plan)),
    "dataset.json": Target(
        _as_json(LABELLED, DECATHLON, LISTED),
        lambda data, folder: _take_file("dataset.json", lambda p: dataset.read_dataset(p.parent))(
            data, _dataset_folder(folder)
        ),
    ),
    "splits_final.json": Target(
        _as_json([{"train": ["a", "b"], "val": ["c"]}]), _take_file("splits_final.json", _take_splits)
    ),
    "model.json": Target(lambda folder: [_model_files()[DESCRIPTION]], _take_model),
    "prompts.json": Target(_as_json(LOG), _take_file("prompts.json", read_log)),
    "operation": Target(
        _as_json({"op": "add", "entries": ENTRIES}, {"op": "undo"}, {"op": "replace", "entries": ENTRIES}),
        _take_operation,
    ),
    "grid": Target(_as_json(GRID), _take_text(lambda text: itksnap.parse_grid(text).geometry)),
    "drawing": Target(_drawings, _take_drawing),
    "clicks": Target(_as_json({"liver": [[1, 2, 3]], "background": [[0, 0, 0]]}), _take_text(_take_clicks)),
    "training": Target(
        _as_json({"max_epochs": 3, "learning_rate": 0.1}, TrainConfig().model_dump()), _take_train_config
    ),
    "array": Target(_arrays, lambda data, folder: array_codec.unpack(data, 4, 10**6)),
}
"""Every reader and document, by name."""


def mutations(name: str, count: int, folder: Path) -> Iterator[bytes]:
    """Make `count` mutations of a target's seeds, deterministically."""
    seeds, rng = TARGETS[name].seeds(folder), np.random.default_rng(0)
    return (mutate(seeds[n % len(seeds)], rng) for n in range(count))
