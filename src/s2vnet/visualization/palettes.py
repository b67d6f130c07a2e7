"""Color palettes of classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import to_hex

OPACITY = 0.45
"""Opacity of classes in overlays."""


def rgba_palette(count: int) -> npt.NDArray[np.float64]:
    """Return RGBA colors (count, 4) of classes at :data:`OPACITY`; background is transparent."""
    if count <= 10:
        palette = np.array([colormaps["tab20"](n % 20) for n in range(0, 2 * count, 2)])
    else:
        palette = colormaps["gist_rainbow"](np.linspace(0, 1, count))
    rolled = np.roll(palette, 1, axis=0)
    rolled[:, 3] = OPACITY
    rolled[0, 3] = 0
    return rolled


def hex_palette(count: int) -> list[str]:
    """Return ``#rrggbb`` colors of classes; consecutive colors differ clearly."""
    if count <= 20:
        return [to_hex(colormaps["tab20"]((2 * n - 2) % 20 + (n > 10))) for n in range(count)]
    return [to_hex(colormaps["gist_rainbow"](n * 0.381966 % 1)) for n in range(count)]  # steps of the golden angle
