"""What a certified network is made of: affine layers, and how intervals go forth and rows go back through each.

`forward` maps a box to the smallest box that holds its image; `back` maps rows at the output to rows at each input and
to the constants that they leave behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from deatbench.certificates.rows import Rows


class Box(NamedTuple):
    """All maps between two, element by element; both [C, H, W] or [D]."""

    lower: Tensor
    upper: Tensor

    @property
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2

    @classmethod
    def around(cls, center: Tensor, radius: Tensor) -> Box:
        return cls(center - radius, center + radius)


class Back(NamedTuple):
    """Rows at each input of a layer, and the constant [R] that each row leaves behind."""

    rows: tuple[Rows, ...]
    constant_R: Tensor | float = 0.0


@dataclass(frozen=True)
class Conv:
    """Cross-correlation with zeros around: weight [C', C, k, k], bias [C'], maps [C, H, W] to [C', H', W'].

    Where zeros are needed in front only, there are outputs beyond H' and W' that nobody asks for.
    """

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int
    shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def forward(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box.around(
            self._run(box.center, self.weight) + self.bias[:, None, None], self._run(box.radius, self.weight.abs())
        )

    def _run(self, map_CHW: Tensor, weight: Tensor) -> Tensor:
        height, width = self.out_shape[1:]
        return F.conv2d(map_CHW[None], weight, None, self.stride, self.padding)[0, :, :height, :width]

    def back(self, rows: Rows) -> Back:
        rows = rows.inside(self.out_shape)
        constant_R = rows.values.sum((2, 3)) @ self.bias
        if rows.windows is None:
            return Back((Rows(self._transposed(rows.values, self.padding, self.shape[1:])),), constant_R)
        windows = rows.windows.before(self.weight.shape[2], self.stride, self.padding)
        found = Rows(self._transposed(rows.values, 0, (windows.size, windows.size)), windows, rows.place_R, True)
        return Back((found.whole(self.shape) if windows.covers(self.shape) else found,), constant_R)

    def _transposed(self, values: Tensor, first: int, size: Sequence[int]) -> Tensor:
        """Rows [R, C', h, w] at their inputs, of which `size` are wanted from the one at `first` on: [R, C, *size]."""
        taps = self._phases.shape[2]
        blocks = F.conv2d(values, self._phases, padding=taps - 1)
        if self.stride == 1 and first == 0:
            return blocks
        found = values.new_zeros(len(values), self.weight.shape[1], *size)
        each = blocks.unflatten(1, (self.weight.shape[1], -1)).unbind(2)
        for phase, (row, column) in zip(
            each, itertools.product(range(min(self.stride, self.weight.shape[2])), repeat=2), strict=True
        ):
            (to_rows, rows), (to_columns, columns) = (
                _of_phase(start - first, self.stride, length, count)
                for start, length, count in zip((row, column), size, phase.shape[2:], strict=True)
            )
            found[:, :, to_rows, to_columns] = phase[:, :, rows, columns]
        return found

    @cached_property
    def _phases(self) -> Tensor:
        """The transposed convolution as one of stride 1, whose channels are the phases of the input's pixels.

        Phase (a, b) are the pixels a rows and b columns behind a multiple of the stride. Without taps it is left out.
        """
        stride, (outputs, inputs, kernel, _) = self.stride, self.weight.shape
        taps, some = -(-kernel // stride), min(stride, kernel)
        padded = F.pad(self.weight, (0, taps * stride - kernel) * 2)
        parts = padded.view(outputs, inputs, taps, stride, taps, stride)[:, :, :, :some, :, :some]
        return parts.permute(1, 3, 5, 0, 2, 4).reshape(inputs * some**2, outputs, taps, taps).flip(2, 3).contiguous()


@dataclass(frozen=True)
class Dense:
    """weight [D', D], bias [D']."""

    weight: Tensor
    bias: Tensor

    def forward(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box.around(self.weight @ box.center + self.bias, self.weight.abs() @ box.radius)

    def back(self, rows: Rows) -> Back:
        return Back((Rows(rows.values @ self.weight),), rows.values @ self.bias)


@dataclass(frozen=True)
class Scale:
    """A factor and a shift for each channel, as maps of the input's rank: [C, 1, 1] or [D]."""

    factor: Tensor
    shift: Tensor
    shape: tuple[int, ...]

    def forward(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box.around(box.center * self.factor + self.shift, box.radius * self.factor.abs())

    def back(self, rows: Rows) -> Back:
        rows = rows.inside(self.shape)
        constants = rows.values.flatten(2).sum(2) if rows.values.ndim == 4 else rows.values
        return Back((rows.with_values(rows.values * self.factor),), constants @ self.shift.flatten())


@dataclass(frozen=True)
class Unshuffle:
    """Blocks of pixels become channels. It stands in front of the first layer, where no row arrives."""

    block: int

    def forward(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box(*(F.pixel_unshuffle(side, self.block) for side in box))


@dataclass(frozen=True)
class Flatten:
    """[C, H, W] to [D]."""

    shape: tuple[int, ...]

    def forward(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box(box.lower.flatten(), box.upper.flatten())

    def back(self, rows: Rows) -> Back:
        return Back((Rows(rows.values.reshape(len(rows), *self.shape)),))


@dataclass(frozen=True)
class Sum:
    """The sum of two maps of one shape."""

    def forward(self, *boxes: Box) -> Box:
        one, other = boxes
        return Box(one.lower + other.lower, one.upper + other.upper)

    def back(self, rows: Rows) -> Back:
        return Back((rows, rows))


@dataclass(frozen=True)
class ReLU:
    """max(0, ·)."""

    def forward(self, *boxes: Box) -> Box:
        (box,) = boxes
        return Box(box.lower.clamp_min(0), box.upper.clamp_min(0))


Layer = Conv | Dense | Scale | Flatten | Sum | ReLU
Entrance = Scale | Unshuffle  # what happens to pixels one by one, before the first layer


def _of_phase(start: int, stride: int, length: int, count: int) -> tuple[slice, slice]:
    """Of `length` pixels those at `start`, `start + stride`, …, and which of the phase's `count` pixels they are."""
    skipped = max(0, -(start // stride))
    start += skipped * stride
    taken = max(0, min(count - skipped, -((start - length) // stride)))
    return slice(start, start + taken * stride, stride), slice(skipped, skipped + taken)


def outputs(length: int, kernel: int, stride: int, padding: int) -> int:
    """How many outputs a convolution has along an axis."""
    return (length + 2 * padding - kernel) // stride + 1


def on_blocks(conv: Conv) -> Conv:
    """The same convolution on the blocks of stride × stride pixels that `Unshuffle` makes channels of."""
    stride, padding, kernel, (channels, height, width) = conv.stride, conv.padding, conv.weight.shape[2], conv.shape
    before = -(-padding // stride)  # blocks in front of an output's own
    blocks = before + (kernel - 1 - padding) // stride + 1
    first = before * stride - padding
    last = blocks * stride - kernel - first
    taps = F.pad(conv.weight, (first, last, first, last)).unflatten(3, (blocks, stride)).unflatten(2, (blocks, stride))
    weight = taps.permute(0, 1, 3, 5, 2, 4).flatten(1, 3).contiguous()
    shape = (channels * stride**2, height // stride, width // stride)
    return replace(conv, weight=weight, stride=1, padding=before, shape=shape)
