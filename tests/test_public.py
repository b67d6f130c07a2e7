"""The public interface: what is exported, that it is documented, and that images of every kind go in and out."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2vnet
from s2vnet import (
    Geometry,
    InputError,
    LabelMap,
    Point,
    Segmenter,
    Session,
    Volume,
    as_label_map,
    as_volume,
    to_nibabel,
    to_simpleitk,
)

ROOT = Path(__file__).parent.parent
NAMES = [
    "Box",
    "Geometry",
    "InputError",
    "LabelMap",
    "Lasso",
    "Lock",
    "Mask",
    "Point",
    "S2VNetError",
    "Scribble",
    "Segmentation",
    "Segmenter",
    "Session",
    "Volume",
    "as_label_map",
    "as_volume",
    "read_image",
    "read_labels",
    "to_nibabel",
    "to_simpleitk",
    "write_image",
    "write_labels",
]
"""Removing or renaming one breaks programs that use it."""
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def test_the_public_names_are_these() -> None:
    assert sorted({*s2vnet.__all__} - {"__version__"}) == sorted(NAMES)
    assert sorted(s2vnet.__all__) == dir(s2vnet)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name: str) -> None:
    item = getattr(s2vnet, name)
    assert inspect.getdoc(item)
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    public = page.partition("## Python")[2].partition("\n### ")[0]
    assert f"`s2vnet.{name}`" in public


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = s2vnet.no_such_name


def test_types_and_files_need_no_torch() -> None:
    code = "import sys; from s2vnet import Point, as_volume, read_image; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    return Segmenter.from_pretrained(model_folder, device="cpu", runtime="torch")


@pytest.fixture(scope="module")
def volume() -> Volume:
    data = np.random.default_rng(1).normal(0, 1, (1, 20, 24, 9)).astype(np.float32)
    return Volume(data, Geometry((20, 24, 9), AFFINE))


KINDS: dict[str, Callable[[Volume], tuple[Any, dict[str, Any]]]] = {
    "array": lambda volume: (volume.data[0], {"affine": volume.geometry.affine}),
    "array with channels": lambda volume: (volume.data, {"affine": volume.geometry.affine}),
    "nibabel": lambda volume: (to_nibabel(volume), {}),
    "SimpleITK": lambda volume: (to_simpleitk(volume), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_the_labels_of_the_volume(segmenter: Segmenter, volume: Volume, kind: str) -> None:
    image, affine = KINDS[kind](volume)
    expected = segmenter.segment(volume).labels()
    found = segmenter.segment(image, **affine).labels()
    np.testing.assert_array_equal(found.data, expected.data)
    assert found.geometry.same_grid(volume.geometry)


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_take_images_and_masks_of_every_kind(segmenter: Segmenter, volume: Volume, kind: str) -> None:
    image, affine = KINDS[kind](volume)
    session, expected = Session(segmenter, image, **affine), Session(segmenter, volume)
    mask = np.zeros(volume.geometry.shape, np.uint8)
    mask[4:8, 5:9, 4] = 1
    labels = LabelMap(mask, volume.geometry)
    convert = {"nibabel": to_nibabel, "SimpleITK": to_simpleitk}.get(kind, lambda labels: labels)
    session.add_mask(1, convert(labels))
    expected.add_mask(1, mask > 0)
    for each in (session, expected):
        each.add(Point(class_id=1, voxel=(3, 3, 3)))
    np.testing.assert_array_equal(session.result.data, expected.result.data)
    for image in (to_nibabel(session.result), to_simpleitk(session.result)):
        np.testing.assert_array_equal(as_label_map(image).data, session.labels)


def test_a_mask_on_another_grid_is_refused(segmenter: Segmenter, volume: Volume) -> None:
    session = Session(segmenter, volume)
    elsewhere = LabelMap(np.ones(volume.geometry.shape, np.uint8), Geometry(volume.geometry.shape, np.eye(4)))
    with pytest.raises(InputError, match="the mask: grids differ"):
        session.add_mask(1, to_nibabel(elsewhere))


def test_an_array_without_its_affine_is_refused_before_the_work(segmenter: Segmenter, volume: Volume) -> None:
    for use in (segmenter.segment, lambda image: Session(segmenter, image)):
        with pytest.raises(InputError, match="needs its affine"):
            use(volume.data)
    with pytest.raises(InputError, match="NaN"):
        segmenter.segment(np.full((1, 4, 5, 6), np.nan), affine=AFFINE)
    assert as_volume(volume) is not None
