"""Preprocessing: to slices and exactly back, for every way a file may be stored."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2vnet.data.plan import PLANES, IntensityScheme, Plan, Plane
from s2vnet.data.preprocess import Case, PreparedSlices, normalise, preprocess, with_neighbours
from s2vnet.data.training_ranges import TrainingRanges
from s2vnet.errors import InputError
from s2vnet.io.geometry import Geometry, LabelMap, Volume

Array = npt.NDArray[np.float64]
MakePhantom = Callable[..., tuple[Volume, LabelMap]]
SHAPE = (7, 9, 5)


def numbered(affine: Array, shape: tuple[int, int, int] = SHAPE) -> tuple[Volume, LabelMap]:
    """Every voxel has its own value, 1 upwards, and a random label 0..2."""
    geometry = Geometry(shape, affine)
    values = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(1, *shape)
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    return Volume(values, geometry), LabelMap(labels, geometry)


def unresampled(plan: Plan, plane: Plane, geometry: Geometry) -> Plan:
    """The plan on a plane, sampling as the file does."""
    axis = PLANES.index(plane)
    row, column = (s for a, s in enumerate(geometry.canonical()[0].spacing) if a != axis)
    return plan.model_copy(update={"plane": plane, "spacing": (row, column)})


def truth(case: Case) -> npt.NDArray[np.uint8]:
    assert case.labels is not None
    return case.labels


def unpadded(case: Case, slices: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    h, w = case.grid.sampled
    return slices[..., :h, :w]


def one_hot(labels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(D, 3, H, W) probabilities of label slices (D, H, W)."""
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 3).movedim(-1, 1).float()


def ijk_of(shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    return np.argwhere(np.ones(shape, bool))


def thicker(plan: Plan, number: int, geometry: Geometry) -> Plan:
    """The plan of a training whose slices were `number` times as thick as the file's."""
    size = tuple(s * number for s in geometry.canonical()[0].spacing)
    return plan.model_copy(update={"seen": TrainingRanges(spacing=(size, size), size=(size, size), tissue=())})


def test_slabs_are_means_and_their_points_map_back(any_affine: Array, plan: Plan) -> None:
    for plane, number in itertools.product(PLANES, (2, 3)):
        volume, labels = numbered(any_affine)
        each = preprocess(volume, unresampled(plan, plane, volume.geometry), labels)
        case = preprocess(volume, thicker(unresampled(plan, plane, volume.geometry), number, volume.geometry), labels)
        groups = np.array_split(np.arange(each.grid.depth), range(number, each.grid.depth, number))
        assert case.grid.depth == len(groups) == case.image.shape[1] == len(truth(case))
        assert case.grid.size == each.grid.size
        for n, group in enumerate(groups):
            assert np.array_equal(truth(case)[n], truth(each)[group[min(number // 2, len(group) - 1)]])
        wide = IntensityScheme(kind="ct", low=-1e6, high=1e6)
        own = unresampled(plan, plane, volume.geometry).model_copy(update={"intensities": (wide,)})
        raw, means = (preprocess(volume, p).image[0] for p in (own, thicker(own, number, volume.geometry)))
        h, w = case.grid.sampled
        for n, group in enumerate(groups):
            np.testing.assert_allclose(means[n, :h, :w], raw[group].mean(0)[:h, :w], rtol=1e-4)
        ijk = ijk_of(volume.geometry.shape)
        places = case.grid.voxels_to_pixels(ijk)[:, 0]
        one_by_one = np.rint(each.grid.voxels_to_pixels(ijk)[:, 0]).astype(int)
        assert np.array_equal(np.rint(places - 1e-6 * np.sign(places)).astype(int), one_by_one // number)


@pytest.mark.parametrize("plane", PLANES)
def test_round_trip_without_resampling_is_exact(any_affine: Array, plan: Plan, plane: Plane) -> None:
    volume, labels = numbered(any_affine)
    plan = unresampled(plan, plane, volume.geometry)

    case = preprocess(volume, plan, labels, "x")

    grid = case.grid
    assert case.image.shape[1:] == truth(case).shape == (grid.size[0], *grid.padded)
    assert case.image.shape[1] == volume.geometry.canonical()[0].shape[plan.axis]
    assert all(n % plan.pad_multiple == 0 for n in case.image.shape[2:])
    back = grid.label_map(unpadded(case, truth(case)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(back.data, labels.data)
    assert back.geometry is volume.geometry
    np.testing.assert_array_equal(grid.crop_to_file(unpadded(case, case.image)), volume.data)
    decided = grid.upsample(one_hot(truth(case))).argmax(1).numpy().astype(np.uint8)
    np.testing.assert_array_equal(grid.label_map(decided).data, labels.data)


def test_voxels_map_to_pixels_of_their_value(any_affine: Array, plan: Plan) -> None:
    for plane in PLANES:
        volume, _ = numbered(any_affine)
        case = preprocess(volume, unresampled(plan, plane, volume.geometry))
        ijk = ijk_of(SHAPE)

        points = case.grid.voxels_to_pixels(ijk)

        np.testing.assert_allclose(points, np.rint(points), atol=1e-9)
        np.testing.assert_array_equal(case.image[(0, *np.rint(points).astype(int).T)], volume.data[(0, *ijk.T)])
        np.testing.assert_array_equal(case.grid.voxels_to_crop(ijk), np.rint(points))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
    st.tuples(*[st.floats(0.5, 3)] * 3),
    st.sampled_from(PLANES),
    st.floats(0.4, 4),
)
def test_any_volume_comes_back_on_its_grid(
    shape: tuple[int, int, int],
    axes: list[int],
    signs: tuple[int, ...],
    spacing: tuple[float, ...],
    plane: Plane,
    target: float,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * signs * spacing
    volume, labels = numbered(affine, shape)
    wanted = Plan(
        dataset="any",
        channels=("MR",),
        labels={"background": 0, "a": 1, "b": 2},
        plane=plane,
        spacing=(target, target),
        patch_size=(8, 8),
        intensities=(IntensityScheme(kind="zscore"),),
        crop_to_nonzero=False,
        encoder="tiny",
        stem_stride=1,
    )

    case = preprocess(volume, wanted, labels)

    assert np.isfinite(case.image).all()
    assert set(np.unique(truth(case))) <= {0, *np.unique(labels.data)}
    back = case.grid.upsample(torch.from_numpy(case.image).movedim(1, 0))
    assert case.grid.crop_to_file(back.movedim(0, 1).numpy()).shape == (1, *shape)
    assert case.grid.label_map(np.zeros(case.grid.size, np.uint8)).geometry.same_grid(volume.geometry)


@pytest.mark.parametrize("target", [0.5, 0.77, 1.3])
def test_resampling_in_plane_keeps_smooth_labels(plan: Plan, target: float) -> None:
    shape = (36, 40, 5)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    labels = ((place**2).sum(-1) < 0.6).astype(np.uint8)
    geometry = Geometry(shape, np.diag([-1.0, 1.0, 4.0, 1.0]))
    volume = Volume(100 * labels[None].astype(np.float32), geometry)

    case = preprocess(volume, plan.model_copy(update={"spacing": (target, target)}), LabelMap(labels, geometry))

    assert case.grid.sampled == (round(36 / target), round(40 / target))
    back = case.grid.label_map(case.grid.upsample(one_hot(truth(case))).argmax(1).numpy().astype(np.uint8)).data
    dice = 2 * (back * labels).sum() / (back.sum() + labels.sum())
    assert dice > 0.9


def test_resampling_moves_points_with_the_pixels(plan: Plan) -> None:
    """A voxel that becomes 2 x 2 pixels is clicked between them; a ramp is read off where the point says."""
    shape = (12, 10, 3)
    geometry = Geometry(shape, np.diag([1.0, -1.0, 2.0, 1.0]))
    ijk = ijk_of(shape)
    ramp = (3 * ijk[:, 0] + 5 * ijk[:, 1]).reshape(1, *shape).astype(np.float32)

    case = preprocess(Volume(ramp, geometry), plan.model_copy(update={"spacing": (0.5, 0.5)}))

    np.testing.assert_allclose(case.grid.voxels_to_pixels([[0, 9, 0], [1, 8, 2]]), [[0, 0.5, 0.5], [2, 2.5, 2.5]])
    inside = ijk[(ijk[:, :2] > 1).all(1) & (ijk[:, 0] < 10) & (ijk[:, 1] < 8)]
    points = case.grid.voxels_to_pixels(inside)
    low = np.floor(points).astype(int)
    around = [case.image[0][(low[:, 0], low[:, 1] + a, low[:, 2] + b)] for a in (0, 1) for b in (0, 1)]
    np.testing.assert_allclose(np.mean(around, 0), ramp[(0, *inside.T)], atol=1e-4)


def test_crop_to_nonzero_and_back(any_affine: Array, plan: Plan) -> None:
    volume, labels = numbered(any_affine)
    data, kept = np.zeros_like(volume.data), np.zeros_like(labels.data)
    window = (slice(2, 6), slice(1, 8), slice(1, 4))
    data[(0, *window)], kept[window] = volume.data[(0, *window)], labels.data[window]
    volume, labels = Volume(data, volume.geometry), LabelMap(kept, volume.geometry)
    plan = unresampled(plan, "axial", volume.geometry).model_copy(update={"crop_to_nonzero": True})

    case = preprocess(volume, plan, labels)

    assert sorted(case.grid.size) == [3, 4, 7]
    back = case.grid.label_map(unpadded(case, truth(case)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(back.data, kept)
    outside = case.grid.crop_to_file(np.zeros(case.grid.size, np.float32), fill=-1)
    np.testing.assert_array_equal(outside == 0, data[0] != 0)
    clicked = np.argwhere(kept)
    crop = case.grid.voxels_to_crop(clicked)
    np.testing.assert_array_equal(truth(case)[tuple(crop.T)], kept[tuple(clicked.T)])
    away = case.grid.voxels_to_crop([[0, 0, 0], [6, 8, 4]])
    assert ((away < 0) | (away >= case.grid.size)).any(1).all(), "clicks outside the crop stay outside"


def test_an_image_of_zeros_is_not_cropped(plan: Plan) -> None:
    volume = Volume(np.zeros((1, *SHAPE), np.float32), Geometry(SHAPE, np.eye(4)))
    case = preprocess(volume, plan.model_copy(update={"crop_to_nonzero": True}))
    assert case.grid.size == (5, 7, 9)
    assert case.labels is None


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("shape", [(7, 9, 1), (1, 9, 5), (1, 1, 1)])
def test_a_single_slice_works(plan: Plan, shape: tuple[int, int, int], signs: tuple[int, ...]) -> None:
    volume, labels = numbered(np.diag([*map(float, signs), 1]), shape)
    case = preprocess(volume, plan, labels)
    assert case.image.shape[:2] == (1, shape[2])
    np.testing.assert_array_equal(case.grid.label_map(unpadded(case, truth(case))).data, labels.data)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -1000.0, 0.1, 1e30])
@pytest.mark.parametrize("scheme", [IntensityScheme(kind="zscore"), IntensityScheme(kind="ct", low=-9, high=9)])
def test_a_constant_image_stays_finite(plan: Plan, value: float, scheme: IntensityScheme) -> None:
    volume = Volume(np.full((1, *SHAPE), value, np.float32), Geometry(SHAPE, np.eye(4)))
    case = preprocess(volume, plan.model_copy(update={"intensities": (scheme,)}))
    assert np.isfinite(case.image).all()
    assert np.ptp(case.image) == 0
    if scheme.kind == "zscore":
        assert not case.image.any()


def test_intensity_schemes() -> None:
    values = torch.linspace(-1000, 1000, 2001).reshape(1, 3, 667)
    window = normalise(values, IntensityScheme(kind="ct", low=-100, high=300, mean=50, std=25))
    assert (float(window.min()), float(window.max())) == (-6, 10)
    torch.testing.assert_close(window[values == 75], torch.tensor([1.0]))
    score = normalise(values, IntensityScheme(kind="zscore"))
    assert score.dtype == torch.float32
    assert abs(float(score.mean())) < 1e-5
    assert float(score.std(correction=0)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(normalise(3 * values + 7, IntensityScheme(kind="zscore")), score, atol=1e-5, rtol=0)
    assert (score == score.min()).sum() == 11, "half a percent on either side is clipped"


def test_channels_are_normalised_and_padded_each_by_itself(make_phantom: MakePhantom, plan: Plan) -> None:
    volume, _ = make_phantom(channels=2)
    two = plan.model_copy(update={"channels": ("MR", "CT"), "intensities": (IntensityScheme(kind="zscore"),) * 2})
    both = preprocess(volume, two)
    for c in range(2):
        alone = preprocess(
            Volume(volume.data[c : c + 1], volume.geometry),
            plan.model_copy(update={"intensities": (IntensityScheme(kind="zscore"),)}),
        )
        np.testing.assert_array_equal(both.image[c], alone.image[0])
    h, w = both.grid.sampled
    assert (h, w) != both.grid.padded
    for channel in both.image:
        assert (channel[:, h:] == channel.min()).all()
        assert (channel[:, :, w:] == channel.min()).all()


def test_preprocessing_leaves_its_input_alone(phantom: tuple[Volume, LabelMap], plan: Plan) -> None:
    volume, labels = phantom
    image, values = volume.data.copy(), labels.data.copy()
    case = preprocess(volume, unresampled(plan, "axial", volume.geometry), labels)
    case.image[:], truth(case)[:] = 0, 0
    np.testing.assert_array_equal(volume.data, image)
    np.testing.assert_array_equal(labels.data, values)


@pytest.mark.parametrize(("name", "shown"), [("case7", "case7"), ("", "image")])
def test_wrong_channels_are_refused(make_phantom: MakePhantom, plan: Plan, name: str, shown: str) -> None:
    volume, _ = make_phantom(channels=2)
    with pytest.raises(InputError, match=f"^{shown}: 2 channels where the model needs CT$"):
        preprocess(volume, plan, name=name)


def test_labels_on_another_grid_are_refused(phantom: tuple[Volume, LabelMap], plan: Plan) -> None:
    volume, labels = phantom
    moved = volume.geometry.affine.copy()
    moved[0, 3] += 1
    other = replace(labels, geometry=Geometry(volume.geometry.shape, moved))
    with pytest.raises(InputError, match=r"^case7: image and labels: grids differ"):
        preprocess(volume, plan, other, "case7")


def test_neighbours_are_channels_and_clamp_at_the_ends() -> None:
    image = np.arange(2 * 4 * 1 * 1, dtype=np.float32).reshape(2, 4, 1, 1)

    found = with_neighbours(image, [0, 3, 2], 1)

    assert found.shape == (3, 6, 1, 1)
    np.testing.assert_array_equal(found[..., 0, 0], [[0, 4, 0, 4, 1, 5], [2, 6, 3, 7, 3, 7], [1, 5, 2, 6, 3, 7]])
    np.testing.assert_array_equal(with_neighbours(image, [1], 0)[0], image[:, 1])
    np.testing.assert_array_equal(with_neighbours(image[:, :1], [0], 2)[0, :, 0, 0], [0, 4] * 5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_case_is_the_case_of_the_mirrored_volume_and_leads_back_to_the_file(
    phantom: tuple[Volume, LabelMap], plan: Plan, axis: int
) -> None:
    volume, labels = phantom
    orientation = volume.geometry.canonical()[1]
    file_axis = orientation.axes[axis]
    turned = Volume(np.flip(volume.data, 1 + file_axis).copy(), volume.geometry)
    for crop in (False, True):
        chosen = plan.model_copy(update={"crop_to_nonzero": crop})
        found, wanted = PreparedSlices(volume, chosen).mirror(axis).case(), preprocess(turned, chosen)
        np.testing.assert_allclose(found.image, wanted.image, atol=1e-4)
        assert (found.grid.start, found.grid.size) == (wanted.grid.start, wanted.grid.size)
        box = tuple(slice(a, a + n) for a, n in zip(found.grid.start, found.grid.size, strict=True))
        stack = np.moveaxis(found.grid.orientation.apply(labels.data), chosen.axis, 0)
        inside = np.zeros_like(stack)
        inside[box] = stack[box]
        back = found.grid.label_map(stack[box].astype(np.uint8))
        unmoved = np.moveaxis(inside, 0, chosen.axis)
        assert np.array_equal(back.data, found.grid.orientation.invert(unmoved))
