"""Range of intensities that pictures show, the same as the viewer's."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

CT_WINDOW = (-160.0, 240.0)
"""Of the abdomen, HU: level 40, width 400."""
_PERCENTILES = (2, 98)
_CT = re.compile(r"ct\b", re.IGNORECASE)


def default_window(image: npt.NDArray[np.floating], channel: str | None) -> tuple[float, float]:
    """Return the intensities shown as black and white.

    Args:
        image: intensities of one channel, of any shape.
        channel: the channel's name in the plan; that of CT begins with "CT". None if it is not known.

    Returns:
        :data:`CT_WINDOW` for CT, else the range between the 2nd and 98th percentiles.
    """
    if channel is not None and _CT.match(channel):
        return CT_WINDOW
    low, high = np.nanpercentile(image, _PERCENTILES)
    return float(low), float(high)
