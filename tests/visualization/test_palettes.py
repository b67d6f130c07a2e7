from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from s2vnet.visualization.palettes import hex_palette, rgba_palette


@pytest.mark.parametrize("count", [3, 10, 11, 60])
def test_background_is_transparent_and_classes_differ(count: int) -> None:
    palette = rgba_palette(count)
    assert palette.shape == (count, 4)
    assert palette[0, 3] == 0
    assert (palette[1:, 3] > 0).all()
    assert len(np.unique(palette[1:], axis=0)) == count - 1


@pytest.mark.parametrize("count", [2, 20, 21, 50])
def test_hex_colors_of_classes_are_distinct(count: int) -> None:
    palette = hex_palette(count)
    assert len(palette) == count
    assert len(set(palette[1:])) == count - 1  # background is not drawn
    assert all(len(color) == 7 and color.startswith("#") for color in palette)


def test_a_color_is_that_of_its_class_in_every_palette_and_no_grey() -> None:
    colors = hex_palette(60)
    assert hex_palette(14) == colors[:14]
    np.testing.assert_allclose(rgba_palette(14)[:, :3], [to_rgb(color) for color in colors[:14]])
    assert all(np.ptp(to_rgb(color)) > 0.25 for color in colors[1:])


def test_liver_and_stomach_differ_clearly() -> None:
    liver, stomach = (np.array(to_rgb(hex_palette(14)[k])) for k in (6, 7))
    assert np.abs(liver - stomach).max() > 0.3
