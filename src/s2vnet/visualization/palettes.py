"""Color palette of classes, shared by pictures, files and the viewer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb, to_hex, to_rgb

OPACITY = 0.45
"""Opacity of classes in overlays."""
BACKGROUND = "#808080"
COLORS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#695aff", "#00ff96",
    "#4bffff", "#e10f4b", "#6987f0", "#e1965a", "#c33ca5", "#69ffc3", "#96ff78", "#ff6987",
    "#1ec3d2", "#69d2b4", "#d200c3", "#d23c2d", "#b4d24b", "#5ad278", "#ff3cff", "#3c874b",
    "#00ffe1", "#d22d87", "#a5962d", "#ff96ff", "#2d87d2", "#f0c300", "#ff96a5", "#ff783c",
)  # fmt: skip
"""Colors of classes 1, 2, ...: those of Okabe and Ito (2008), then each the farthest in CIELAB from all before it, also
as protanopes and deuteranopes see them (Machado et al., 2009); no grey, which would be lost on an image."""


def rgba_palette(count: int) -> npt.NDArray[np.float64]:
    """Return RGBA colors (count, 4) of classes at :data:`OPACITY`; background is transparent."""
    palette = np.array([(*to_rgb(color), OPACITY) for color in hex_palette(count)])
    palette[0, 3] = 0
    return palette


def hex_palette(count: int) -> list[str]:
    """Return ``#rrggbb`` colors of classes 0 to ``count`` - 1; those of a class do not depend on the count."""
    further = (_further_color(n) for n in range(count - 1 - len(COLORS)))
    return [BACKGROUND, *COLORS, *further][:count]


def _further_color(n: int) -> str:
    """Color beyond the table: hues in steps of the golden angle, at saturations and values in turn."""
    hue, saturation, value = n * 0.381966 % 1, 0.95 - 0.1 * (n % 5), 1 - 0.07 * (n % 4)
    return to_hex(hsv_to_rgb((hue, saturation, value)))
