"""A tiny network with random weights: what inference promises does not depend on what was learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from s2vnet.config import ModelConfig
from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.inference.segmenter import Segmenter
from s2vnet.io.geometry import Geometry, Volume
from s2vnet.model.checkpoint import save_model
from s2vnet.model.s2vnet import S2VNet
from s2vnet.server.model_library import ModelLibrary

BORDER = 2
"""Zero voxels around the image, which the plan crops."""

ORIENTATIONS = {"RAS": ("RAS", (1, 1, 1)), "LPS": ("RAS", (-1, -1, 1)), "permuted": ("SRA", (1, 1, 1))}
ORIENTATIONS |= {"permuted and flipped": ("ASR", (-1, 1, -1))}

MakeModel = Callable[..., S2VNet]
SaveModel = Callable[..., Path]


def reoriented(volume: Volume, order: str, signs: tuple[int, int, int]) -> Volume:
    """The same voxels at the same places of the world, with the file's axes permuted and flipped."""
    axes = ["RAS".index(letter) for letter in order]
    flipped = tuple(n for n, sign in enumerate(signs) if sign < 0)
    data = np.flip(volume.data.transpose(0, *(1 + a for a in axes)), [1 + n for n in flipped])
    affine = volume.geometry.affine.copy()
    affine[:3, :3] = affine[:3, axes]
    for n in flipped:
        affine[:3, 3] += affine[:3, n] * (data.shape[1 + n] - 1)
        affine[:3, n] *= -1
    i, j, k = data.shape[1:]
    return Volume(np.ascontiguousarray(data), Geometry((i, j, k), affine))


def plan_of(channels: int = 1, **changes: Any) -> Plan:
    """An axial plan at 1 mm with one neighbour on either side and three classes."""
    values: dict[str, Any] = {
        "dataset": "phantom",
        "channels": tuple(f"channel {n}" for n in range(channels)),
        "labels": {"background": 0, "left part": 1, "right": 2},
        "plane": "axial",
        "spacing": (1.0, 1.0),
        "patch_size": (16, 16),
        "intensities": (IntensityScheme(kind="zscore"),) * channels,
        "crop_to_nonzero": True,
        "encoder": "tiny",
        "stem_stride": 1,
    }
    return Plan(**(values | changes))


def model_of(plan: Plan | None = None, seed: int = 0, reach: float = 1.0, **changes: Any) -> S2VNet:
    """Random weights, spread so that classes appear and prompts matter; `reach` scales what is carried along."""
    plan = plan_of() if plan is None else plan
    config = {"in_channels": plan.in_channels, "num_classes": plan.num_classes, "stem_stride": plan.stem_stride}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = S2VNet(ModelConfig.model_validate(config | {"dim": 32, "mask_dim": 8} | changes)).eval()
        torch.nn.init.normal_(model.fuse[-1].weight, std=0.2 * reach)
        torch.nn.init.constant_(model.centre_norm.weight, reach)
        torch.nn.init.normal_(model.mask_head[-1].weight, std=0.6)
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """:func:`model_of`."""
    return model_of


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """:func:`plan_of`."""
    return plan_of


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """``save(plan=None, seed=0, **changes)``: folder of a saved random model."""

    def save_one(plan: Plan | None = None, seed: int = 0, **changes: Any) -> Path:
        plan = plan_of() if plan is None else plan
        folder = tmp_path_factory.mktemp("model")
        save_model(folder, model_of(plan, seed, **changes), plan.model_dump(mode="json"), {})
        return folder

    return save_one


@pytest.fixture(scope="session")
def model_folder(save: SaveModel, bordered: Volume) -> Path:
    """A random model that finds every class in the bordered image."""
    for seed in range(50):
        folder = save(seed=seed)
        labels = Segmenter.from_pretrained(folder, device="cpu").segment(bordered).labels().data
        if np.bincount(labels.ravel(), minlength=3).min() > 100:
            return folder
    raise AssertionError("no seed gives every class")


@pytest.fixture(scope="session")
def segmenter(model_folder: Path) -> Segmenter:
    """The default random model, loaded."""
    return Segmenter.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="session")
def library(segmenter: Segmenter, model_folder: Path) -> ModelLibrary:
    """The default random model, loaded, as the only one of a server."""
    return ModelLibrary.of(segmenter, model_folder)


@pytest.fixture(scope="session")
def bordered() -> Volume:
    """Blobs in noise, 14 x 16 x 9 voxels of 0.8 x 1.1 x 2.5 mm on an oblique grid, in a border of zeros."""
    rng = np.random.default_rng(3)
    blobs = ndimage.gaussian_filter(rng.normal(0, 1, (14, 16, 9)), 1.5) * 400
    data = np.pad(blobs + rng.normal(500, 5, blobs.shape), BORDER).astype(np.float32)[None]
    c, s = np.cos(0.25), np.sin(0.25)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3] = np.column_stack([turn * (0.8, 1.1, 2.5), (-31.5, 12.25, 7.0)])
    return Volume(data, Geometry((18, 20, 13), affine))


@pytest.fixture(params=ORIENTATIONS)
def oriented(request: pytest.FixtureRequest, bordered: Volume) -> tuple[Volume, Volume, str]:
    """The bordered phantom, the same with other file axes, and the orientation's name."""
    return bordered, reoriented(bordered, *ORIENTATIONS[request.param]), request.param
