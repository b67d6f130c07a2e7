"""Segmentation of a case by a 2D or 3D network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from benchmarks.peers.batches import pad_to
from benchmarks.peers.networks import Patch
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case, with_neighbours

SLICES_PER_BATCH = 8
OVERLAP = 0.25
"""Overlap of sliding windows, MONAI's default. With nnU-Net's 0.5, a scan or a click takes 2 to 4 times as long."""


@torch.inference_mode()
def segment_slices(network: nn.Module, case: Case, plan: Plan, multiple: Patch, device: torch.device) -> Tensor:
    """Class probabilities (D, K, H, W) by a 2D network; slices are padded to multiples of ``multiple`` (H, W)."""
    depth, *size = case.image.shape[1:]
    shape = [m * -(-n // m) for n, m in zip(size, multiple, strict=True)]
    parts = []
    for start in range(0, depth, SLICES_PER_BATCH):
        indices = range(start, min(start + SLICES_PER_BATCH, depth))
        slices = torch.from_numpy(with_neighbours(case.image, indices, plan.context_slices))
        logits = finest_output(network(pad_to(slices.flatten(0, 1), shape).unflatten(0, slices.shape[:2]).to(device)))
        parts.append(logits[..., : size[0], : size[1]].softmax(1).half().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def segment_volume(network: nn.Module, image: Tensor, patch: Patch, device: torch.device) -> Tensor:
    """Class probabilities (D, K, H, W) of an image (C, D, H, W) by a 3D network with sliding windows."""
    depth, height, width = image.shape[1:]
    padded = pad_to(image, patch).to(device)[None]
    logits = sliding_window_inference(
        padded, patch, 1, lambda window: finest_output(network(window)), overlap=OVERLAP, mode="gaussian", device="cpu"
    )
    scores: Tensor = logits[0, :, :depth, :height, :width].softmax(0).half().transpose(0, 1)
    return scores


def finest_output(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Output of the highest resolution of a network with deep supervision, or its only output."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
