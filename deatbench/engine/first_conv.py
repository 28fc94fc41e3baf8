"""The input gradient of a convolution on images of few channels, about twice as fast as the library's on a CPU.

Attacks ask for nothing else, and of a small network's gradient it is up to a third: with 1 to 4 channels to compute,
the backward kernels leave most of a vector register empty. With stride s, padding p and kernel w, per image

    x̄[c, i] = Σ_f Σ_{o, u: s·o + u − p = i} ȳ[f, o] · w[f, c, u].

Stride 1: the products of all output pixels with all taps u are one matrix product; those of a tap belong to pixels
i = o + u − p. Larger strides: with i + p = s·m + r and u = r + s·q,

    x̄[c, s·m + r − p] = Σ_f Σ_q ȳ[f, m − q] · w[f, c, r + s·q],

for each phase r a convolution of stride 1. All phases are channels of one convolution, whose pixels are then put in
their places (Shi et al. 2016, arXiv 1609.07009: a transposed convolution is a sub-pixel convolution).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.engine.vjp import Pull

MOST_CHANNELS = 4
MOST_TAPS = 49  # at stride 1: each is a number per pixel that is kept for a moment
MOST_STRIDE = 4  # each of its squared phases is a pass over its share of the image
LEAST_PRODUCTS = 2**20  # fewer multiplications are over before this file's calls are made

Pair = tuple[int, ...]  # height, width


class FirstConv:
    """A convolution on images of few channels."""

    def __init__(self, stride: Pair, padding: Pair) -> None:
        self.stride, self.padding = stride, padding

    def pays(self, x_NCHW: Tensor, weight: Tensor) -> bool:
        """Whether there is enough to do."""
        pixels = x_NCHW.numel() // x_NCHW.shape[1]
        return pixels * weight.numel() >= LEAST_PRODUCTS * self.stride[0] * self.stride[1]

    def vjp(self, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Pull]:
        """F.conv2d itself, and back to the image by this file's equations, in the image's memory format."""
        find = _by_taps if self.stride == (1, 1) else _by_phases
        size = tuple(x_NCHW.shape[2:])
        last = x_NCHW.is_contiguous(memory_format=torch.channels_last) and not x_NCHW.is_contiguous()
        memory_format = torch.channels_last if last else torch.contiguous_format

        def pull(gradient: Tensor) -> Tensor:
            found_NCHW = find(gradient, weight, self.stride, self.padding, size)
            return found_NCHW.contiguous(memory_format=memory_format)

        return F.conv2d(x_NCHW, weight, bias, self.stride, self.padding), pull


def first_conv(conv: nn.Conv2d, dtype: torch.dtype) -> FirstConv | None:
    """This form of a convolution on the CPU in float32; None where the library's gradient is as fast."""
    if conv.in_channels > MOST_CHANNELS or conv.groups != 1 or conv.dilation != (1, 1):
        return None
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    if dtype != torch.float32 or conv.weight.device.type != "cpu":
        return None
    taps = conv.weight[0, 0].numel()
    covered = taps <= MOST_TAPS if conv.stride == (1, 1) else max(conv.stride) <= MOST_STRIDE
    return FirstConv(conv.stride, conv.padding) if covered else None


def _by_taps(gradient: Tensor, weight: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
    """Stride 1: a matrix product for all taps, whose rows of pixels are shifted and added, then the columns."""
    n, features, rows, columns = gradient.shape
    _, channels, *kernel = weight.shape
    taps = weight.permute(2, 3, 1, 0).reshape(-1, features)
    products = (taps @ gradient.flatten(2)).view(n, *kernel, channels, rows, columns)
    strips = gradient.new_zeros(n, kernel[1], channels, size[0], columns)
    for u in range(kernel[0]):
        to, of = _overlap(u - padding[0], rows, size[0])
        strips[..., to, :] += products[:, u, ..., of, :]
    image_NCHW = gradient.new_zeros(n, channels, *size)
    for v in range(kernel[1]):
        to, of = _overlap(v - padding[1], columns, size[1])
        image_NCHW[..., to] += strips[:, v, ..., of]
    return image_NCHW


def _overlap(shift: int, length: int, pixels: int) -> tuple[slice, slice]:
    """Of i = o + shift: which i of `pixels` there are, and their o of `length`."""
    first, end = max(0, shift), max(0, shift, min(pixels, length + shift))
    return slice(first, end), slice(first - shift, end - shift)


def _by_phases(gradient: Tensor, weight: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
    """Any stride: a convolution whose channels are the phases, then each to its pixels."""
    kernels, reach = _phases(weight, stride)
    phases = F.conv2d(gradient, kernels, padding=(reach[0] - 1, reach[1] - 1))
    phases = phases.unflatten(1, (*stride, weight.shape[1]))
    image_NCHW = gradient.new_zeros(len(gradient), weight.shape[1], *size)
    vertical, horizontal = (
        list(_places(*of_axis)) for of_axis in zip(stride, padding, size, phases.shape[4:], strict=True)
    )
    for (r, to_i, from_i), (t, to_j, from_j) in product(vertical, horizontal):
        image_NCHW[:, :, to_i, to_j] = phases[:, r, t, :, from_i, from_j]
    return image_NCHW


def _phases(weight: Tensor, stride: Pair) -> tuple[Tensor, Pair]:
    """The kernels of all phases, [phase · phase · channel, feature, q, q], and how many q there are on each axis.

    A convolution reads forwards where the sum over q reads backwards: hence flipped.
    """
    features, channels, *kernel = weight.shape
    reach = (-(-kernel[0] // stride[0]), -(-kernel[1] // stride[1]))
    missing = (0, stride[1] * reach[1] - kernel[1], 0, stride[0] * reach[0] - kernel[0])
    taps = F.pad(weight, missing).view(features, channels, reach[0], stride[0], reach[1], stride[1]).flip(2, 4)
    return taps.permute(3, 5, 1, 0, 2, 4).reshape(-1, features, *reach), reach


def _places(stride: int, padding: int, pixels: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """On one axis, for each phase r: (r, its pixels i = s·m + r − p, its m), as far as windows reach."""
    for r in range(stride):
        first = -(-(padding - r) // stride) if padding > r else 0
        end = max(first, min(length, -(-(pixels + padding - r) // stride)))
        at = stride * first + r - padding
        yield r, slice(at, at + stride * (end - first), stride), slice(first, end)
