"""Rows of work: one (image, target class) each, so that all targets of all images fill one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROWS = 512  # rows worked on at once, or one batch of images where that is more


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

    def chunks(self, size: int) -> Iterator[Rows]:
        """The rows in pieces of at most `size`, an image's rows never parted."""
        counts = torch.unique_consecutive(self.owner_R, return_counts=True)[1].tolist()
        first = last = 0
        for count in counts:
            if last > first and last + count - first > size:
                yield self._piece(slice(first, last))
                first = last
            last += count
        if last > first:
            yield self._piece(slice(first, last))

    def _piece(self, piece: slice) -> Rows:
        return Rows(self.owner_R[piece], self.target_R[piece], self.start_RCHW[piece])


def ranked_targets(model: nn.Module, x_NCHW: Tensor, count: int) -> Tensor:
    """The most likely classes of each image after the first, most likely first, int64 [N, min(count, K - 1)]."""
    with torch.no_grad():
        ranked_NK = model(x_NCHW).sort(dim=1)[1].flip(1)
    return ranked_NK[:, 1 : count + 1]
