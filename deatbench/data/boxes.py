"""A random box in every image: what Cutout hides and CutMix takes from another image."""

from __future__ import annotations

import torch
from torch import Tensor


def random_boxes(x_NCHW: Tensor, height: int | Tensor, width: int | Tensor, generator: torch.Generator) -> Tensor:
    """Which pixels lie in each image's box: bool, (N, 1, H, W), on the batch's device.

    A box is centred on a pixel drawn uniformly, row first, and clipped at the image's border.

    Args:
        x_NCHW: the images; only shape and device matter.
        height: of the boxes before clipping, in pixels; one number, or integers (N, 1) on the generator's device.
        width: likewise.
        generator: on any device; the draws are worked out there and only the result moves to the batch.
    """
    n, _, image_height, image_width = x_NCHW.shape
    rows_NH = _stretch(n, image_height, height, generator).to(x_NCHW.device, non_blocking=True)
    columns_NW = _stretch(n, image_width, width, generator).to(x_NCHW.device, non_blocking=True)
    return rows_NH[:, None, :, None] & columns_NW[:, None, None, :]


def _stretch(n: int, length: int, size: int | Tensor, generator: torch.Generator) -> Tensor:
    """`size` neighbours around a random one of `length` places, those outside left off; bool, (n, length)."""
    centre_N1 = torch.randint(length, (n, 1), generator=generator, device=generator.device)
    place_NL = torch.arange(length, device=generator.device) - (centre_N1 - size // 2)
    return (place_NL >= 0) & (place_NL < size)
