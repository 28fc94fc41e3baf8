"""Architectures: one file per family. A target builds a network that takes [0, 1] NCHW and returns logits.

@ARCHS.register("vgg16")
def vgg16(num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> nn.Module
"""

from collections.abc import Callable

from torch import nn

from deatbench.registry import Registry

ARCHS: Registry[Callable[..., nn.Module]] = Registry("arch", "deatbench.archs")
