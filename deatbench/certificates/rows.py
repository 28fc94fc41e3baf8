"""Linear functions of a map, a row each, carried from a network's later maps to its earlier ones.

A row that begins at one pixel of a convolution's output depends on a window of each map before. Windows of all rows are
alike but for their places, so that what a window sees of a map is cut out once for every place of the grid.

Dimensions: R rows, P places of the grid, C channels, H and W of a map, h and w of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_SHARE = 0.5  # of a map: rows whose windows cover more are kept whole
MOST_SEEN = 2**23  # pixel values that the windows of all places see together


class Windows(NamedTuple):
    """One window for each place (i, j) of a grid: `size` pixels each way from `stride · (i, j) − offset`.

    It may leave the map.
    """

    grid: tuple[int, int]
    stride: int = 1
    offset: int = 0
    size: int = 1

    def before(self, kernel: int, stride: int, padding: int) -> Windows:
        """The inputs of a convolution that these windows of its output depend on."""
        size = (self.size - 1) * stride + kernel
        return Windows(self.grid, self.stride * stride, self.offset * stride + padding, size)

    def cut(self, map_CHW: Tensor) -> Tensor:
        """What each window sees of a map, zeros outside: [P, C, h, w]."""
        rows, columns = (self.stride * (count - 1) + self.size for count in self.grid)  # from the first to the last
        missing = [
            max(0, end - self.offset - length) for end, length in zip((rows, columns), map_CHW.shape[1:], strict=True)
        ]
        padded = F.pad(map_CHW, (self.offset, missing[1], self.offset, missing[0]))[:, :rows, :columns]
        seen = padded.unfold(1, self.size, self.stride).unfold(2, self.size, self.stride)
        return seen.permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous()

    def holds(self, other: Windows) -> bool:
        """Whether the other windows lie inside these."""
        inside = self.offset >= other.offset and self.size - self.offset >= other.size - other.offset
        return self.stride == other.stride and inside

    def covers(self, shape: Sequence[int]) -> bool:
        """Whether a window is most of a map [C, H, W], or windows are too many and too large to cut them all out."""
        seen = self.grid[0] * self.grid[1] * shape[0] * self.size**2
        return self.size**2 > LARGEST_SHARE * shape[1] * shape[2] or seen > MOST_SEEN


@dataclass(frozen=True)
class Rows:
    """R linear functions of one map: `values` are coefficients, [R, C, h, w] in windows, else [R, *shape of the map].

    `place_R` says at which place of the grid the window of a row lies. Coefficients outside the map mean nothing; with
    `leaves_map` they need not be zeros.
    """

    values: Tensor
    windows: Windows | None = None
    place_R: Tensor | None = None
    leaves_map: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def with_values(self, values: Tensor) -> Rows:
        """Other coefficients at the same places."""
        return replace(self, values=values)

    def inside(self, shape: Sequence[int]) -> Rows:
        """The same functions with zeros outside the map [C, H, W]."""
        if not self.leaves_map:
            return self
        return replace(self, values=self.values * self.of(self.seen(torch.ones(1, *shape[1:]))), leaves_map=False)

    def of(self, per_place: Tensor) -> Tensor:
        """What belongs to each row, of something that is there once for each place or, without windows, once."""
        return per_place if self.place_R is None else per_place.index_select(0, self.place_R)

    def seen(self, map_CHW: Tensor) -> Tensor:
        """A map as the rows see it: [P, C, h, w], or [1, *shape] without windows."""
        return map_CHW[None] if self.windows is None else self.windows.cut(map_CHW)

    def dot(self, map_CHW: Tensor) -> Tensor:
        """The value [R] of each row at a map."""
        return products(self.values, self.of(self.seen(map_CHW)))

    def whole(self, shape: Sequence[int]) -> Rows:
        """The same functions with a coefficient for all of the map [C, H, W]."""
        if self.windows is None or self.place_R is None:
            return self
        windows, (channels, height, width) = self.windows, shape
        pixels = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
        at_PS = windows.cut(pixels).flatten(1).long()  # 0 is the bin for what lies outside
        found = self.values.new_zeros(len(self), channels, 1 + height * width)
        at_RCS = at_PS.index_select(0, self.place_R)[:, None].expand(-1, channels, -1)
        found.scatter_(2, at_RCS, self.values.flatten(2))
        return Rows(found[:, :, 1:].reshape(len(self), *shape))

    def plus(self, other: Rows, shape: Sequence[int]) -> Rows:
        """The sums of both, which begin at the same places."""
        if self.windows is None or other.windows is None:
            one, another = self.whole(shape), other.whole(shape)
            return Rows(one.values + another.values)
        if not self.windows.holds(other.windows):
            both = (other, self) if other.windows.holds(self.windows) else (self.whole(shape), other.whole(shape))
            return both[0].plus(both[1], shape)
        before = self.windows.offset - other.windows.offset
        after = self.windows.size - other.windows.size - before
        values = self.values + F.pad(other.values, (before, after, before, after))
        return replace(self, values=values, leaves_map=self.leaves_map or other.leaves_map)


def products(values: Tensor, other: Tensor) -> Tensor:
    """The scalar products [R] of rows with the one row or the R rows of the other."""
    if len(other) == 1:
        return values.flatten(1) @ other.flatten()
    return torch.linalg.vecdot(values.flatten(1), other.flatten(1))
