"""Wide ResNet. Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, Table 1.

WRN-d-k: three stages of (d − 4) / 6 pre-activation blocks with 16k, 32k and 64k channels, a 16-channel stem, no
dropout. The `width` multiplier comes on top of k and scales the stem as well.
"""

from __future__ import annotations

from torch import nn

from deatbench.archs import ARCHS
from deatbench.archs.layers import scaled
from deatbench.archs.preact_resnet import PreActBlock, PreActResNet


def _wrn(depth: int, widening: int, num_classes: int, in_channels: int, width: float) -> PreActResNet:
    channels = [scaled(c * widening, width) for c in (16, 32, 64)]
    blocks = [(depth - 4) // 6] * 3
    return PreActResNet(PreActBlock, scaled(16, width), channels, blocks, num_classes, in_channels)


@ARCHS.register("wrn_16_4")
def wrn_16_4(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """WRN-16-4 (Zagoruyko & Komodakis 2016)."""
    return _wrn(16, 4, num_classes, in_channels, width)


@ARCHS.register("wrn_28_10")
def wrn_28_10(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """WRN-28-10 (Zagoruyko & Komodakis 2016)."""
    return _wrn(28, 10, num_classes, in_channels, width)


@ARCHS.register("wrn_34_10")
def wrn_34_10(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """WRN-34-10, the usual large net of adversarial training (Zagoruyko & Komodakis 2016)."""
    return _wrn(34, 10, num_classes, in_channels, width)


@ARCHS.register("wrn_70_16")
def wrn_70_16(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """WRN-70-16, the largest common net of adversarial training (Zagoruyko & Komodakis 2016)."""
    return _wrn(70, 16, num_classes, in_channels, width)
