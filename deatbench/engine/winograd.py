"""Convolutions of 3 × 3 taps with a quarter of the multiplications: F(4 × 4, 3 × 3) in float32 on the CPU.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308): of an output tile of 4 × 4
pixels, which sees 6 × 6 pixels d of the input, one channel through one kernel w is

    Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A:

36 products instead of 144; summed over channels they are 36 matrix products [tiles, C] · [C, F]. The matrices evaluate
polynomials at 0, 1, −1, ½, −2 and ∞, the points that Barabasz et al. 2020 (arXiv 1803.10986) found to lose fewest
digits: two to three times the rounding of the direct convolution, on the last of float32's seven digits.

The library's direct kernels run at a core's peak; these products do not quite, and transforming tiles costs memory
traffic. It pays from 64 channels on and where tiles cover the map without much waste (`WinogradConv.pays`).
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.engine.vjp import Pull

POINTS = [Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)]  # and infinity
TILE, TAPS, SEEN = 4, 3, 6  # pixels of an output tile's side, of the kernel's, and of the input that a tile sees
AT_ONE = SEEN + 1  # of the 36 places (i, j): both at the point 1, which counts once in every pixel of the tile
CACHED_TILES = 128  # as many as leave their transforms in a core's cache
LEAST_TILES = 32  # below, the matrix products are too narrow
LEAST_PAIRS = 64 * 64  # of input and output channels


class WinogradConv:
    """A convolution's present weights in transformed form, made when first asked for: forth, and back for gradients.

    Threads may share it: a form is replaced as a whole, and written to by `renew` only.
    """

    def __init__(self, padding: int) -> None:
        self.padding = padding
        self._forth: tuple[tuple[int, int], Tensor] | None = None
        self._back: tuple[tuple[int, int], Tensor] | None = None

    def pays(self, x_NCHW: Tensor, weight: Tensor) -> bool:
        """Whether tiles fit this map, with a third of the direct products or fewer, and are enough.

        On one thread: products as narrow as these lose by being parted among several; images are better parted.
        """
        height, width = (edge + 2 * self.padding - TAPS + 1 for edge in x_NCHW.shape[2:])
        tiles = -(-height // TILE) * -(-width // TILE)
        one_thread = torch.get_num_threads() == 1
        return one_thread and 3 * SEEN**2 * tiles <= TAPS**2 * height * width and len(x_NCHW) * tiles >= LEAST_TILES

    def vjp(self, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Pull]:
        """As F.conv2d with this padding and stride 1, and back to the image; channels last."""
        y_NFHW = _convolve(x_NCHW, self.forth(weight), bias, self.padding)
        return y_NFHW, lambda gradient: _convolve(gradient, self.back(weight), None, TAPS - 1 - self.padding)

    def forth(self, weight: Tensor) -> Tensor:
        """[36, C, F]."""
        made = self._forth
        if made is None or made[0] != _state(weight):
            made = self._forth = _state(weight), _transformed(weight)
        return made[1]

    def back(self, weight: Tensor) -> Tensor:
        """[36, F, C]."""
        made = self._back
        if made is None or made[0] != _state(weight):
            made = self._back = _state(weight), _transformed(_turned(weight))
        return made[1]

    def renew(self, weight: Tensor) -> None:
        """The forms that are there take over the present weights, in place: programs read them too (scripted.py)."""
        if self._forth is not None:
            self._forth = _state(weight), self._forth[1].copy_(_transformed(weight))
        if self._back is not None:
            self._back = _state(weight), self._back[1].copy_(_transformed(_turned(weight)))


def winograd_conv(conv: nn.Conv2d, dtype: torch.dtype) -> WinogradConv | None:
    """The transformed form of a convolution on the CPU in float32; None for kinds that it does not cover."""
    plain = conv.groups == 1 and conv.dilation == conv.stride == (1, 1) and conv.padding_mode == "zeros"
    if not plain or conv.kernel_size != (TAPS, TAPS) or conv.padding not in ((0, 0), (1, 1), (2, 2)):
        return None
    if dtype != torch.float32 or conv.weight.device.type != "cpu" or conv.in_channels * conv.out_channels < LEAST_PAIRS:
        return None
    return WinogradConv(int(conv.padding[0]))


def _convolve(x_NCHW: Tensor, kernels_36CF: Tensor, bias_F: Tensor | None, padding: int) -> Tensor:
    n, channels, *edges = x_NCHW.shape
    features = kernels_36CF.shape[2]
    height, width = (edge + 2 * padding - TAPS + 1 for edge in edges)
    rows, columns = -(-height // TILE), -(-width // TILE)
    margins = (0, 0, padding, TILE * columns - width + padding, padding, TILE * rows - height + padding)
    covered = (n, features, TILE * rows, TILE * columns)
    y_NFHW = torch.empty(covered, dtype=x_NCHW.dtype, memory_format=torch.channels_last)
    x_NHWC, y_NHWF = x_NCHW.permute(0, 2, 3, 1), y_NFHW.permute(0, 2, 3, 1)
    pieces = max(1, n * rows * columns // CACHED_TILES)
    for x_MHWC, y_MHWF in zip(x_NHWC.chunk(pieces), y_NHWF.chunk(pieces), strict=True):
        seen_IJMRSC = F.pad(x_MHWC, margins).unfold(1, SEEN, TILE).unfold(2, SEEN, TILE).permute(4, 5, 0, 1, 2, 3)
        products_36TF = torch.bmm(_on_both_axes(BT, seen_IJMRSC).view(SEEN**2, -1, channels), kernels_36CF)
        if bias_F is not None:
            products_36TF[AT_ONE] += bias_F
        tiles = _on_both_axes(AT, products_36TF.view(SEEN, SEEN, -1)).view(TILE, TILE, -1, rows, columns, features)
        y_MHWF.view(-1, rows, TILE, columns, TILE, features).permute(2, 4, 0, 1, 3, 5).copy_(tiles)
    if covered[2:] == (height, width):
        return y_NFHW
    return y_NFHW[:, :, :height, :width].clone(memory_format=torch.channels_last)  # a view is not written over


def _on_both_axes(matrix: Tensor, x: Tensor) -> Tensor:
    """M x Mᵀ over the first two axes, the others made one: [I, J, …] → [I', J', …]."""
    matrix = matrix.to(x.dtype)
    rows = (matrix @ x.reshape(len(x), -1)).view(len(matrix), x.shape[1], -1)
    return matrix @ rows


def _transformed(weight_FCUV: Tensor) -> Tensor:
    """G w Gᵀ for every pair of channels, [36, C, F]."""
    return _on_both_axes(G, weight_FCUV.permute(2, 3, 1, 0)).view(SEEN**2, weight_FCUV.shape[1], -1)


def _turned(weight_FCUV: Tensor) -> Tensor:
    """As a gradient meets it, going back: taps in the opposite order, channels and features exchanged."""
    return weight_FCUV.flip(2, 3).transpose(0, 1)


def _state(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), weight._version  # counts every write


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Aᵀ [4, 6], Bᵀ [6, 6] and G [6, 3]: Cook and Toom's interpolation through POINTS and infinity, transposed."""
    others = [[q for q in POINTS if q != point] for point in POINTS]
    lengths = [
        math.prod((point - q for q in rest), start=Fraction(1)) for point, rest in zip(POINTS, others, strict=True)
    ]
    powers = [[point**k for k in range(TILE)] for point in POINTS]
    at = [*powers, [Fraction(k == TILE - 1) for k in range(TILE)]]
    g = [[p / length for p in row[:TAPS]] for row, length in zip(powers, lengths, strict=True)]
    g.append([Fraction(k == TAPS - 1) for k in range(TAPS)])
    bt = [[*_polynomial(rest), Fraction(0)] for rest in others]
    bt.append(_polynomial(POINTS))
    transposed = [list(column) for column in zip(*at, strict=True)]
    a, b, c = (torch.tensor([[float(v) for v in row] for row in m], dtype=torch.float64) for m in (transposed, bt, g))
    return a, b, c


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """The coefficients of Π (x − root), the constant first."""
    zero, found = Fraction(0), [Fraction(1)]
    for root in roots:
        found = [lower - root * same for lower, same in zip([zero, *found], [*found, zero], strict=True)]
    return found


AT, BT, G = _matrices()
