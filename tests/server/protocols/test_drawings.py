"""Drawings become scribbles or masks."""

from __future__ import annotations

import numpy as np
import pytest

from s2vnet.errors import InputError
from s2vnet.prompts import Mask, Scribble
from s2vnet.server.protocols import drawings
from s2vnet.server.protocols.drawings import drawing_prompt, drawn_voxels


def test_voxels_are_those_above_zero_from_the_first_voxel_on() -> None:
    drawing = np.zeros((2, 3, 4), bool)
    drawing[1, 2, 3] = True
    assert drawn_voxels(drawing).tolist() == [[1, 2, 3]]
    assert drawn_voxels(drawing, (10, 20, 30)).tolist() == [[11, 22, 33]]
    with pytest.raises(InputError, match="the drawing holds no voxel"):
        drawn_voxels(np.zeros((2, 2, 2), bool))


def test_large_scribbles_and_lassos_are_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.array([[0, 0, 0], [1, 1, 1]])
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    scribble = Scribble(class_id=3, positive=False, voxels=((0, 0, 0), (1, 1, 1)))
    assert drawing_prompt(voxels, (2, 2, 2), 3, False, scribble=True) == scribble
    assert drawing_prompt(voxels, (2, 2, 2), 3, False, scribble=False) == Mask.from_array(mask, 3, False)
    monkeypatch.setattr(drawings, "MAX_SCRIBBLE_VOXELS", 1)
    assert drawing_prompt(voxels, (2, 2, 2), 3, False, scribble=True) == Mask.from_array(mask, 3, False)
    with pytest.raises(InputError, match="reaches outside the volume"):
        drawing_prompt(voxels, (2, 1, 2), 3, False, scribble=False)
