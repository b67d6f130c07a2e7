"""Fingerprint: medians along R, A, S of what the files hold, whatever way the files are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.data.case_files import CaseFiles
from s2vnet.data.dataset import Dataset, read_dataset
from s2vnet.data.fingerprint import extract_fingerprint
from s2vnet.errors import InputError
from s2vnet.io.files import read_labels, write_image, write_labels
from s2vnet.io.geometry import Geometry, LabelMap, Volume

WriteDataset = Callable[..., Path]
Array = npt.NDArray[np.float64]


def dataset_of(root: Path, pairs: list[tuple[Volume, LabelMap]]) -> Dataset:
    """Dataset of one channel and two classes, written as NRRD so that spacings stay exact."""
    cases = []
    for n, (volume, labels) in enumerate(pairs):
        image, truth = root / f"{n}.nrrd", root / f"{n}-labels.nrrd"
        write_image(image, volume)
        write_labels(truth, labels)
        cases.append(CaseFiles(str(n), (image,), truth))
    return Dataset(root, "boxes", ("CT",), {"background": 0, "box": 1, "never": 2}, ".nrrd", tuple(cases), ())


def box_case(affine: Array, shape: tuple[int, int, int] = (8, 10, 6), value: float = 5) -> tuple[Volume, LabelMap]:
    """A box of 3 x 4 x 2 voxels of one value in an image that is zero elsewhere."""
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 3:7, 1:3] = 1
    geometry = Geometry(shape, affine)
    return Volume((value * labels)[None].astype(np.float32), geometry), LabelMap(labels, geometry)


def test_numbers_of_a_box(tmp_path: Path) -> None:
    affine = np.diag([0.5, 2.0, 3.0, 1.0])
    calls: list[tuple[int, int]] = []
    dataset = dataset_of(tmp_path, [box_case(affine), box_case(affine, value=7)])

    found = extract_fingerprint(dataset, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(1, 2), (2, 2)]
    assert (found.dataset, found.cases, found.channels, found.empty_cases) == ("boxes", 2, ("CT",), ())
    assert (found.spacing, found.shape) == ((0.5, 2.0, 3.0), (8, 10, 6))
    assert list(found.extents) == ["box"], "a class that no case shows has no extent"
    extent = found.extents["box"]
    assert (extent.cases, extent.voxels, extent.mm) == (2, (3, 4, 2), (1.5, 8, 6))
    areas = np.array([4 * 2 * 2 * 3, 3 * 2 * 0.5 * 3, 3 * 4 * 0.5 * 2])
    np.testing.assert_allclose(extent.diameter_mm, 2 * np.sqrt(areas / np.pi), atol=1e-4)
    assert found.nonzero_fraction == pytest.approx(3 * 4 * 2 / (8 * 10 * 6))
    (intensities,) = found.intensities
    assert (intensities.mean, intensities.std) == (6, 1), "each case weighs the same"
    assert (intensities.percentile_00_5, intensities.percentile_99_5) == (5, 7)


def test_storage_order_does_not_matter(tmp_path: Path, any_affine: Array) -> None:
    geometry = Geometry((8, 10, 6), any_affine)
    volume, labels = box_case(any_affine)
    canonical, orientation = geometry.canonical()
    turned = (
        Volume(orientation.apply(volume.data).copy(), canonical),
        LabelMap(orientation.apply(labels.data).astype(np.uint8), canonical),
    )
    (tmp_path / "ras").mkdir()
    (tmp_path / "file").mkdir()

    ras = extract_fingerprint(dataset_of(tmp_path / "ras", [turned]))

    assert extract_fingerprint(dataset_of(tmp_path / "file", [(volume, labels)])) == ras
    assert ras.shape == canonical.shape
    np.testing.assert_allclose(ras.spacing, canonical.spacing, atol=1e-4)


def test_medians_over_cases(tmp_path: Path) -> None:
    spacings, shapes = ((1, 1, 1), (1, 2, 3), (2, 4, 9)), ((8, 10, 6), (9, 10, 6), (20, 30, 40))
    pairs = [box_case(np.diag([*s, 1.0]), shape) for s, shape in zip(spacings, shapes, strict=True)]

    found = extract_fingerprint(dataset_of(tmp_path, pairs))

    assert (found.spacing, found.shape) == ((1, 2, 3), (9, 10, 6))


def test_ranges_over_cases(tmp_path: Path) -> None:
    spacings, shapes = ((1, 1, 4), (1, 2, 3), (2, 4, 9)), ((8, 10, 6), (9, 10, 6), (20, 30, 40))
    pairs = [
        box_case(np.diag([*s, 1.0]), shape, value)
        for s, shape, value in zip(spacings, shapes, (40, 60, 20), strict=True)
    ]
    for (volume, _), typical in zip(pairs, (30, 50, 25), strict=True):
        volume.data[:, 6:8] = typical  # more of it than there is of the box, whose values make the window

    seen = extract_fingerprint(dataset_of(tmp_path, pairs)).seen

    assert seen is not None
    assert seen.spacing == ((1, 1, 3), (2, 4, 9))
    assert seen.size == ((8, 10, 18), (40, 120, 360))
    assert seen.tissue == ((25, 50),)
    assert seen.bright[0][0] >= 25


def test_the_same_data_give_the_same_fingerprint(write_dataset: WriteDataset) -> None:
    dataset = read_dataset(write_dataset(channels=("T1", "T2")))
    found = extract_fingerprint(dataset)
    assert extract_fingerprint(dataset) == found
    assert len(found.intensities) == 2


def test_an_image_of_zeros_is_all_inside(tmp_path: Path) -> None:
    assert extract_fingerprint(dataset_of(tmp_path, [box_case(np.eye(4), value=0)])).nonzero_fraction == 1


def test_cases_without_any_class_are_named(write_dataset: WriteDataset) -> None:
    root = write_dataset(("a", "b"))
    full = extract_fingerprint(read_dataset(root))
    for name in "ab":
        path = root / "labelsTr" / f"{name}.nii.gz"
        labels = read_labels(path)
        write_labels(path, LabelMap(np.zeros_like(labels.data), labels.geometry))
        if name == "a":
            found = extract_fingerprint(read_dataset(root))
            assert (found.cases, found.empty_cases) == (2, ("a",))
            assert {n: e.cases for n, e in found.extents.items()} == {"left": 1, "right": 1}
            assert full.empty_cases == ()

    with pytest.raises(InputError, match="no case contains any class"):
        extract_fingerprint(read_dataset(root))


def test_a_case_without_labels_is_refused(write_dataset: WriteDataset) -> None:
    dataset = read_dataset(write_dataset())
    bare = replace(dataset, training=(replace(dataset.training[0], labels=None),))
    with pytest.raises(InputError, match="case a has no labels"):
        extract_fingerprint(bare)
