"""Initial weights from a trained network or from ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from s2vnet.errors import InputError
from s2vnet.model.bundled import verify_bundled_files
from s2vnet.model.checkpoint import TrainedModel
from s2vnet.model.efficientnet import EfficientNetLite0
from s2vnet.model.s2vnet import S2VNet

CLASS_WEIGHTS = ("initial_centres", "identity", "pixel_decoder.auxiliary.")
"""Name prefixes of weights with a row per class."""
CHANNEL_WEIGHTS = ("encoder.stem.0.",)
"""Name prefixes of weights whose shape depends on the image channels and the stem stride."""

IMAGENET = Path(__file__).parent.parent / "weights" / "imagenet" / "efficientnet-lite0.safetensors"
"""Folded ImageNet weights, created by scripts/imagenet.py."""


def load_imagenet_encoder(model: S2VNet) -> bool:
    """Load the bundled ImageNet weights of a model's encoder; return False if there are none for it."""
    if not isinstance(model.encoder, EfficientNetLite0):
        return False
    verify_bundled_files(IMAGENET)
    model.encoder.load_imagenet(load_file(IMAGENET))
    return True


def load_initial_weights(model: S2VNet, trained: TrainedModel, labels: Mapping[str, int]) -> list[str]:
    """Copy a trained network's weights, except those that depend on classes or channels where these differ.

    Args:
        model: changed in place.
        trained: network with its plan.
        labels: class values of `model`; weights per class are copied only if they equal those of the plan.

    Returns:
        Names of the weights that were not copied.

    Raises:
        InputError: the networks have different encoders or widths.
    """
    new, old = model.state_dict(), trained.model.state_dict()
    same_classes = dict(trained.plan.get("labels", {})) == dict(labels)
    reset = [name for name in new if not same_classes and name.startswith(CLASS_WEIGHTS)]
    reset += [name for name in new if name not in reset and (name not in old or new[name].shape != old[name].shape)]
    incompatible = [name for name in reset if not name.startswith((*CLASS_WEIGHTS, *CHANNEL_WEIGHTS))]
    incompatible += [name for name in old if name not in new]  # a larger encoder's layers
    if incompatible:
        new_config, old_config = model.config.model_dump(), trained.model.config.model_dump()
        settings = [f"{k} {old_config[k]}, not {new_config[k]}" for k in new_config if new_config[k] != old_config[k]]
        raise InputError(
            f"the network to start from is another one ({', '.join(settings)}); choose its settings, or none"
        )
    model.load_state_dict({name: new[name] if name in reset else old[name] for name in new})
    return reset
