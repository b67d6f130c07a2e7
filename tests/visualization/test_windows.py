"""The window is the viewer's: that of the abdomen for CT, percentiles for others."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.visualization.windows import CT_WINDOW, default_window


@pytest.mark.parametrize(
    ("channel", "is_ct"), [("CT", True), ("ct venous", True), ("T1", False), ("CTX", False), (None, False)]
)
def test_window_of_a_channel(channel: str | None, is_ct: bool) -> None:
    image = np.linspace(0, 1000, 1001, dtype=np.float32)
    assert default_window(image, channel) == (CT_WINDOW if is_ct else pytest.approx((20, 980)))


def test_nan_is_left_out() -> None:
    assert default_window(np.array([0, np.nan, 0], np.float32), None) == (0, 0)
