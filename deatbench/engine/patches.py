"""A window that changed, carried from one map of a network to the next, and the known maps that it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.engine.shadow_layers import ShadowConv


class Span(NamedTuple):
    """Along one axis: `size` pixels from `start_P`, of each of P images its own."""

    start_P: Tensor
    size: int

    @property
    def places_PS(self) -> Tensor:
        """The pixels."""
        return self.start_P[:, None] + torch.arange(self.size)

    def holds(self, other: Span) -> bool:
        """Whether the other lies inside, in every image."""
        ends = self.start_P + self.size >= other.start_P + other.size
        return bool(((self.start_P <= other.start_P) & ends).all())


@dataclass(frozen=True)
class Patch:
    """What changed of a map: values [P, C, h, w] at some rows and columns, all inside the map."""

    values_PCHW: Tensor
    rows: Span
    columns: Span


class Taps(NamedTuple):
    """Along one axis: how a layer's outputs see its inputs."""

    kernel: int
    stride: int
    padding: int

    def outputs(self, length: int) -> int:
        """How many outputs there are on an axis of `length` pixels."""
        return (length + 2 * self.padding - self.kernel) // self.stride + 1

    def reached(self, span: Span, length: int) -> Span:
        """The outputs that a changed span of an axis of `length` pixels reaches, kept inside the map."""
        outputs = self.outputs(length)
        size = min((span.size + self.kernel - 2) // self.stride + 1, outputs)
        behind_P = self.kernel - 1 - self.padding - span.start_P
        return Span((-behind_P.div(self.stride, rounding_mode="floor")).clamp(0, outputs - size), size)

    def seen(self, span: Span) -> Span:
        """The inputs that these outputs see, up to `padding` of them outside the map."""
        return Span(span.start_P * self.stride - self.padding, (span.size - 1) * self.stride + self.kernel)


@dataclass(frozen=True)
class Layer:
    """A layer of taps: along the rows, along the columns, and what it computes of an input that is padded already.

    `products` is how many multiplications an output pixel costs, over all channels.
    """

    rows: Taps
    columns: Taps
    run: Callable[[Tensor], Tensor]
    products: int = 0

    @classmethod
    def of(cls, module: nn.Module) -> Layer | None:
        """None for what is no such layer, or of a kind that is left to the network itself."""
        if isinstance(module, ShadowConv) and not module.fill and not isinstance(module.padding, str):
            taps, wide = module.weight.shape[2:], module.dilation
            kernel = [(count - 1) * each + 1 for count, each in zip(taps, wide, strict=True)]
            rows, columns = (Taps(*edge) for edge in zip(kernel, module.stride, module.padding, strict=True))
            return cls(rows, columns, _conv(module), module.weight.numel())
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and not module.ceil_mode:
            edges = [_pair(edge) for edge in (module.kernel_size, module.stride, module.padding)]
            if edges[2] == (0, 0) and _pair(getattr(module, "dilation", 1)) == (1, 1):
                rows, columns = (Taps(*edge) for edge in zip(*edges, strict=True))
                return cls(rows, columns, module)
        return None


def _conv(conv: ShadowConv) -> Callable[[Tensor], Tensor]:
    return lambda x_PCHW: F.conv2d(x_PCHW, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


class KnownMap:
    """A map of N known images, in memory as [N, H, W, C] with `pad` zeros around."""

    def __init__(self, images: int, shape: torch.Size, pad: int) -> None:
        channels, self.height, self.width = shape
        self.pad = pad
        self.values_NHWC = torch.zeros(images, self.height + 2 * pad, self.width + 2 * pad, channels)

    def write(self, of_M: Tensor, values_MCHW: Tensor) -> None:
        """The maps of images `of_M`, from now on."""
        self._inner(self.values_NHWC)[of_M] = values_MCHW.permute(0, 2, 3, 1)

    def cut(self, of_P: Tensor, patch: Patch, rows: Span, columns: Span) -> Tensor:
        """The maps of images `of_P` with what `patch` changed, cut to these spans: [P, C, h, w]."""
        height, width, channels = self.values_NHWC.shape[1:]
        lines_PH = of_P[:, None] * height + rows.places_PS + self.pad
        places_PHW = lines_PH[:, :, None] * width + columns.places_PS[:, None] + self.pad
        found = self.values_NHWC.view(-1, channels).index_select(0, places_PHW.flatten())
        _write(found, patch, rows, columns)
        return found.view(len(of_P), rows.size, columns.size, channels).permute(0, 3, 1, 2)

    def whole(self, of_P: Tensor, patch: Patch) -> Tensor:
        """The maps of images `of_P` with what `patch` changed: [P, C, H, W]."""
        height, width, channels = self.values_NHWC.shape[1:]
        found_PHWC = self.values_NHWC.flatten(1).index_select(0, of_P).view(-1, height, width, channels)
        start_P = torch.full_like(of_P, -self.pad)
        _write(found_PHWC.view(-1, channels), patch, Span(start_P, height), Span(start_P, width))
        return self._inner(found_PHWC).permute(0, 3, 1, 2)

    def _inner(self, padded_NHWC: Tensor) -> Tensor:
        return padded_NHWC[:, self.pad : self.pad + self.height, self.pad : self.pad + self.width]


def _write(cut: Tensor, patch: Patch, rows: Span, columns: Span) -> None:
    """Put the patch where it lies in a cut of its map, [P · h · w, C]; what lies outside the cut is left out."""
    at_PH = patch.rows.places_PS - rows.start_P[:, None]
    at_PW = patch.columns.places_PS - columns.start_P[:, None]
    lines_PH = torch.arange(len(at_PH))[:, None] * rows.size + at_PH
    places = (lines_PH[:, :, None] * columns.size + at_PW[:, None]).flatten()
    values = patch.values_PCHW.permute(0, 2, 3, 1).reshape(-1, cut.shape[1])
    if not (rows.holds(patch.rows) and columns.holds(patch.columns)):
        inside_PH, inside_PW = (at_PH >= 0) & (at_PH < rows.size), (at_PW >= 0) & (at_PW < columns.size)
        inside = (inside_PH[:, :, None] & inside_PW[:, None]).flatten()
        places, values = places[inside], values[inside]
    cut.index_copy_(0, places, values)
