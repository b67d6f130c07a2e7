from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2vnet.data.training_ranges import TrainingRanges, range_warnings, slab_size, window_percentile
from s2vnet.io.geometry import Geometry, Volume

SEEN = TrainingRanges(
    spacing=((0.7, 0.7, 2.5), (1, 1, 5)), size=((300, 300, 200), (400, 400, 300)), tissue=((30.0, 80.0), (0.2, 0.3))
)
WINDOW = (-100.0, 200.0)


def _ct(spacing: tuple[float, float, float] = (10, 10, 4), tissue: float = 50, air: float = -1000) -> Volume:
    """A body of one value in air, 350 x 350 x 250 mm unless the spacing makes it so."""
    shape = (round(350 / spacing[0]), round(350 / spacing[1]), round(250 / spacing[2]))
    body = np.full((1, *shape), air, np.float32)
    body[:, 4:-4, 4:-4] = tissue
    return Volume(body, Geometry(shape, np.diag([*spacing, 1.0])))


def _found(volume: Volume, seen: TrainingRanges = SEEN) -> tuple[str, ...]:
    coarse = seen.model_copy(update={"spacing": ((7, 7, 2.5), (10, 10, 5)), "tissue": seen.tissue[:1]})
    return range_warnings(coarse, 2, [WINDOW], volume)


@pytest.mark.parametrize("air", [-1000, -1024, -2000, -125])
def test_a_volume_like_the_training_cases_has_nothing_to_say_whatever_its_padding(air: float) -> None:
    assert _found(_ct(air=air)) == ()


def test_slices_may_be_thicker_by_half_and_no_more_and_as_thin_as_they_like() -> None:
    assert _found(_ct((10, 10, 7))) == _found(_ct((10, 10, 0.5))) == ()
    assert _found(_ct((10, 10, 8))) == ("slices are 8 mm apart, in training 2.50 to 5.00 mm",)


@given(st.floats(0.1, 10))
def test_joined_slices_are_as_thick_as_in_training_to_a_third(distance: float) -> None:
    number = slab_size(SEEN, 2, distance)
    assert number == 1 or 2.5 * 2 / 3 <= number * distance <= 2.5 * 4 / 3
    assert number > 1 or distance >= 2.5 * 2 / 3


def test_finer_pixels_are_no_difference_but_coarser_ones_are() -> None:
    assert _found(_ct((3, 3, 4))) == ()
    assert _found(_ct((10, 25, 4))) == ("pixels are 25 mm large, in training 7.00 to 10.00 mm",)


def test_a_smaller_or_larger_field_of_view_is_named_by_its_axis() -> None:
    whole = _ct()
    part = Volume(whole.data[:, :, :, :20], Geometry((*whole.geometry.shape[:2], 20), whole.geometry.affine))
    assert _found(part) == ("the volume is 80 mm long from foot to head, in training 200 to 300 mm",)
    # the same voxels with file axes in another order are the same volume
    turned = Volume(
        np.moveaxis(part.data, 3, 1), Geometry((20, *part.geometry.shape[:2]), part.geometry.affine[:, [2, 0, 1, 3]])
    )
    assert _found(turned) == _found(part)


def test_contrast_phases_pass_and_an_offset_does_not() -> None:
    assert _found(_ct(tissue=115)) == ()
    assert _found(_ct(tissue=150)) == ("typical tissue has 150 HU, in training 30 to 80",)
    assert "0.0% of the voxels lie within -100 to 200 HU" in _found(_ct(tissue=1074, air=-24 + 300))[0]


def test_channels_without_a_common_scale_are_not_compared() -> None:
    two = Volume(np.concatenate([_ct().data, np.full_like(_ct().data, 9e5)]), _ct().geometry)
    coarse = SEEN.model_copy(update={"spacing": ((7, 7, 2.5), (10, 10, 5))})
    assert range_warnings(coarse, 2, [WINDOW, None], two) == ()


def test_another_contrast_phase_is_asked_about() -> None:
    seen = SEEN.model_copy(update={"bright": ((110.0, 160.0), (0.8, 1.0))})
    coarse = seen.model_copy(
        update={"spacing": ((7, 7, 2.5), (10, 10, 5)), "tissue": seen.tissue[:1], "bright": seen.bright[:1]}
    )

    def enhanced(vessels: float) -> tuple[str, ...]:
        body = _ct()
        body.data[:, 8:18, 8:28] = vessels
        return range_warnings(coarse, 2, [WINDOW], body)

    assert enhanced(95) == enhanced(175) == ()
    assert enhanced(60) == (
        "5% of the tissue have more than 60 HU, in training 110 to 160; is this another contrast phase?",
    )
    assert enhanced(190) != ()


def test_tissue_is_the_median_strictly_inside_the_window() -> None:
    values = np.array([-100, 0, 10, 20, 200, 200, 200], np.float32)
    assert window_percentile(values, -100, 200) == 10
    assert window_percentile(values, -100, 200, 100) < 200
    assert math.isnan(window_percentile(values, 500, 600))
