"""Conversions between the coordinate spaces of a volume and of the network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2vnet.data.plan import PLANES, Plan
from s2vnet.data.slice_grid import SliceGrid
from s2vnet.io.geometry import Geometry

SHAPE = (7, 9, 5)


def cropped(affine: npt.NDArray[np.float64], plan: Plan) -> SliceGrid:
    """Grid of a crop one voxel inside the volume."""
    whole = SliceGrid.from_plan(Geometry(SHAPE, affine), plan).size
    depth, height, width = (n - 2 for n in whole)
    return SliceGrid.from_plan(Geometry(SHAPE, affine), plan, (1, 1, 1), (depth, height, width))


@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_interpolation_between_slabs_is_linear_and_local(depth: int, number: int, data: st.DataObject) -> None:
    grid = SliceGrid(
        Geometry((1, 1, depth), np.eye(4)),
        Geometry((1, 1, depth), np.eye(4)).canonical()[1],
        2,
        (0, 0, 0),
        (depth, 1, 1),
        (1, 1),
        (1, 1),
        number,
    )
    scores = torch.rand(grid.depth, 2, 1, 1)
    start = data.draw(st.integers(0, depth - 1))
    stop = data.draw(st.integers(start + 1, depth))
    whole = grid.interpolate_slices(scores, 0, depth)
    assert torch.equal(grid.interpolate_slices(scores, start, stop), whole[start:stop])
    centres = (np.arange(grid.depth) + 0.5) * number - 0.5
    expected = np.interp(np.arange(depth), centres, scores[:, 1, 0, 0].numpy())
    np.testing.assert_allclose(whole[:, 1, 0, 0].numpy(), expected, atol=1e-5)
    first = data.draw(st.integers(0, grid.depth - 1))
    last = data.draw(st.integers(first + 1, grid.depth))
    other = scores.clone()
    other[first:last] += 1
    changed = (grid.interpolate_slices(other, 0, depth) != whole).any(1).flatten().nonzero().flatten()
    assert (int(changed[0]), int(changed[-1]) + 1) == grid.affected_slices(first, last)


def test_slices_fill_their_file_region(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    for plane in PLANES:
        grid = cropped(any_affine, plan.model_copy(update={"plane": plane}))
        depth = grid.size[0]
        values = np.random.default_rng(0).integers(1, 99, grid.size)
        for start, stop in ((0, depth), (1, 3), (depth - 1, depth)):
            part = np.zeros(grid.size, int)
            part[start:stop] = values[start:stop]
            expected = np.zeros(SHAPE, int)
            region, block = grid.slices_to_file(values[start:stop], start)
            expected[region] = block
            assert region == grid.file_region(start, stop)
            np.testing.assert_array_equal(grid.crop_to_file(part), expected)


def test_cells_are_blocks_of_pixels(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = cropped(any_affine, plan)
    ijk = np.argwhere(np.ones(SHAPE))
    pixels = grid.voxels_to_pixels(ijk)
    np.testing.assert_array_equal(grid.voxels_to_cells(ijk, 1), pixels)
    np.testing.assert_array_equal(grid.cells_to_voxels(pixels, 1), ijk)
    cells = grid.voxels_to_cells(ijk, 4)
    np.testing.assert_array_equal(grid.cells_to_voxels(cells, 4), ijk)
    np.testing.assert_array_equal(cells[:, 0], pixels[:, 0])
    np.testing.assert_allclose((cells[:, 1:] + 0.5) * 4, pixels[:, 1:] + 0.5)


def test_a_mirrored_crop_holds_the_same_voxels(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = cropped(any_affine, plan)
    ijk = np.argwhere(np.ones(SHAPE))
    for place, axis in enumerate(grid.axes[1:], start=1):
        expected = grid.voxels_to_crop(ijk)
        expected[:, place] = grid.size[place] - 1 - expected[:, place]
        np.testing.assert_array_equal(grid.mirror(axis).voxels_to_crop(ijk), expected)


def test_labels_of_pixels_are_those_of_the_voxels_there(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = cropped(any_affine, plan)
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    pixels = grid.labels_to_pixels(labels)
    assert pixels.shape == (grid.depth, *grid.padded)
    voxels = np.argwhere(np.ones(labels.shape, bool))
    crop = grid.voxels_to_crop(voxels)
    voxels = voxels[((crop >= 0) & (crop < np.array(grid.size))).all(1)]
    there = grid.voxels_to_pixels(voxels)
    exact = (np.abs(there - np.rint(there)) < 1e-6).all(1)
    d, y, x = np.rint(there[exact]).astype(int).T
    np.testing.assert_array_equal(pixels[d, y, x], labels[tuple(voxels[exact].T)])
    assert grid.slice_distance > 0


def test_upsampling_of_a_part_is_the_part_of_the_whole(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = SliceGrid.from_plan(Geometry((19, 22, 17), any_affine), plan)
    rng = torch.Generator().manual_seed(0)
    height, width = grid.size[1:]
    for size in (grid.padded, (grid.padded[0] // 2, grid.padded[1] // 2)):
        maps = torch.rand((2, 3, *size), generator=rng)
        whole = grid.upsample(maps)
        for rows, columns in ((slice(0, height), slice(3, 4)), (slice(2, height - 1), slice(5, width))):
            torch.testing.assert_close(grid.upsample(maps, rows, columns), whole[..., rows, columns])


def test_voxels_near_pixels_are_those_that_depend_on_them(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = SliceGrid.from_plan(Geometry((19, 22, 17), any_affine), plan)
    maps = torch.zeros((1, 1, *grid.padded))
    maps[..., 3:5, 2:6] = 1
    changed = grid.upsample(maps)[0, 0].nonzero()
    low, high = changed.amin(0).tolist(), (changed.amax(0) + 1).tolist()
    expected = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    assert grid.voxels_near_pixels(slice(3, 5), slice(2, 6)) == expected


def test_parts_of_slices_fill_their_place_in_the_file(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = SliceGrid.from_plan(Geometry((19, 22, 17), any_affine), plan)
    stack = np.random.default_rng(0).random(grid.size)
    whole = grid.crop_to_file(stack)
    rows, columns = slice(2, 7), slice(4, 5)
    region, block = grid.slices_to_file(stack[3:6, rows, columns], 3, rows, columns)
    np.testing.assert_array_equal(whole[region], block)


def test_labels_of_some_slices_are_those_of_the_whole(any_affine: npt.NDArray[np.float64], plan: Plan) -> None:
    grid = SliceGrid.from_plan(Geometry((19, 22, 17), any_affine), plan)
    labels = np.random.default_rng(0).integers(0, 5, (19, 22, 17), dtype=np.uint8)
    np.testing.assert_array_equal(grid.labels_to_pixels(labels, 2, 4), grid.labels_to_pixels(labels)[2:4])
