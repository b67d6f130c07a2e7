"""Networks of others, on the same cases, with our optimiser, schedule, weight average and kinds of augmentation.

2D ones see the clips that ours sees, taken apart into slices; 3D ones see patches, whole volumes where they fit in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from monai.losses.dice import DiceCELoss
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.unetr import UNETR
from monai.transforms.compose import Compose
from monai.transforms.spatial.dictionary import RandAffined
from torch import Tensor, nn

from s2vnet.config import Strength, TrainConfig
from s2vnet.data.augment import affine_parameters, intensity_transforms
from s2vnet.data.clips import ClipDataset
from s2vnet.data.plan import Plan
from s2vnet.data.preprocess import Case, with_neighbours
from s2vnet.training.trainer import deferred_interrupts, learning_rate, make_average, make_optimizer
from s2vnet.utils.atomic_write import atomic_write, disk_errors
from s2vnet.utils.memory import keep_memory

DIMENSIONS = {"unet2d": 2, "unet3d": 3, "nnunet2d": 2, "nnunet3d": 3, "unetr": 3, "clicknet": 3}
SMALL_WIDTHS = {2: (24, 48, 96, 192), 3: (16, 32, 64, 128)}
"""Of the U-Nets as wide as our encoders `compact` and `tiny`."""
NNUNET_WIDTHS = {2: (32, 64, 128, 256, 512, 512, 512), 3: (32, 64, 128, 256, 320, 320)}
"""nnU-Net's own."""
VOLUMES_PER_STEP = 2
MULTIPLE = 16
"""Patches are whole multiples of this many cells in plane (UNETR's tokens); along slices of 8, or 16 for UNETR."""
SLICES_AT_ONCE = 8
OVERLAP = 0.25
"""Of sliding windows: MONAI's default. nnU-Net's 0.5 doubles to quadruples the seconds per scan and per click."""
HISTORY_STEPS = 10

Patch = tuple[int, ...]
Batch = tuple[Tensor, Tensor]
Objective = Callable[[nn.Module, int], Tensor]
"""Loss of a network at a step. All randomness comes from the step, so that a resumed run sees the same."""


def build(name: str, channels: int, classes: int, patch: Patch, spacing: Sequence[float]) -> nn.Module:
    """An untrained network for patches of a size in cells, of cells of a size in mm.

    Raises:
        ImportError: its library is missing.
    """
    dimensions = len(patch)
    if name == "unetr":
        return cast(nn.Module, UNETR(channels, classes, patch))
    widths = widths_of(name, dimensions)
    strides, kernels = stages(patch, spacing, len(widths))
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


def widths_of(name: str, dimensions: int) -> tuple[int, ...]:
    """Channels at each resolution, at most."""
    return (NNUNET_WIDTHS if name.startswith("nnunet") else SMALL_WIDTHS)[dimensions]


def multiple_of(name: str, patch: Patch, spacing: Sequence[float]) -> Patch:
    """Cells that images must be whole multiples of for a U-Net."""
    strides, _ = stages(patch, spacing, len(widths_of(name, len(patch))))
    return tuple(math.prod(stride[axis] for stride in strides) for axis in range(len(patch)))


def stages(patch: Patch, spacing: Sequence[float], most: int) -> tuple[list[list[int]], list[list[int]]]:
    """Strides and kernels of each resolution, by nnU-Net's rule.

    An axis is halved while 4 cells are left and its cells are less than twice as coarse as the finest; its kernels are
    1 until then (get_pool_and_conv_props of https://github.com/MIC-DKFZ/nnUNet).
    """
    size, grid = list(patch), list(spacing)
    axes = range(len(size))
    strides = [[1] * len(size)]
    kernels = [[3 if grid[a] < 2 * min(grid) else 1 for a in axes]]
    while len(strides) < most:
        able = [a for a in axes if size[a] >= 8 and size[a] % 2 == 0]
        able = [a for a in able if grid[a] < 2 * min(grid[b] for b in able)]
        if not able:
            break
        stride = [2 if a in able else 1 for a in axes]
        size = [n // s for n, s in zip(size, stride, strict=True)]
        grid = [g * s for g, s in zip(grid, stride, strict=True)]
        strides.append(stride)
        kernels.append([3 if grid[a] < 2 * min(grid) or kernels[-1][a] == 3 else 1 for a in axes])
    return strides, kernels


def patch_of(name: str, cases: Sequence[Case], plan: Plan, largest: Patch) -> Patch:
    """Cells of a network's patches: (H, W) of the plan, or (D, H, W) that hold every case as far as `largest` lets."""
    if DIMENSIONS[name] == 2:
        return plan.patch_size
    multiples = (MULTIPLE if name == "unetr" else 8, MULTIPLE, MULTIPLE)
    most = [max(case.image.shape[a] for case in cases) for a in (1, 2, 3)]
    bounds = [min(n, m) for n, m in zip(most, largest, strict=True)]
    return tuple(m * -(-n // m) for n, m in zip(bounds, multiples, strict=True))


def grid_of(cases: Sequence[Case], plan: Plan) -> tuple[float, float, float]:
    """Median cell size (D, H, W) in mm."""
    slices = [case.grid.geometry.canonical()[0].spacing[plan.axis] for case in cases]
    return float(np.median(slices)), *plan.spacing


class Slices:
    """Batches of slices (N, C, H, W) with labels (N, 1, H, W): the clips that ours trains on, taken apart."""

    def __init__(self, cases: Sequence[Case], plan: Plan, config: TrainConfig) -> None:
        self.many = config.batch_size
        self.data = ClipDataset(cases, plan.patch_size, plan.context_slices, config, 10**9)

    def __call__(self, step: int) -> Batch:
        """Batch of a step."""
        clips = [self.data[step * self.many + n] for n in range(self.many)]
        return torch.cat([c.slices for c in clips]), torch.cat([c.labels for c in clips])[:, None]


class Patches:
    """Batches of patches (N, C, D, H, W) with labels (N, 1, D, H, W), balanced over classes as our clips are."""

    def __init__(self, cases: Sequence[Case], patch: Patch, config: TrainConfig) -> None:
        self.cases, self.patch, self.config = [c for c in cases if c.labels is not None], patch, config
        shown = [set(np.unique(case.labels).tolist()) - {0} for case in self.cases]  # type: ignore[arg-type]
        self.having = {k: [n for n, s in enumerate(shown) if k in s] for k in sorted(set().union(*shown))}
        self.transform = augmentation(patch, config.augmentation)

    def __call__(self, step: int) -> Batch:
        """Batch of a step."""
        rng = np.random.default_rng((self.config.seed, step))
        samples = [self._sample(rng) for _ in range(VOLUMES_PER_STEP)]
        return torch.stack([s["image"] for s in samples]), torch.stack([s["labels"] for s in samples]).long()

    def _sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        case, centre = self._choose(rng)
        assert case.labels is not None
        window = []
        for middle, size, patch in zip(centre, case.labels.shape, self.patch, strict=True):
            start = int(np.clip(int(middle) - int(rng.integers(patch)), 0, max(0, size - patch)))
            window.append(slice(start, start + patch))
        image = torch.from_numpy(case.image[(slice(None), *window)].copy())
        labels = torch.from_numpy(case.labels[tuple(window)].copy())[None].float()
        self.transform.set_random_state(seed=int(rng.integers(2**31)))
        sample = {"image": padded(image, self.patch), "labels": padded(labels, self.patch)}
        return cast(dict[str, Tensor], self.transform(sample))

    def _choose(self, rng: np.random.Generator) -> tuple[Case, Sequence[int]]:
        """A case and a voxel of a class in it, or now and then any voxel."""
        if rng.random() < self.config.anywhere_fraction or not self.having:
            case = self.cases[int(rng.integers(len(self.cases)))]
            return case, [int(rng.integers(n)) for n in case.image.shape[1:]]
        class_id = list(self.having)[int(rng.integers(len(self.having)))]
        case = self.cases[self.having[class_id][int(rng.integers(len(self.having[class_id])))]]
        assert case.labels is not None
        where = np.flatnonzero(case.labels == class_id)
        found = np.unravel_index(where[int(rng.integers(len(where)))], case.labels.shape)
        return case, [int(n) for n in found]


def augmentation(shape: Sequence[int], strength: Strength = "light") -> Compose:
    """Our kinds of augmentation (s2vnet.data.augment) for volumes of images and labels of a shape (D, H, W).

    Bending, which is for planes, is left out; nnU-Net does without it, too.
    """
    return Compose(
        [RandAffined(cache_grid=True, **affine_parameters(strength, shape)), *intensity_transforms(strength, 3)]
    )


def padded(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Image (C, ...) grown at the ends to at least a shape, with its least value."""
    missing = [p for n, m in zip(reversed(image.shape[1:]), reversed(shape), strict=True) for p in (0, max(0, m - n))]
    return F.pad(image, missing, value=float(image.min()))


def compare(outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
    """Dice and cross-entropy of logits; coarser outputs (deep supervision) weigh half as much each, as in nnU-Net."""
    loss_of = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0)
    several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    weights = [0.5**n for n in range(len(several))]
    total = sum(
        w * loss_of(o, F.interpolate(labels.float(), size=o.shape[2:], mode="nearest-exact").long())
        for w, o in zip(weights, several, strict=True)
    )
    return cast(Tensor, total / sum(weights))


def plain(batches: Callable[[int], Batch], device: torch.device) -> Objective:
    """The objective of networks without prompts."""

    def objective(network: nn.Module, step: int) -> Tensor:
        image, labels = batches(step)
        return compare(network(image.to(device)), labels.to(device))

    return objective


def fit(
    network: nn.Module, objective: Objective, budget: float, config: TrainConfig, checkpoint: Path, device: torch.device
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train for `budget` seconds (of the CPU on a CPU, else of the wall), resuming from `checkpoint`.

    Returns:
        the averaged network, and rows of step, loss and seconds.

    Raises:
        KeyboardInterrupt: after the state has been written.
    """
    keep_memory()
    network.to(device).train()
    optimizer, average = make_optimizer(network, config), make_average(network, config)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "average": average}
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "history": []}
    if checkpoint.exists():
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(stored[name])
        state = {name: stored[name] for name in state}
    step, history = state["step"], state["history"]
    clock = time.process_time if device.type == "cpu" else time.monotonic
    start, saved = clock() - state["seconds"], time.monotonic()
    losses: list[float] = []
    with deferred_interrupts() as interrupted:
        while (seconds := clock() - start) < budget:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, seconds / budget, config)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
                loss = objective(network, step)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            average.update_parameters(network)
            step += 1
            losses.append(float(loss.detach()))
            if step % HISTORY_STEPS == 0:
                history.append({"step": step, "loss": float(np.mean(losses)), "seconds": clock() - start})
                losses = []
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            if due or interrupted():
                state = {"step": step, "seconds": clock() - start, "history": history}
                state |= {name: part.state_dict() for name, part in parts.items()}
                with atomic_write(checkpoint) as temporary, disk_errors(RuntimeError):
                    torch.save(state, temporary)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    history.append({"step": step, "loss": float(np.mean(losses or [np.nan])), "seconds": clock() - start})
    return average.module, history


@torch.inference_mode()
def segment_slices(network: nn.Module, case: Case, plan: Plan, multiple: Patch, device: torch.device) -> Tensor:
    """Class probabilities (D, K, H, W) of a 2D network, slice by slice."""
    depth, *size = case.image.shape[1:]
    shape = [m * -(-n // m) for n, m in zip(size, multiple, strict=True)]
    parts = []
    for start in range(0, depth, SLICES_AT_ONCE):
        wanted = range(start, min(start + SLICES_AT_ONCE, depth))
        slices = torch.from_numpy(with_neighbours(case.image, wanted, plan.context_slices))
        logits = first(network(padded(slices.flatten(0, 1), shape).unflatten(0, slices.shape[:2]).to(device)))
        parts.append(logits[..., : size[0], : size[1]].softmax(1).half().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def segment_volume(network: nn.Module, image: Tensor, patch: Patch, device: torch.device) -> Tensor:
    """Class probabilities (D, K, H, W) of a 3D network on an image (C, D, H, W), by sliding windows."""
    depth, height, width = image.shape[1:]
    whole = padded(image, patch).to(device)[None]
    logits = sliding_window_inference(
        whole, patch, 1, lambda window: first(network(window)), overlap=OVERLAP, mode="gaussian", device="cpu"
    )
    scores: Tensor = logits[0, :, :depth, :height, :width].softmax(0).half().transpose(0, 1)
    return scores


def first(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """The finest of a network's outputs."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]
