"""Architectures that s2vnet is compared with, at patch and voxel sizes derived from the cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.unetr import UNETR
from torch import nn

from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case

DIMENSIONS = {"unet2d": 2, "unet3d": 3, "nnunet2d": 2, "nnunet3d": 3, "unetr": 3, "clicknet": 3}
SMALL_WIDTHS = {2: (24, 48, 96, 192), 3: (16, 32, 64, 128)}
"""Channels per resolution of the U-Nets, as wide as the encoders `compact` and `tiny`."""
NNUNET_WIDTHS = {2: (32, 64, 128, 256, 512, 512, 512), 3: (32, 64, 128, 256, 320, 320)}
"""Channels per resolution of nnU-Net."""
MULTIPLE = 16
"""Patch sizes in plane are multiples of this (UNETR's tokens); along slices multiples of 8, or of 16 for UNETR."""

Patch = tuple[int, ...]


def build_network(name: str, channels: int, classes: int, patch: Patch, spacing: Sequence[float]) -> nn.Module:
    """Build an untrained network.

    Args:
        name: key of :data:`DIMENSIONS`.
        channels: of the input.
        classes: with background.
        patch: size (H, W) or (D, H, W) in voxels.
        spacing: voxel size in mm, in the order of ``patch``.

    Raises:
        ImportError: its library is missing.
    """
    dimensions = len(patch)
    if name == "unetr":
        return cast(nn.Module, UNETR(channels, classes, patch))
    widths = max_widths(name, dimensions)
    strides, kernels = strides_and_kernels(patch, spacing, len(widths))
    widths = widths[: len(strides)]
    if not name.startswith("nnunet"):
        return cast(nn.Module, DynUNet(dimensions, channels, classes, kernels, strides, strides[1:], filters=widths))
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network: nn.Module = PlainConvUNet(
        channels,
        len(widths),
        widths,
        nn.Conv3d if dimensions == 3 else nn.Conv2d,
        kernels,
        strides,
        2,
        classes,
        2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d if dimensions == 3 else nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    return network


def max_widths(name: str, dimensions: int) -> tuple[int, ...]:
    """Channels per resolution of a U-Net with all its resolutions."""
    return (NNUNET_WIDTHS if name.startswith("nnunet") else SMALL_WIDTHS)[dimensions]


def size_multiple(name: str, patch: Patch, spacing: Sequence[float]) -> Patch:
    """Product of a U-Net's strides per axis; image sizes must be multiples of it."""
    strides, _ = strides_and_kernels(patch, spacing, len(max_widths(name, len(patch))))
    return tuple(math.prod(stride[axis] for stride in strides) for axis in range(len(patch)))


def strides_and_kernels(
    patch: Patch, spacing: Sequence[float], max_stages: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Strides and kernel sizes of each resolution by nnU-Net's rule.

    An axis is halved while at least 4 voxels remain and its spacing is less than twice the finest; until its spacing is
    that fine, its kernels have size 1 (get_pool_and_conv_props of https://github.com/MIC-DKFZ/nnUNet).
    """
    size, voxel = list(patch), list(spacing)
    axes = range(len(size))
    strides = [[1] * len(size)]
    kernels = [[3 if voxel[a] < 2 * min(voxel) else 1 for a in axes]]
    while len(strides) < max_stages:
        divisible = [a for a in axes if size[a] >= 8 and size[a] % 2 == 0]
        halved = [a for a in divisible if voxel[a] < 2 * min(voxel[b] for b in divisible)]
        if not halved:
            break
        stride = [2 if a in halved else 1 for a in axes]
        size = [n // s for n, s in zip(size, stride, strict=True)]
        voxel = [v * s for v, s in zip(voxel, stride, strict=True)]
        strides.append(stride)
        kernels.append([3 if voxel[a] < 2 * min(voxel) or kernels[-1][a] == 3 else 1 for a in axes])
    return strides, kernels


def patch_size(name: str, cases: Sequence[Case], plan: Plan, largest: Patch) -> Patch:
    """Patch size of a network: (H, W) of the plan, or (D, H, W) that holds every case, at most ``largest``."""
    if DIMENSIONS[name] == 2:
        return plan.patch_size
    multiples = (MULTIPLE if name == "unetr" else 8, MULTIPLE, MULTIPLE)
    largest_case = [max(case.image.shape[a] for case in cases) for a in (1, 2, 3)]
    sizes = [min(n, m) for n, m in zip(largest_case, largest, strict=True)]
    return tuple(m * -(-n // m) for n, m in zip(sizes, multiples, strict=True))


def median_spacing(cases: Sequence[Case], plan: Plan) -> tuple[float, float, float]:
    """Median voxel size (D, H, W) in mm of preprocessed cases."""
    slices = [case.grid.geometry.canonical()[0].spacing[plan.axis] for case in cases]
    return float(np.median(slices)), *plan.spacing
