"""Pre-activation ResNet. He, Zhang, Ren, Sun, "Identity Mappings", ECCV 2016, arXiv 1603.05027, Figure 4(e).

Batch norm and ReLU stand before each convolution, and once more behind the last stage. Where a block changes shape,
its shortcut is a plain 1×1 convolution of the activated input. CIFAR stem: one 3×3 convolution of stride 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from deatbench.archs import ARCHS
from deatbench.archs.layers import ResidualBlock, conv1x1, conv3x3, kaiming_init, residual_stages, scaled


def projection(in_channels: int, channels: int, stride: int) -> nn.Conv2d | None:
    """The shortcut's convolution, or None where the shapes agree and the block's raw input is added."""
    return None if stride == 1 and in_channels == channels else conv1x1(in_channels, channels, stride)


class PreActBlock(nn.Module):
    """BN, ReLU, 3×3, BN, ReLU, 3×3, plus the shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = projection(in_channels, channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        active = self.relu(self.bn1(x_NCHW))
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.relu(self.bn2(self.conv1(active)))) + shortcut


class PreActBottleneck(nn.Module):
    """1×1, 3×3, 1×1, each behind BN and ReLU, plus the shortcut."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, channels * self.expansion)
        self.shortcut = projection(in_channels, channels * self.expansion, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        active = self.relu(self.bn1(x_NCHW))
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(active)
        residual = self.relu(self.bn2(self.conv1(active)))
        residual = self.relu(self.bn3(self.conv2(residual)))
        return self.conv3(residual) + shortcut


class PreActResNet(nn.Module):
    """Stem, stages, batch norm and ReLU, global average pool, linear layer.

    Args:
        block: the block class.
        stem: channels of the first convolution.
        channels: channels of each stage before the block's expansion.
        blocks: blocks of each stage.
        num_classes: length of the logits.
        in_channels: channels of the image.
    """

    def __init__(
        self,
        block: ResidualBlock,
        stem: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        out_channels = channels[-1] * block.expansion
        self.conv1 = conv3x3(in_channels, stem)
        self.stages = residual_stages(block, stem, channels, blocks)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(out_channels, num_classes)
        kaiming_init(self)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features = self.relu(self.bn(self.stages(self.conv1(x_NCHW))))
        return self.head(self.pool(features).flatten(1))


def _preact(
    block: ResidualBlock, blocks: Sequence[int], num_classes: int, in_channels: int, width: float
) -> PreActResNet:
    channels = [scaled(c, width) for c in (64, 128, 256, 512)]
    return PreActResNet(block, channels[0], channels, blocks, num_classes, in_channels)


@ARCHS.register("preact_resnet18")
def preact_resnet18(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-18 with a 3×3 stem (He et al. 2016b)."""
    return _preact(PreActBlock, (2, 2, 2, 2), num_classes, in_channels, width)


@ARCHS.register("preact_resnet34")
def preact_resnet34(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-34 with a 3×3 stem (He et al. 2016b)."""
    return _preact(PreActBlock, (3, 4, 6, 3), num_classes, in_channels, width)


@ARCHS.register("preact_resnet50")
def preact_resnet50(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-50 with a 3×3 stem and bottleneck blocks (He et al. 2016b)."""
    return _preact(PreActBottleneck, (3, 4, 6, 3), num_classes, in_channels, width)
