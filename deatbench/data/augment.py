"""Augmentation of a whole batch at once, on its device: no loop over images, no wait for the device.

A name is made of parts joined by "+", which work from left to right: "crop-flip+cutout", "crop-flip+cutmix".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from deatbench.data.cutmix import cutmix
from deatbench.data.cutout import cutout
from deatbench.errors import ConfigError, UnknownNameError


class Augmented(NamedTuple):
    """An augmented batch.

    Attributes:
        x_NCHW: the images, float in [0,1].
        other_N: the second label of images that show two classes; None where every image shows one.
        share_N: how much of an image belongs to its first label, float in [0,1]; None as `other_N`.
    """

    x_NCHW: torch.Tensor
    other_N: torch.Tensor | None = None
    share_N: torch.Tensor | None = None


Augment = Callable[[torch.Tensor, torch.Tensor, torch.Generator], Augmented]  # x_NCHW, y_N, generator
Alteration = Callable[[torch.Tensor, torch.Generator], torch.Tensor]  # images stay what they show
Mixture = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


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


ALTERATIONS: dict[str, Alteration] = {"none": keep, "crop": crop, "crop-flip": crop_flip, "cutout": cutout}
MIXTURES: dict[str, Mixture] = {"cutmix": cutmix}
AUGMENTS = (*ALTERATIONS, *MIXTURES)  # the parts of a name


def augment(name: str) -> Augment:
    """The augmentation of that name. Raises UnknownNameError for an unknown part, ConfigError for a misplaced one."""
    parts = name.split("+")
    for part in parts:
        if part not in AUGMENTS:
            raise UnknownNameError("augmentation", part, AUGMENTS, f"known: {', '.join(AUGMENTS)}; join them with +")
    for part in parts[:-1]:
        if part in MIXTURES:
            raise ConfigError(f"augmentation {name!r} goes on after {part}", f"name {part} once, at the end")
    alterations = [ALTERATIONS[part] for part in parts if part in ALTERATIONS]
    mixture = MIXTURES.get(parts[-1])

    def augmented(x_NCHW: torch.Tensor, y_N: torch.Tensor, generator: torch.Generator) -> Augmented:
        for alter in alterations:
            x_NCHW = alter(x_NCHW, generator)
        return Augmented(x_NCHW) if mixture is None else Augmented(*mixture(x_NCHW, y_N, generator))

    return augmented


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
