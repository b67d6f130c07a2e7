"""Trained networks on disk: ``model.safetensors`` and ``model.json`` (config, plan, provenance). No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from s2vnet.config import ModelConfig
from s2vnet.errors import CheckpointError, InputError
from s2vnet.model.bundled import verify_bundled_files
from s2vnet.model.s2vnet import S2VNet
from s2vnet.utils.atomic_write import atomic_write
from s2vnet.utils.json_io import read_json

FORMAT = 3
"""Version of the file format; other versions are refused."""
LEGACY_MODEL_DEFAULTS: Mapping[str, Any] = {"auxiliary_masks": False}
"""Values of settings that older model files lack."""
PROMPT_SETTINGS = ("carry_prompts", "prompt_reach")
"""Settings of older models that only prompts read."""
PROMPT_TENSORS = ("prompt_identity", "prompt_centre.")
"""Name prefixes of tensors of older networks that only prompts read, before the corrector answered them."""
PRIOR_EMBEDDING = "map_embedding."
"""Name prefix of tensors whose first ``mask_dim`` rows embed the prior; in older networks, further rows prompt maps."""
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True)
class TrainedModel:
    """A network with its preprocessing plan and provenance."""

    model: S2VNet
    """In eval mode."""
    plan: Mapping[str, Any]
    """Preprocessing plan as JSON; not interpreted here."""
    info: Mapping[str, Any]
    """Data, split, command, scores and date, as written by the training run."""
    sha256: str
    """SHA-256 of the weights file; identifies the model in prompt logs."""


def save_model(folder: Path, model: S2VNet, plan: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Write both files into an existing folder; the description is written last and holds the hash of the weights.

    Raises:
        InputError: the files cannot be written; earlier files are left as they were.
    """
    with atomic_write(folder / DESCRIPTION) as description:
        weights = description.with_name(WEIGHTS)
        serialized = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
        weights.write_bytes(serialized)  # save_file would leave a file that only its owner can read
        digest = hashlib.sha256(serialized).hexdigest()
        content = {"format": FORMAT, "sha256": digest, "config": model.config.model_dump(), "plan": plan, "info": info}
        description.write_text(json.dumps(content, indent=2) + "\n")


def read_description(folder: Path) -> dict[str, Any]:
    """Read and verify ``model.json`` without building the network.

    Raises:
        CheckpointError: the files are missing, damaged or of another format version, the weights do not match the
            description, or files of the package were changed.
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
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{path}: format {version}, but this version of s2vnet reads {FORMAT}; "
            "use the version that made it, or train or download the model again"
        )
    digest = hashlib.sha256(weights).hexdigest()
    if digest != content.get("sha256"):
        raise CheckpointError(f"{folder / WEIGHTS}: does not match the hash in {DESCRIPTION}; download the model again")
    described: dict[str, Any] = content
    return described


def model_config(stored: Mapping[str, Any]) -> ModelConfig:
    """Configuration of a stored network, also of an older one. Raises pydantic's ValidationError."""
    known = {name: value for name, value in dict(stored).items() if name not in PROMPT_SETTINGS}
    return ModelConfig.model_validate({**LEGACY_MODEL_DEFAULTS, **known})


def without_prompts(stored: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors of a stored network without those that only prompts read, which networks had until 2026-11-30."""
    return {
        name: tensor[: config.mask_dim] if name.startswith(PRIOR_EMBEDDING) else tensor
        for name, tensor in stored.items()
        if not name.startswith(PROMPT_TENSORS)
    }


def load_model(folder: Path) -> TrainedModel:
    """Load a network in eval mode.

    Raises:
        CheckpointError: as :func:`read_description`, or the weights do not fit the description.
    """
    content = read_description(folder)
    try:
        config = model_config(content["config"])
        stored = without_prompts(load((folder / WEIGHTS).read_bytes()), config)  # load_file() takes text paths only
        with torch.device("meta"):  # nothing of the sizes that the description states is allocated
            sizes = {name: tensor.shape for name, tensor in S2VNet(config).state_dict().items()}
        if mismatched := sizes.items() ^ {name: tensor.shape for name, tensor in stored.items()}.items():
            raise ValueError(f"sizes differ, for example of {min(name for name, _ in mismatched)}")
        model = S2VNet(config)
        model.load_state_dict(stored)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: weights and description do not fit ({reason}); train or download the model again"
        ) from error
    return TrainedModel(model.eval(), content.get("plan", {}), content.get("info", {}), content["sha256"])


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` prefers CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: the device is not available.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = [kind for kind, count in counts.items() if count]
    try:
        device = torch.device(available[0] if name == "auto" else name)
        if (device.index or 0) < counts.get(device.type, 0):
            return device
    except RuntimeError:  # not a device name
        pass
    raise InputError(f"device {name} is not available; choose one of {', '.join(available)}")
