"""ResNet. He, Zhang, Ren, Sun, "Deep Residual Learning", CVPR 2016, arXiv 1512.03385.

- resnet18, resnet34, resnet50 (Table 1) with the stem for small images: one 3×3 convolution of stride 1 and no
  max-pool. Shortcuts that change shape are 1×1 convolutions with batch norm (option B).
- resnet8, resnet20 (Section 4.2, depth 6n + 2, 16-32-64 channels). Shortcuts that change shape subsample and pad
  with zero channels, free of parameters (option A), as in the paper's CIFAR experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.archs import ARCHS
from deatbench.archs.layers import ResidualBlock, conv1x1, conv3x3, kaiming_init, residual_stages, scaled


def _projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    """Option B: the identity where shapes agree, else a 1×1 convolution with batch norm."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, with zero channels added on both sides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (channels - in_channels) // 2
        self.after = channels - in_channels - self.before

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.pad(x_NCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (Figure 5, left), option B."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = self.make_shortcut(in_channels, channels, stride)
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def make_shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
        return _projection(in_channels, channels, stride)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_NCHW)))))
        return self.relu(residual + self.shortcut(x_NCHW))


class PlainBasicBlock(BasicBlock):
    """Two 3×3 convolutions, option A."""

    @staticmethod
    def make_shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
        if stride == 1 and in_channels == channels:
            return nn.Identity()
        return ZeroPadShortcut(in_channels, channels, stride)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 (Figure 5, right); the stride sits on the 3×3 convolution."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _projection(in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x_NCHW)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(residual + self.shortcut(x_NCHW))


class ResNet(nn.Module):
    """Stem, stages, global average pool, linear layer.

    Args:
        block: the block class.
        channels: channels of each stage before the block's expansion; the stem has those of the first.
        blocks: blocks of each stage.
        num_classes: length of the logits.
        in_channels: channels of the image.
    """

    def __init__(
        self, block: ResidualBlock, channels: Sequence[int], blocks: Sequence[int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels[0])
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.stages = residual_stages(block, channels[0], channels, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels[-1] * block.expansion, num_classes)
        kaiming_init(self)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features = self.stages(self.relu(self.bn1(self.conv1(x_NCHW))))
        return self.head(self.pool(features).flatten(1))


def _large(block: ResidualBlock, blocks: Sequence[int], num_classes: int, in_channels: int, width: float) -> ResNet:
    return ResNet(block, [scaled(c, width) for c in (64, 128, 256, 512)], blocks, num_classes, in_channels)


def _small(blocks_per_stage: int, num_classes: int, in_channels: int, width: float) -> ResNet:
    channels = [scaled(c, width) for c in (16, 32, 64)]
    return ResNet(PlainBasicBlock, channels, [blocks_per_stage] * 3, num_classes, in_channels)


@ARCHS.register("resnet8")
def resnet8(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """ResNet-8: 16-32-64 channels, one block a stage (He et al. 2016, n = 1)."""
    return _small(1, num_classes, in_channels, width)


@ARCHS.register("resnet20")
def resnet20(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """ResNet-20: 16-32-64 channels, three blocks a stage (He et al. 2016, n = 3)."""
    return _small(3, num_classes, in_channels, width)


@ARCHS.register("resnet18")
def resnet18(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """ResNet-18 with a 3×3 stem (He et al. 2016)."""
    return _large(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, width)


@ARCHS.register("resnet34")
def resnet34(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """ResNet-34 with a 3×3 stem (He et al. 2016)."""
    return _large(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, width)


@ARCHS.register("resnet50")
def resnet50(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """ResNet-50 with a 3×3 stem and bottleneck blocks (He et al. 2016)."""
    return _large(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, width)
