"""SENet. Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, eqs. 2-4, r = 16.

The form that adversarial training on CIFAR knows as SENet-18: pre-activation blocks whose residual is gated per
channel, BN and ReLU behind the 3×3 stem, and none behind the last stage.
"""

from __future__ import annotations

from torch import Tensor, nn

from deatbench.archs import ARCHS
from deatbench.archs.layers import conv3x3, kaiming_init, residual_stages, scaled
from deatbench.archs.preact_resnet import PreActBlock

_REDUCTION = 16


class SqueezeExcite(nn.Module):
    """A gate in (0, 1) per channel, computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.squeeze = nn.Linear(channels, hidden)
        self.relu = nn.ReLU(inplace=True)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        gate_NC = self.excite(self.relu(self.squeeze(x_NCHW.mean(dim=(2, 3))))).sigmoid()
        return x_NCHW * gate_NC[:, :, None, None]


class SEPreActBlock(PreActBlock):
    """The pre-activation block with its residual gated before the shortcut is added."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.gate = SqueezeExcite(channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        active = self.relu(self.bn1(x_NCHW))
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(active)
        return self.gate(self.conv2(self.relu(self.bn2(self.conv1(active))))) + shortcut


class SENet(nn.Module):
    """Stem with BN and ReLU, four stages of two gated blocks, global average pool, linear layer."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        channels = [scaled(c, width) for c in (64, 128, 256, 512)]
        self.conv1 = conv3x3(in_channels, channels[0])
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.stages = residual_stages(SEPreActBlock, channels[0], channels, (2, 2, 2, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels[-1], num_classes)
        kaiming_init(self)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features = self.stages(self.relu(self.bn1(self.conv1(x_NCHW))))
        return self.head(self.pool(features).flatten(1))


@ARCHS.register("senet18")
def senet18(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """SENet-18: pre-activation blocks with squeeze-and-excitation (Hu et al. 2018)."""
    return SENet(num_classes, in_channels, width)
