"""Time of other networks on one patch, and of a scan by its number of patches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.measures.timing import time_calls
from benchmarks.peers.networks import Patch, build_network

CLASSES = 14
REPEATS = 3
"""Patches that are timed, after a first one."""


class Inference(NamedTuple):
    """How a network divides a scan."""

    patch: Patch
    spacing: tuple[float, ...]
    """Voxel size in mm."""
    mirrored: int
    """Predictions per patch with mirroring."""


INFERENCE = {
    "nnunet3d": Inference((48, 192, 192), (3.0, 0.76, 0.76), 8),
    "nnunet2d": Inference((512, 512), (0.76, 0.76), 4),
    "swinunetr": Inference((96, 96, 96), (2.0, 1.5, 1.5), 1),
    "unetr": Inference((96, 96, 96), (2.0, 1.5, 1.5), 1),
    "nninteractive": Inference((96, 96, 96), (1.0, 1.0, 1.0), 1),
}
NNINTERACTIVE_SCALE = 8
"""nnInteractive's patch has 192 voxels a side; one of 96 is timed."""
NNINTERACTIVE_CHANNELS = 8


def time_patch(name: str) -> dict[str, float]:
    """Seconds and CPU seconds of one patch."""
    network = _network(name).eval()
    decoder = getattr(network, "decoder", None)
    if hasattr(decoder, "deep_supervision"):
        decoder.deep_supervision = False  # type: ignore[union-attr]
    channels = NNINTERACTIVE_CHANNELS if name == "nninteractive" else 1
    patch = torch.randn(1, channels, *INFERENCE[name].patch)
    with torch.inference_mode():
        times = time_calls(lambda: network(patch), REPEATS)
    return {key: value * (NNINTERACTIVE_SCALE if name == "nninteractive" else 1) for key, value in times.items()}


def scan_time(name: str, size_mm: tuple[float, float, float], slices: int, patch: dict[str, Any]) -> dict[str, Any]:
    """Time of a scan of a size (D, H, W) in mm: that of a patch times the patches at an overlap of one half."""
    inference = INFERENCE[name]
    size = size_mm[-len(inference.patch) :]
    per_axis = [
        max(1, math.ceil((mm / spacing - voxels) / (voxels / 2)) + 1)
        for mm, spacing, voxels in zip(size, inference.spacing, inference.patch, strict=True)
    ]
    patches = math.prod(per_axis) * (slices if len(inference.patch) == 2 else 1)
    seconds = patches * patch["seconds"]
    return {
        "patches": patches,
        "seconds": seconds,
        "mirrored_seconds": inference.mirrored * seconds,
        "cpu_seconds": patches * patch["cpu_seconds"],
        "peak_mb": patch["peak_mb"],
    }


def _network(name: str) -> nn.Module:
    """Build a network; nnInteractive's is nnU-Net's ResEnc L.

    https://github.com/MIC-DKFZ/nnUNet, documentation/resenc_presets.md
    """
    if name == "swinunetr":
        from monai.networks.nets.swin_unetr import SwinUNETR

        swin: nn.Module = SwinUNETR(1, CLASSES, feature_size=48)
        return swin
    if name != "nninteractive":
        return build_network(name, 1, CLASSES, INFERENCE[name].patch, INFERENCE[name].spacing)
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    network: nn.Module = ResidualEncoderUNet(
        NNINTERACTIVE_CHANNELS,
        6,
        (32, 64, 128, 256, 320, 320),
        nn.Conv3d,
        3,
        [1, 2, 2, 2, 2, 2],
        (1, 3, 4, 6, 6, 6),
        2,
        (1,) * 5,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return network
