"""Slice encoders by name: MONAI's ResNets with a stem of stride 1, 2 or 4, and EfficientNet-Lite0."""

from __future__ import annotations

from dataclasses import dataclass

from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from s2vnet.errors import InputError
from s2vnet.model.efficientnet import EfficientNetLite0
from s2vnet.model.layers import GroupNorm, to_fast_memory_format


@dataclass(frozen=True)
class EncoderSpec:
    """Configuration of a residual encoder: block type, blocks per stage, and width of each of the four stages."""

    bottleneck: bool
    layers: tuple[int, int, int, int]
    planes: tuple[int, int, int, int]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four feature maps, finest first."""
        expansion = ResNetBottleneck.expansion if self.bottleneck else ResNetBlock.expansion
        return tuple(width * expansion for width in self.planes)


RESIDUAL: dict[str, EncoderSpec] = {
    "tiny": EncoderSpec(False, (1, 1, 1, 1), (24, 48, 96, 192)),
    "compact": EncoderSpec(False, (2, 2, 2, 2), (24, 48, 96, 192)),
    "small": EncoderSpec(False, (2, 2, 2, 2), (32, 64, 128, 256)),
    "resnet18": EncoderSpec(False, (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": EncoderSpec(False, (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": EncoderSpec(True, (3, 4, 6, 3), (64, 128, 256, 512)),
}
"""Residual encoders; ``tiny`` to ``small`` are meant for CPUs, ``resnet50`` is the paper's class of backbone."""
EFFICIENTNET = "efficientnet-lite0"
ENCODERS = (*RESIDUAL, EFFICIENTNET)
"""Names of all encoders."""
NORM_GROUPS = 8


def make_encoder(name: str, in_channels: int, stem_stride: int) -> ResidualEncoder | EfficientNetLite0:
    """Build an encoder with random weights.

    Raises:
        InputError: unknown name, or a stem stride that the encoder does not support.
    """
    if name == EFFICIENTNET:
        return EfficientNetLite0(in_channels, stem_stride)
    if name in RESIDUAL:
        return ResidualEncoder(RESIDUAL[name], in_channels, stem_stride)
    raise InputError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")


class ResidualEncoder(nn.Module):
    """ResNet with four feature maps per slice at strides s, 2s, 4s and 8s, where s is the stem stride.

    Group normalization instead of batch normalization: a slice's features depend on that slice alone, so they can be
    cached, batches of one can be trained on, and results do not depend on the number of processes.
    """

    def __init__(self, spec: EncoderSpec, in_channels: int, stem_stride: int) -> None:
        super().__init__()
        self.channels = spec.channels
        net = ResNet(
            block=ResNetBottleneck if spec.bottleneck else ResNetBlock,
            layers=list(spec.layers),
            block_inplanes=list(spec.planes),
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_size=3 if stem_stride == 1 else 7,
            conv1_t_stride=1 if stem_stride == 1 else 2,
            no_max_pool=stem_stride < 4,
            feed_forward=False,
            norm=("group", {"num_groups": NORM_GROUPS}),
        )
        _replace_batch_norm(net)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act, net.maxpool if stem_stride == 4 else nn.Identity())
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, slices: Tensor) -> list[Tensor]:
        """Encode slices (N, C, H, W) to four maps (N, channels[l], H/(s 2^l), W/(s 2^l)), finest first."""
        x = self.stem(to_fast_memory_format(slices))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _replace_batch_norm(net: nn.Module) -> None:
    """Replace batch normalization by group normalization in place.

    MONAI 1.6's ``ResNet`` applies its ``norm`` to the stem alone (docs/decisions/004-normalisation.md).
    """
    for parent in net.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, GroupNorm(NORM_GROUPS, child.num_features))
