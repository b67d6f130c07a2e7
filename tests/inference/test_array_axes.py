"""Axes of an array that states none are found up to left and right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s2vnet.inference.array_axes import MARGIN, SIMPLEITK_AXES, guess_axes, most_plausible, recognition
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.files import read_image
from s2vnet.model.interface import DecoderOutput

HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "Dataset004_Hippocampus" / "imagesTr"
"""Images of another folder, which may be absent."""
DIRECTIONS = {"S": "SI", "I": "SI", "P": "PA", "A": "PA", "L": "LR", "R": "LR"}


def agreement(true: str, codes: str) -> float:
    """How well codes describe an image with other ones: the axis order most, left and right least."""
    order = sum(DIRECTIONS[a] == DIRECTIONS[b] for a, b in zip(true, codes, strict=True))
    same = sum(a == b and a not in "LR" for a, b in zip(true, codes, strict=True))
    return 10 ** (order + same) * (1.5 if set(true) & set(codes) & {"L", "R"} else 1)


@pytest.mark.parametrize("true", ["SPL", "SAR", "LPS", "RAS", "IAL", "PSR", "ALI", "RIP"])
def test_order_front_and_head_are_found_and_left_is_assumed(true: str) -> None:
    assert most_plausible(lambda codes, _: agreement(true, codes)) == true.replace("R", "L")


def test_without_clear_evidence_the_usual_axes_are_kept() -> None:
    assert most_plausible(lambda *_: 0.0) == SIMPLEITK_AXES
    assert most_plausible(lambda codes, _: MARGIN - 0.01 if codes == "LPS" else 1.0) == SIMPLEITK_AXES
    assert most_plausible(lambda codes, _: MARGIN + 0.01 if codes == "LPS" else 1.0) == "LPS"


def test_left_and_right_do_not_matter() -> None:
    scores = ({"SAR": 9.0, "SAL": 3.0}, {"SAL": 9.0, "SAR": 3.0})
    assert {most_plausible(lambda codes, _, known=known: known.get(codes, 1.0)) for known in scores} == {"SAL"}  # type: ignore[misc]


def test_certainty_counts_and_area_does_not() -> None:
    small, large = torch.full((1, 2, 8, 8), 0.0), torch.full((1, 2, 8, 8), 0.0)
    small[:, 1] = -9
    small[:, 1, :2, :2] = 9
    large[:, 1] = 0.5
    presence = torch.full((1, 2), 9.0)
    scores = [recognition(DecoderOutput(logits, presence, (), None)) for logits in (small, large)]  # type: ignore[arg-type]
    assert scores[0] > scores[1]


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the public hippocampus images are not here")
@pytest.mark.parametrize(("axes", "codes"), [((2, 1, 0), "SAL"), ((1, 2, 0), "PSL")])
def test_a_bundled_model_finds_the_axes_of_public_images(axes: tuple[int, ...], codes: str) -> None:
    image = read_image(HIPPOCAMPUS / "hippocampus_001_0000.nii.gz")  # stored R, A, S
    array = image.data.transpose(0, *(1 + a for a in axes))
    array = np.flip(array, 1) if codes[0] == "P" else array
    segmenter = Segmenter.from_pretrained("hippocampus-mr", device="cpu")
    assert guess_axes(segmenter, array, [image.geometry.spacing[a] for a in axes]) == codes
