"""A trained network on disk: ``model.safetensors`` and ``model.json`` (config, plan, how it came about). No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from s2vnet.config import ModelConfig
from s2vnet.errors import CheckpointError
from s2vnet.model.bundled import verify_bundled_files
from s2vnet.model.s2vnet import S2VNet
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

FORMAT = 3
"""Version of the pair of files; another one is refused."""
LEGACY_MODEL_DEFAULTS: Mapping[str, Any] = {"carry_prompts": False, "prompt_reach": 2, "auxiliary_masks": False}
"""What networks did that were saved before these settings were there."""
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True)
class TrainedModel:
    """A network with what is needed to use it."""

    model: S2VNet
    """In eval mode."""
    plan: Mapping[str, Any]
    """The plan's JSON, opaque here."""
    info: Mapping[str, Any]
    """Data, split, command, figures and date, as the training wrote them."""
    sha256: str
    """Of the weights file; names the model in prompt logs."""


def save_model(folder: Path, model: S2VNet, plan: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Write both files into an existing folder; the description comes last and vouches for the weights.

    Raises:
        InputError: the system refuses; what was there before is still whole.
    """
    with atomic_write(folder / DESCRIPTION) as description:
        weights = description.with_name(WEIGHTS)
        stored = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
        weights.write_bytes(stored)  # save_file would leave a file that only its owner can read
        digest = hashlib.sha256(stored).hexdigest()
        content = {"format": FORMAT, "sha256": digest, "config": model.config.model_dump(), "plan": plan, "info": info}
        description.write_text(json.dumps(content, indent=2) + "\n")


def read_description(folder: Path) -> dict[str, Any]:
    """What a model says of itself; nothing of the network is made.

    Raises:
        CheckpointError: missing, damaged, of another format version, weights that the description does not name, or
            not as they came with the package.
    """
    path = folder / DESCRIPTION
    verify_bundled_files(path, folder / WEIGHTS)
    try:
        content = read_json(path)
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}; {folder} is not a trained model") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON; train or download the model again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: format {found}, but this version of s2vnet reads {FORMAT}; "
            "use the version that made it, or train or download the model again"
        )
    digest = hashlib.sha256(weights).hexdigest()
    if digest != content.get("sha256"):
        raise CheckpointError(f"{folder / WEIGHTS}: not the weights that {DESCRIPTION} names; download the model again")
    described: dict[str, Any] = content
    return described


def load_model(folder: Path) -> TrainedModel:
    """Read both files. Raises CheckpointError as :func:`read_description`, or where they do not fit."""
    content = read_description(folder)
    try:
        config = ModelConfig.model_validate({**LEGACY_MODEL_DEFAULTS, **content["config"]})
        stored = load_file(folder / WEIGHTS)
        with torch.device("meta"):  # a size that only the description claims is never allocated
            sizes = {name: tensor.shape for name, tensor in S2VNet(config).state_dict().items()}
        if other := sizes.items() ^ {name: tensor.shape for name, tensor in stored.items()}.items():
            raise ValueError(f"weights of other sizes, such as {min(name for name, _ in other)}")
        model = S2VNet(config)
        model.load_state_dict(stored)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: weights and description do not fit ({reason}); train or download the model again"
        ) from error
    return TrainedModel(model.eval(), content.get("plan", {}), content.get("info", {}), content["sha256"])


def choose_device(name: str) -> torch.device:
    """Device by name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        CheckpointError: the device is not there.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = [kind for kind, count in counts.items() if count]
    try:
        device = torch.device(available[0] if name == "auto" else name)
        if (device.index or 0) < counts.get(device.type, 0):
            return device
    except RuntimeError:  # no name of a device
        pass
    raise CheckpointError(f"device {name} is not available; choose one of {', '.join(available)}")
