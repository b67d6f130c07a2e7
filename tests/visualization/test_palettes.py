from __future__ import annotations

import numpy as np
import pytest

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
