"""Images in the data type of their files."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.io import lazy_image
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.io.lazy_image import Channel, as_lazy_image


def test_nonfinite_voxels_of_all_parts_are_counted_and_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_image, "CHUNK_VOXELS", 20)
    values = np.ones((3, 4, 5), np.float64)
    values[0, 0, 0], values[1, 2, 3], values[2, 3, 4] = np.nan, np.inf, 1e300
    with pytest.raises(InputError, match="3 of 60 voxels are NaN or infinite; repair the image or fill them"):
        Channel(values).require_finite(None)
    filled = Channel(values).require_finite(-7).to_float32()
    assert filled.dtype == np.float32
    assert np.array_equal(filled == -7, ~(values == 1))
    finite = Channel(np.ones((3, 4, 5)))
    assert finite.require_finite(None) is finite


def test_samples_are_values_of_the_channel() -> None:
    channel = Channel(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), lambda part: part.astype(np.float32) * 2)
    assert np.isin(channel.sample(100), channel.to_float32()).all()
    assert len(channel.sample(100)) == 100
    assert len(channel.sample(5000)) == 1000


def test_a_volume_is_not_copied() -> None:
    volume = Volume(np.zeros((2, 3, 4, 5), np.float32), Geometry((3, 4, 5), np.eye(4)))
    image = as_lazy_image(volume)
    assert as_lazy_image(image) is image
    assert all(np.shares_memory(channel.to_float32(), volume.data) for channel in image.channels)
