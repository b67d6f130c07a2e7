"""Training that starts from a trained network, or with an encoder that knows ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from s2vnet.errors import InputError
from s2vnet.model.bundled import verify_bundled_files
from s2vnet.model.checkpoint import TrainedModel
from s2vnet.model.efficientnet import EfficientNetLite0
from s2vnet.model.s2vnet import S2VNet

OF_CLASSES = ("initial_centres", "identity", "pixel_decoder.auxiliary.")
"""Weights with a row per class."""
OF_CHANNELS = ("encoder.stem.0.",)
"""Weights whose shape depends on the image's channels and the stem's stride."""

IMAGENET = Path(__file__).parent.parent / "weights" / "imagenet" / "efficientnet-lite0.safetensors"
"""Made by scripts/imagenet.py."""


def load_imagenet_encoder(model: S2VNet) -> bool:
    """Give an encoder the weights of ImageNet that come with the package; False where there are none for it."""
    if not isinstance(model.encoder, EfficientNetLite0):
        return False
    verify_bundled_files(IMAGENET)
    model.encoder.load_imagenet(load_file(IMAGENET))
    return True


def load_initial_weights(model: S2VNet, trained: TrainedModel, labels: Mapping[str, int]) -> list[str]:
    """Take over a trained network's weights; what depends on classes or channels starts anew where those differ.

    Args:
        model: changed in place.
        trained: with the plan that it was trained by.
        labels: class values of `model`; the rows of other classes mean something else, even if they are as many.

    Returns:
        Names of the weights that start anew.

    Raises:
        InputError: networks of different encoders or widths, which share no weights.
    """
    own, theirs = model.state_dict(), trained.model.state_dict()
    same_classes = dict(trained.plan.get("labels", {})) == dict(labels)
    anew = [name for name in own if not same_classes and name.startswith(OF_CLASSES)]
    anew += [name for name in own if name not in anew and (name not in theirs or own[name].shape != theirs[name].shape)]
    foreign = [name for name in anew if not name.startswith((*OF_CLASSES, *OF_CHANNELS))]
    foreign += [name for name in theirs if name not in own]  # a larger encoder's layers
    if foreign:
        ours, other = model.config.model_dump(), trained.model.config.model_dump()
        settings = [f"{key} {other[key]}, not {ours[key]}" for key in ours if ours[key] != other[key]]
        raise InputError(
            f"the network to start from is another one ({', '.join(settings)}); choose its settings, or none"
        )
    model.load_state_dict({name: own[name] if name in anew else theirs[name] for name in own})
    return anew
