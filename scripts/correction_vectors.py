"""Write docs/correction-vectors.json, test vectors for other implementations of docs/corrections.md.

    python scripts/correction_vectors.py

In place of the corrector's graph, most vectors use a formula, so that what surrounds the graph can be tested by itself:
the logit of a pixel is 1 - 2 * |contrast|, limited to -1..1.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.inference.correction_maps import SegmentedVolume, Window, WindowPrompt, window_maps
from s2vnet.inference.segmentation import Segmentation
from s2vnet.interactive.applied_log import AppliedLog
from s2vnet.interactive.corrections import Corrections
from s2vnet.io.geometry import Geometry
from s2vnet.model.corrector import CELL_MAPS, PIXEL_MAPS, Corrector
from s2vnet.prompts import Box, Entry, Lasso, Lock, Mask, NewClass, Point, Scribble
from s2vnet.utils.atomic_write import atomic_write

FILE = Path(__file__).parent.parent / "docs" / "correction-vectors.json"
SHAPE, SPACING = (40, 36, 44), (1.25, 1.0, 2.0)
NAMES = {0: "background", 1: "first", 2: "second"}
SAMPLES = 24

Bytes = npt.NDArray[np.uint8]


def by_contrast(pixels: Tensor, cells: Tensor) -> Tensor:
    """Formula in place of the graph."""
    return (1 - 2 * pixels[:, :, PIXEL_MAPS.index("contrast")].abs()).clamp(-1, 1)


def grid() -> SliceGrid:
    """Axial slices of a file whose first axis runs to the left, at 1 mm."""
    plan = Plan(
        dataset="vectors",
        channels=("image",),
        labels={name: value for value, name in NAMES.items()},
        plane="axial",
        spacing=(1.0, 1.0),
        patch_size=(16, 16),
        intensities=(IntensityScheme(kind="zscore"),),
        crop_to_nonzero=False,
        encoder="tiny",
        stem_stride=2,
    )
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    return SliceGrid.from_plan(Geometry(SHAPE, affine), plan)


def stored_volume(grid: SliceGrid) -> dict[str, Bytes]:
    """Image (D, H, W), probabilities (D, K, h, w) and features (D, M, h, w) in bytes."""
    rng = np.random.default_rng(0)
    size = (grid.depth, *grid.padded)
    d, y, x = (g / (n - 1) for g, n in zip(np.ogrid[tuple(slice(0, n) for n in size)], size, strict=True))
    column = (y - 0.35) ** 2 + (x - 0.3) ** 2 < 0.2**2
    ball = (d - 0.5) ** 2 + (y - 0.6) ** 2 + (x - 0.7) ** 2 < 0.25**2
    image = 40 + 80 * (column | np.zeros(size, bool)) + 160 * ball + 4 * rng.integers(0, 2, size)
    found = np.stack(
        [np.full(size, 0.5), 0.9 * column * (d < 0.6), 0.9 * ball * (y > 0.5) + 0.2 * column * (d > 0.4)], 1
    )
    found = ndimage.uniform_filter(found, (1, 1, 3, 3))[:, :, ::2, ::2]
    probabilities = found / found.sum(1, keepdims=True)
    features = np.stack([image[:, ::2, ::2] / 255, ball[:, ::2, ::2], np.full_like(found[:, 0], 0.5)], 1)
    return {
        "image": image.astype(np.uint8),
        "probabilities": np.rint(255 * probabilities).astype(np.uint8),
        "features": np.rint(255 * features).astype(np.uint8),
    }


def corrections(stored: dict[str, Bytes], grid: SliceGrid) -> Corrections:
    """Corrections of the stored volume: bytes b stand for b / 64 - 2 in the image, and for b / 255 elsewhere."""
    volume = SegmentedVolume(
        torch.from_numpy(stored["image"]).float() / 64 - 2,
        torch.from_numpy(stored["probabilities"]).float() / 255,
        torch.from_numpy(stored["features"]).float() / 255,
        grid.slice_distance,
        grid.pixel_size,
    )
    return Corrections(by_contrast, grid, volume, Segmentation(grid, volume.probabilities, NAMES), len(NAMES))


def logs() -> dict[str, tuple[Entry, ...]]:
    """Prompt logs by name."""
    square = np.zeros(SHAPE, bool)
    square[30:36, 9:13, 10] = True
    missed, ball = Point(class_id=1, voxel=(22, 14, 34)), (9, 33, 22)
    return {
        "missed part, followed over slices": (missed,),
        "false part": (Point(class_id=2, voxel=ball, positive=False),),
        "locked class": (Lock(class_id=2), Point(class_id=1, voxel=ball), missed),
        "a prompted voxel stays": (Point(class_id=2, voxel=(22, 14, 38)), missed),
        "scribble": (Scribble(class_id=1, voxels=(ball, (9, 34, 22), (10, 33, 22))),),
        "outlines": (
            Lasso(class_id=2, axis=2, vertices=((27, 8, 8), (38, 8, 8), (38, 22, 8))),
            Lasso(class_id=2, axis=2, vertices=((26, 8, 12), (38, 8, 12), (38, 24, 12))),
            Mask.from_array(square, 2, positive=False),
        ),
        "box": (Box(class_id=1, start=(17, 9, 4), stop=(28, 20, 20)),),
        "own class": (NewClass(class_id=3, name="lesion"), Point(class_id=3, voxel=ball)),
    }


def vectors() -> dict[str, Any]:
    """All vectors."""
    place = grid()
    stored = stored_volume(place)
    found = corrections(stored, place)
    labels = np.asarray(found.automatic.labels().data, np.uint8)
    content: dict[str, Any] = {
        "volume": {
            "file": {"shape": SHAPE, "affine": place.geometry.affine.tolist()},
            "slices": {"depth": place.depth, "sampled": place.sampled, "padded": place.padded},
            "slice_distance": found.volume.slice_distance,
            "pixel_size": found.volume.pixel_size,
            **{name: {"shape": array.shape, "zlib": _pack(array)} for name, array in stored.items()},
        },
        "labels": _pack(labels),
        "voxels_to_pixels": [
            [v, np.rint(place.voxels_to_pixels(np.array([v])))[0].astype(int).tolist()]
            for v in ((0, 0, 0), (39, 35, 43), (28, 12, 30), (7, 3, 1))
        ],
        "windows": [
            [centre, zoom, Window.around(centre, zoom).start]
            for centre in ((30.0, 20.0, 22.0), (0.0, 0.0, 0.0), (2.5, 41.5, 57.0), (17.0, 130.25, 7.5))
            for zoom in (1, 2)
        ],
        "maps": [_maps(found, labels, zoom) for zoom in (1, 2)],
        "logs": {name: _applied(found, labels, entries) for name, entries in logs().items()},
    }
    return content


def _maps(found: Corrections, labels: Bytes, zoom: int) -> dict[str, Any]:
    """Maps of one window, and the graph's logits for them: sums, and values at some places."""
    prompt = WindowPrompt(
        np.array([[30, 12, 14], [30, 12, 15]]), True, 1, 1, np.array([[34, 12, 14]]), np.array([[22, 20, 25]])
    )
    window = Window.around(prompt.pixels.mean(0), zoom)
    on_pixels = torch.from_numpy(found.grid.labels_to_pixels(labels))
    maps = window_maps(found.volume, on_pixels, prompt, window)
    with torch.inference_mode():
        logits = Corrector.bundled()(maps.pixels[None], maps.cells[None])[0]
    named = {
        **dict(zip(PIXEL_MAPS, maps.pixels.unbind(1), strict=True)),
        **dict(zip(CELL_MAPS, maps.cells.unbind(1), strict=True)),
        "logits": logits,
    }
    rng = np.random.default_rng(1)
    size = found.volume.image.shape
    inside = [
        (max(0, -a) // n, -(-min(k, m - a) // n))
        for a, k, m, n in zip(window.start, window.extent, size, (1, 2 * zoom, 2 * zoom), strict=True)
    ]
    places = np.stack([rng.integers(a, max(a + 1, b), SAMPLES) for a, b in inside], 1)  # cells
    described = {}
    for name, values in named.items():
        at = places * [1, *[values.shape[1] // (96 // 2)] * 2]
        described[name] = {
            "sum": float(values.double().sum()),
            "values": values[tuple(at.T)].double().numpy().round(5).tolist(),
        }
    return {
        "prompt": {"pixels": prompt.pixels.tolist(), "class": 1, "positive": True},
        "same": prompt.same.tolist(),
        "other": prompt.other.tolist(),
        "zoom": zoom,
        "start": window.start,
        "cells": places.tolist(),
        "maps": described,
    }


def _applied(found: Corrections, labels: Bytes, entries: tuple[Entry, ...]) -> dict[str, Any]:
    """Labels after a log, and how many voxels each entry changed."""
    log, counts = AppliedLog(labels), []
    for number in range(len(entries)):
        log = log.follow(entries[: number + 1], lambda: found)
        change = log.entries[-1].change
        counts.append(0 if change is None else change.count)
    return {
        "entries": [entry.model_dump(mode="json") for entry in entries],
        "changed": counts,
        "labels": _pack(log.labels),
    }


def _pack(array: Bytes) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def main() -> None:
    """Write the file."""
    with atomic_write(FILE) as temporary:
        temporary.write_text(json.dumps(vectors(), indent=1) + "\n")


if __name__ == "__main__":
    main()
