"""Answers to clicks by a random walker on the image (Grady, doi:10.1109/TPAMI.2006.233), of scikit-image.

The walker starts on the voxels around the click; background are voxels beyond a distance. It knows the present labels,
as the corrector does: only voxels that the click may change take part. `RADIUS_MM` and `BETA` are the best of six
pairs (20, 35 mm; 30, 130, 1000) on two training cases (``python -m benchmarks.clicks --methods walker
--walker RADIUS BETA``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from s2vnet.errors import InputError
from s2vnet.interactive.label_changes import LabelChange
from s2vnet.interactive.prompt_state import PromptState
from s2vnet.prompts import Point
from s2vnet.utils.components import components_at

RADIUS_MM = 35.0
"""Distance of the background's seeds from the click, mm."""
BETA = 1000.0
"""Penalty of intensity differences, with intensities of the window scaled to a standard deviation of one."""
_SEED_VOXELS = 1


def random_walker(
    image: npt.NDArray[np.float32], spacing: Sequence[float], radius_mm: float = RADIUS_MM, beta: float = BETA
) -> Callable[..., LabelChange]:
    """Answers of a random walker.

    Args:
        image: (I, J, K).
        spacing: mm of a voxel along i, j and k.
        radius_mm: distance of the background's seeds, mm.
        beta: penalty of intensity differences.

    Raises:
        InputError: scikit-image is not installed.
    """
    try:
        walk = import_module("skimage.segmentation").random_walker
    except ImportError as error:
        raise InputError("the random walker needs scikit-image: pip install scikit-image") from error

    def answer(labels: npt.NDArray[np.uint8], state: PromptState, click: Point, part: Any) -> LabelChange:
        centre, sizes = np.array(click.voxel), np.ceil(1.3 * radius_mm / np.array(spacing)).astype(int)
        low, high = np.maximum(centre - sizes, 0), np.minimum(centre + sizes + 1, labels.shape)
        block = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        at = centre - low
        may_change = (labels[block] != click.class_id) == click.positive
        grid = np.ogrid[tuple(slice(0, n) for n in may_change.shape)]
        away = np.sqrt(sum(((g - v) * s) ** 2 for g, v, s in zip(grid, at, spacing, strict=True)))
        steps = np.sqrt(sum((g - v) ** 2 for g, v in zip(grid, at, strict=True)))
        seeds = np.where(away > radius_mm, 2, 0)
        seeds[steps <= _SEED_VOXELS] = 1
        reached = components_at(may_change, at[None])  # the system of equations must be connected
        seeds[~reached] = -1
        changed = reached & (steps <= _SEED_VOXELS)
        if (seeds == 2).any() and (seeds == 0).any():
            window = (image[block] - image[block].mean()) / max(1e-6, float(image[block].std()))
            changed = walk(window, seeds, beta=beta, mode="cg_j", tol=1e-5, spacing=np.array(spacing)) == 1
        elif not (seeds == 2).any():  # all that may change is near
            changed = reached
        changed = components_at(changed, at[None])
        flat = np.ravel_multi_index(tuple((changed.nonzero()[n] + low[n]) for n in range(3)), labels.shape)
        before = labels.reshape(-1)[flat]
        return LabelChange(flat, before, np.full_like(before, click.class_id if click.positive else 0))

    return answer
