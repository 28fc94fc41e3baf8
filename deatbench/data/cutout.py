"""Cutout: a square of each image is hidden (DeVries, Taylor 2017, arXiv 1708.04552, section 3.2).

The paper masks with zeros after normalisation, that is with the mean colour. Our images are normalised inside the
network, after the attack; published adversarial training with Cutout (Rice, Wong, Kolter 2020, arXiv 2002.11569)
works like that too and puts zeros into images in [0, 1]: black squares. That is the default here; it is also what
random crops are framed with, so the network meets one kind of "nothing", and no data set needs a value of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.data.boxes import random_boxes


def cutout(x_NCHW: Tensor, generator: torch.Generator, size: int | None = None, fill: float = 0.0) -> Tensor:
    """Each image with one square of `size` pixels painted over, centred anywhere and clipped at the border.

    Args:
        x_NCHW: float in [0,1]; so is the result.
        generator: on the batch's device, or on the CPU to draw the same numbers on every device.
        size: side of the square in pixels; None: half the height (16 of 32, the paper's choice for CIFAR-10).
        fill: the square's value in [0,1] in every channel.
    """
    size = x_NCHW.shape[2] // 2 if size is None else size
    return x_NCHW.masked_fill(random_boxes(x_NCHW, size, size, generator), fill)
