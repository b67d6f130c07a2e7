"""Arrays get the grid that the address or the client states, or one by their content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from s2vnet.errors import InputError
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_geometry, read_image, write_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.io.itk import geometry_from_itk
from s2vnet.server.protocols.nninteractive import array_geometry as module
from s2vnet.server.protocols.nninteractive.array_geometry import (
    array_geometry,
    orient_by_content,
    parse_properties,
    require_axes,
)

SHAPE = (4, 5, 6)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def reverse(geometry: Geometry) -> Geometry:
    """The grid of the array of an image, whose axes come in reverse order."""
    i, j, k = geometry.shape[::-1]
    return Geometry((i, j, k), geometry.affine[:, [2, 1, 0, 3]])


def itk_image() -> Any:
    image = sitk.Image(SHAPE[::-1], sitk.sitkFloat32)
    image.SetSpacing((0.8, 1.1, 2.5))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.3, 0.2, 2.9).GetMatrix())
    return image


def test_simpleitks_properties_state_the_grid() -> None:
    image = itk_image()
    expected = reverse(geometry_from_itk(image))
    stuff = {"spacing": image.GetSpacing(), "direction": image.GetDirection(), "origin": image.GetOrigin()}
    nested = np.reshape(image.GetDirection(), (3, 3)).tolist()
    for properties in (
        {"spacing": image.GetSpacing()[::-1], "sitk_stuff": stuff},
        {"spacing": image.GetSpacing()[::-1], "direction": image.GetDirection()},
        {"spacing": image.GetSpacing()[::-1], "direction": nested},
    ):
        geometry, stated = array_geometry(SHAPE, parse_properties(properties), None)
        assert stated
        assert geometry.same_grid(expected)


def test_nibabels_properties_state_the_grid() -> None:
    expected = geometry_from_itk(itk_image())
    stuff = {"original_affine": expected.affine.tolist()}
    geometry, stated = array_geometry(SHAPE, parse_properties({"nibabel_stuff": stuff}), None)
    assert stated
    assert geometry.same_grid(reverse(expected))


def test_the_address_comes_first_and_spacing_alone_states_nothing() -> None:
    properties = parse_properties({"spacing": (2, 3, 4), "axes": "spl"})
    geometry, stated = array_geometry(SHAPE, properties, "RAS")
    assert (geometry.orientation.codes, geometry.spacing, stated) == ("RAS", (2, 3, 4), True)
    assert array_geometry(SHAPE, properties, None)[0].orientation.codes == "SPL"
    assert not array_geometry(SHAPE, parse_properties({"spacing": (2, 3, 4)}), None)[1]
    assert not array_geometry(SHAPE, parse_properties(None), None)[1]


@pytest.mark.parametrize("codes", ["", "R", "RRS", "RLS", "RASS", "XYZ"])
def test_codes_name_each_axis_once(codes: str) -> None:
    with pytest.raises(InputError, match="no such axes"):
        require_axes(codes)


keys = st.sampled_from(["spacing", "axes", "direction", "sitk_stuff", "nibabel_stuff", "other"])


@given(json_values | st.dictionaries(keys, json_values | st.lists(st.floats(), min_size=3, max_size=9)))
def test_any_properties_give_a_grid_or_an_error_of_one_line(value: Any) -> None:
    try:
        array_geometry(SHAPE, parse_properties(value), None)
    except InputError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_a_guess_is_written_into_the_file(
    tmp_path: Path, segmenter: Segmenter, bordered: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "array.nii"
    spacing = (2.0, 1.0, 0.5)
    write_image(path, Volume(bordered.data, Geometry.from_codes(bordered.geometry.shape, spacing, "SPL")))
    guess: Callable[..., str] = lambda *_: "LAS"  # noqa: E731
    monkeypatch.setattr(module, "guess_axes", guess)
    assert "LAS by its content" in orient_by_content(segmenter, path, lambda: None)
    geometry = read_geometry(path)
    assert (geometry.orientation.codes, geometry.spacing) == ("LAS", spacing)
    np.testing.assert_array_equal(read_image(path).data, bordered.data)


def test_the_signs_of_voxel_sizes_are_ignored() -> None:
    """napari-nifti displays axes the other way round by a negative scale, which nnInteractive's panel sends."""
    assert parse_properties({"spacing": [-2.5, -1.1, 0.8]}).spacing == (2.5, 1.1, 0.8)
    for wrong in ([0.0, 1.1, 0.8], [-2.5, float("nan"), 1.0], [1.0, -1e9, 1.0], [-1.0, 1.0], [None, 1.0, 1.0]):
        with pytest.raises(InputError, match="image_properties"):
            parse_properties({"spacing": wrong})
