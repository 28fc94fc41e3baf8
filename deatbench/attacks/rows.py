"""Rows of work: one (image, target class) each, so that all targets of all images fill one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import SearchForm

CACHED = 2**17  # pixel values that a CPU works on at once


@dataclass(frozen=True)
class Rows:
    """`owner_R` is each row's image in the batch, `target_R` its target class (-1: untargeted).

    `start_RCHW` is where the row begins. Rows of one image stand together.
    """

    owner_R: Tensor
    target_R: Tensor
    start_RCHW: Tensor

    @classmethod
    def stack(cls, images_N: Tensor, targets_NT: Tensor, starts: list[Tensor]) -> Rows:
        """T rows for each of N images of the batch, the t-th beginning at `starts[t]` [N, C, H, W]."""
        owner_R = images_N.repeat_interleave(targets_NT.shape[1])
        return cls(owner_R, targets_NT.flatten(), torch.stack(starts, dim=1).flatten(0, 1))


def per_row(values_R: Tensor, like: Tensor) -> Tensor:
    """One number for each row, shaped [R, 1, ..., 1] so that it broadcasts against `like` [R, ...]."""
    return values_R.view(-1, *(1,) * (like.ndim - 1))


def in_cache(step: Callable[..., Tensor], *whole: Tensor) -> Tensor:
    """`step` of tensors [R, ...], row by row the same; on a CPU a few rows at a time: what is in between stays cached.

    `whole[0]` has the rows' full shape.
    """
    rows = max(1, CACHED // max(1, whole[0][:1].numel()))
    if whole[0].device.type != "cpu" or len(whole[0]) <= rows:
        return step(*whole)
    return torch.cat([step(*part) for part in zip(*(tensor.split(rows) for tensor in whole), strict=True)])


def ranked_targets(model: nn.Module, x_NCHW: Tensor, count: int) -> Tensor:
    """The most likely classes of each image after the first, most likely first, int64 [N, min(count, K - 1)]."""
    network = model.exact if isinstance(model, SearchForm) else model
    with torch.no_grad():
        ranked_NK = network(x_NCHW).sort(dim=1)[1].flip(1)
    return ranked_NK[:, 1 : count + 1]


def first_of_each(owner_R: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct owners, position of the first row of each); rows of one owner stand together."""
    owners, counts = torch.unique_consecutive(owner_R, return_counts=True)
    return owners, counts.cumsum(0) - counts
