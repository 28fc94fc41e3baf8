"""VGG. Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, arXiv 1409.1556, Table 1 (A, B, D, E).

The CIFAR form: batch norm behind every convolution and a single linear layer. Each of the five groups ends in a
2×2 pool while the image is larger than one pixel, so that 8×8 images pass with three pools. The convolutions keep
their biases, redundant as they are before batch norm, because the published parameter counts contain them.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from deatbench.archs import ARCHS
from deatbench.archs.layers import kaiming_init, scaled

_CHANNELS = (64, 128, 256, 512, 512)
_CONVS_PER_GROUP = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _vgg(depth: int, num_classes: int, in_channels: int, image_size: int, width: float) -> nn.Module:
    layers: list[nn.Module] = []
    for base, convs in zip(_CHANNELS, _CONVS_PER_GROUP[depth], strict=True):
        channels = scaled(base, width)
        for _ in range(convs):
            layers += [nn.Conv2d(in_channels, channels, kernel_size=3, padding=1), nn.BatchNorm2d(channels)]
            layers += [nn.ReLU(inplace=True)]
            in_channels = channels
        if image_size > 1:
            layers.append(nn.MaxPool2d(kernel_size=2))
            image_size //= 2
    parts = OrderedDict[str, nn.Module](
        features=nn.Sequential(*layers),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(in_channels, num_classes),
    )
    model = nn.Sequential(parts)
    kaiming_init(model)
    return model


@ARCHS.register("vgg11")
def vgg11(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """VGG-11 with batch norm and one linear layer (Simonyan & Zisserman 2015)."""
    return _vgg(11, num_classes, in_channels, image_size, width)


@ARCHS.register("vgg13")
def vgg13(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """VGG-13 with batch norm and one linear layer (Simonyan & Zisserman 2015)."""
    return _vgg(13, num_classes, in_channels, image_size, width)


@ARCHS.register("vgg16")
def vgg16(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """VGG-16 with batch norm and one linear layer (Simonyan & Zisserman 2015)."""
    return _vgg(16, num_classes, in_channels, image_size, width)


@ARCHS.register("vgg19")
def vgg19(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """VGG-19 with batch norm and one linear layer (Simonyan & Zisserman 2015)."""
    return _vgg(19, num_classes, in_channels, image_size, width)
