"""Augmentation of a whole batch at once, on its device: one gather, no loop over images, no wait for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from deatbench.errors import UnknownNameError

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def keep(x_NCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The batch as it is."""
    return x_NCHW


def crop(x_NCHW: torch.Tensor, generator: torch.Generator, padding: int | None = None) -> torch.Tensor:
    """Random crop: each image is framed by `padding` black pixels and a window of the old size is cut out.

    Args:
        x_NCHW: float in [0,1]; so is the result.
        generator: on the batch's device, or on the CPU to draw the same numbers on every device.
        padding: pixels on each side; None: an eighth of the height (4 of 32, 1 of 8).
    """
    return _windows(x_NCHW, generator, padding, flip=False)


def crop_flip(x_NCHW: torch.Tensor, generator: torch.Generator, padding: int | None = None) -> torch.Tensor:
    """Random crop as in `crop`; then each image is mirrored left to right with probability one half."""
    return _windows(x_NCHW, generator, padding, flip=True)


AUGMENTS: dict[str, Augment] = {"none": keep, "crop": crop, "crop-flip": crop_flip}


def augment(name: str) -> Augment:
    """The augmentation of that name. Raises UnknownNameError."""
    if name not in AUGMENTS:
        raise UnknownNameError("augmentation", name, AUGMENTS, f"known: {', '.join(AUGMENTS)}")
    return AUGMENTS[name]


def _windows(x_NCHW: torch.Tensor, generator: torch.Generator, padding: int | None, flip: bool) -> torch.Tensor:
    n, channels, height, width = x_NCHW.shape
    device = x_NCHW.device
    padding = height // 8 if padding is None else padding

    def draw(high: int) -> torch.Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=generator.device).to(device, non_blocking=True)

    top_N1, left_N1 = draw(2 * padding + 1), draw(2 * padding + 1)
    rows_NH = top_N1 + torch.arange(height, device=device)
    columns_W = torch.arange(width, device=device)
    mirrored_N1 = draw(2).bool() if flip else torch.zeros((), dtype=torch.bool, device=device)
    columns_NW = left_N1 + torch.where(mirrored_N1, columns_W.flip(0), columns_W)
    padded = F.pad(x_NCHW, (padding, padding, padding, padding))
    image_N = torch.arange(n, device=device)
    channel_C = torch.arange(channels, device=device)
    return padded[
        image_N[:, None, None, None], channel_C[:, None, None], rows_NH[:, None, :, None], columns_NW[:, None, None, :]
    ]
