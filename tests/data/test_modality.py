"""Images whose voxels or header contradict a model's modality."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from s2vnet.data.modality import modality_conflict, model_modality
from s2vnet.io.geometry import Geometry, Volume

RNG = np.random.default_rng(0)
SHAPE = (20, 20, 10)


def blocks(*values: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    """Voxels of normal distributions: (fraction, mean, standard deviation) of each."""
    parts = [RNG.normal(mean, std, int(share * 4000)) for share, mean, std in values]
    return np.resize(np.concatenate(parts), SHAPE).astype(np.float32)


CT = blocks((0.4, -1000, 10), (0.2, -100, 15), (0.4, 50, 20))
IMAGES = {
    "CT with air": (CT, "CT"),
    "CT clipped to a soft-tissue window": (CT.clip(-125, 275), "CT"),
    "CT of the body alone": (blocks((0.1, -100, 15), (0.9, 50, 20)), "CT"),
    "MR of positive values": (blocks((0.5, 5, 2), (0.5, 400, 100)).clip(0), "MR"),
    "MR as z-scores": (blocks((0.5, -0.8, 0.1), (0.5, 1, 0.5)), "MR"),
    "CT without its intercept": (CT.clip(-1024) + 1024, "none"),
    "CT scaled to 0..1": ((CT.clip(-1000, 400) + 1000) / 1400, "none"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_voxels_tell_ct_in_hu_from_others(name: str) -> None:
    data, modality = IMAGES[name]
    image = Volume(data[None], Geometry(SHAPE, np.eye(4)))
    by_ct, by_mr = modality_conflict("CT", image), modality_conflict("MR", image)
    assert (by_ct is None) == (modality == "CT")
    assert (by_mr is not None) == (name in ("CT with air", "CT clipped to a soft-tissue window"))
    assert modality_conflict(None, image) is None
    for text in (by_ct, by_mr):
        assert text is None or "\n" not in text


def test_a_header_counts_more_than_voxels() -> None:
    voxels, grid = IMAGES["MR of positive values"][0][None], Geometry(SHAPE, np.eye(4))
    ct, pet, other = (Volume(voxels, grid, stated) for stated in ("CT", "PT", "OT"))
    assert modality_conflict("CT", ct) is None
    assert modality_conflict("MR", ct) == "CT by its DICOM header, and the model is for MR"
    assert modality_conflict("CT", pet) == "PT by its DICOM header, and the model is for CT"
    assert "no CT in HU" in (modality_conflict("CT", other) or "")


@pytest.mark.parametrize(
    ("channels", "modality"),
    [
        (("CT",), "CT"),
        (("MRI",), "MR"),
        (("T1", "FLAIR"), "MR"),
        (("cta CT phase",), "CT"),
        (("either_CT_or_MR",), None),
        (("CT", "PET"), None),
        (("image",), None),
        ((), None),
    ],
)
def test_channels_name_the_modality(channels: tuple[str, ...], modality: str | None) -> None:
    assert model_modality(channels) == modality
