"""What the convolutional families share: widths, stages and initial weights.

Initial weights: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv 1502.01852, eq. 14
(the variance of the backward signal is kept: fan-out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn


class ResidualBlock(Protocol):
    """A block class: `block(in_channels, channels, stride)` ends in `channels * block.expansion` channels."""

    @property
    def expansion(self) -> int: ...

    def __call__(self, in_channels: int, channels: int, stride: int) -> nn.Module: ...


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded, never fewer than one."""
    return max(1, round(channels * width))


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the image size (or halves it, rounding up); no bias, as batch norm follows."""
    return nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution without bias."""
    return nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)


def residual_stages(
    block: ResidualBlock, in_channels: int, channels: Sequence[int], blocks: Sequence[int]
) -> nn.Sequential:
    """Stages of `blocks[i]` blocks with `channels[i]`; every stage but the first opens with stride 2."""
    stages = []
    for index, (width, depth) in enumerate(zip(channels, blocks, strict=True)):
        units = []
        for unit in range(depth):
            stride = 2 if unit == 0 and index > 0 else 1
            units.append(block(in_channels, width, stride))
            in_channels = width * block.expansion
        stages.append(nn.Sequential(*units))
    return nn.Sequential(*stages)


def kaiming_init(module: nn.Module) -> None:
    """Draw the convolutions from N(0, 2 / fan-out), zero their biases; linear layers keep PyTorch's U(±1/√fan-in)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
