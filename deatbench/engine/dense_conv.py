"""A convolution on a map with fewer pixels than its kernel has taps, as one matrix product.

On a map of 2 × 2 pixels a 3 × 3 kernel meets the image with 4 of its 9 taps; the library multiplies by zeros with the
rest, on few pixels far below a core's peak. As a matrix from all input pixels to all output pixels

    M[(o, f), (i, c)] = w[f, c, i − s·o + p], 0 outside the kernel,

it has H·W·C columns where the kernel's form has k·k·C: fewer products wherever H·W < k·k. The deep layers of networks
for 32 × 32 images, and most layers on 8 × 8 ones, are such. Backward is the transposed product.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn

from deatbench.engine.vjp import Pull

Pair = tuple[int, ...]  # height, width
Key = tuple[int, int, int | None]
Made = tuple[Key, Tensor, Tensor | None]


class DenseConv:
    """The matrix of a convolution's present weights for a size of map, made when it is first asked for.

    Threads may share it: a matrix is replaced as a whole, and written to by `renew` only.
    """

    def __init__(self, stride: Pair, padding: Pair) -> None:
        self.stride, self.padding = stride, padding
        self._made: dict[Pair, Made] = {}

    def pays(self, x_NCHW: Tensor, weight: Tensor) -> bool:
        """Whether the matrix multiplies less than the kernel."""
        return x_NCHW.shape[2] * x_NCHW.shape[3] < weight.shape[2] * weight.shape[3]

    def vjp(self, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Pull]:
        """As F.conv2d, and back to the image; channels last."""
        size = tuple(x_NCHW.shape[2:])
        made = self._made.get(size)
        if made is None or made[0] != _key(weight, bias):
            made = self._made[size] = self._make(size, weight, bias)
        _, matrix, offsets = made
        y_NFHW = _product(_flat(x_NCHW), matrix.t(), offsets, self._out(size, weight))
        return y_NFHW, lambda gradient: _product(_flat(gradient), matrix, None, size)

    def renew(self, weight: Tensor, bias: Tensor | None) -> None:
        """The matrices that are there take over the present weights, in place: programs read them too (scripted.py)."""
        for size, (_, matrix, offsets) in self._made.items():
            key, new_matrix, new_offsets = self._make(size, weight, bias)
            matrix.copy_(new_matrix)
            if offsets is not None and new_offsets is not None:
                offsets.copy_(new_offsets)
            self._made[size] = key, matrix, offsets

    def _make(self, size: Pair, weight: Tensor, bias: Tensor | None) -> Made:
        out = self._out(size, weight)
        offsets = None if bias is None else bias.repeat(out[0] * out[1])
        return _key(weight, bias), _matrix(weight, self.stride, self.padding, size, out), offsets

    def _out(self, size: Pair, weight: Tensor) -> Pair:
        edges = zip(size, self.padding, weight.shape[2:], self.stride, strict=True)
        return tuple((edge + 2 * pad - taps) // step + 1 for edge, pad, taps, step in edges)


def dense_conv(conv: nn.Conv2d, dtype: torch.dtype) -> DenseConv | None:
    """The matrix form of a convolution on the CPU in float32; None for kinds that it does not cover."""
    covered = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    if not covered or isinstance(conv.padding, str) or dtype != torch.float32 or conv.weight.device.type != "cpu":
        return None
    return DenseConv(conv.stride, conv.padding)


def _key(weight: Tensor, bias: Tensor | None) -> Key:
    return weight.data_ptr(), weight._version, None if bias is None else bias._version  # counts every write


def _flat(x_NCHW: Tensor) -> Tensor:
    """[N, H·W·C]."""
    return x_NCHW.permute(0, 2, 3, 1).reshape(len(x_NCHW), -1)


def _product(x_ND: Tensor, matrix_DE: Tensor, offsets_E: Tensor | None, size: Pair) -> Tensor:
    """x · matrix + offsets as maps, channels last; not as a view, which autograd would not have written over."""
    n, channels = len(x_ND), matrix_DE.shape[1] // math.prod(size)
    y_NCHW = torch.empty((n, channels, *size), dtype=x_ND.dtype, memory_format=torch.channels_last)
    y_NE = y_NCHW.permute(0, 2, 3, 1).view(n, -1)
    if offsets_E is None:
        torch.mm(x_ND, matrix_DE, out=y_NE)
    else:
        torch.addmm(offsets_E, x_ND, matrix_DE, out=y_NE)
    return y_NCHW


def _matrix(weight: Tensor, stride: Pair, padding: Pair, size: Pair, out: Pair) -> Tensor:
    filters, channels, *taps = weight.shape
    matrix = weight.new_zeros(*out, filters, *size, channels)
    for place in product(*map(range, (*out, *size))):
        tap = [place[2 + axis] - stride[axis] * place[axis] + padding[axis] for axis in (0, 1)]
        if 0 <= tap[0] < taps[0] and 0 <= tap[1] < taps[1]:
            matrix[place[0], place[1], :, place[2], place[3]] = weight[:, :, tap[0], tap[1]]
    return matrix.view(out[0] * out[1] * filters, size[0] * size[1] * channels)
