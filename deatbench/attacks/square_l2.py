"""The L2 moves of the Square attack: mass of the perturbation goes from one window to another.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithm 3 and equation 2: a window's change is a
pair of pyramids of opposite sign; what a second window and the unused budget hold is added to it. L1: square_l1.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deatbench.attacks.rng import ExampleRng
from deatbench.threats import ThreatModel

_TINY = 1e-12


@dataclass(frozen=True)
class Whole:
    """P proposals whose every pixel may differ: [P, C, H, W]."""

    tried_PCHW: Tensor

    def images(self, chosen_M: Tensor | None = None) -> Tensor:
        """The proposals, or some of them: [M, C, H, W]."""
        return self.tried_PCHW if chosen_M is None else self.tried_PCHW[chosen_M]


class L2Squares:
    """Changes of Algorithm 3. Another norm has its own `power`, `steepness`, `length_of` and `bounded`."""

    power = 2.0  # of the norm
    steepness = 2  # a pyramid's k-th rectangle adds 1 / k^steepness
    places = 5  # row and column of both windows, and whether the pyramids lie on their side
    signs_per_image = True
    odd_side = True

    def start(self, x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        """A 5 x 5 grid of pyramid pairs with random signs, brought to the ball's surface."""
        height, width = x_NCHW.shape[2:]
        side = max(height // 5, 1)
        first = (height - side * 5) // 2
        delta = torch.zeros_like(x_NCHW)
        for top in range(first, first + (height // side) * side, side):
            for left in range(first, first + (width // side) * side, side):
                turned = rng.uniform(x_NCHW.new_empty(len(x_NCHW) if rng.per_image else 1, 1))[:, 0]
                sign = (rng.uniform(x_NCHW[:, :, :1, :1]) * 2 - 1).sign()
                patch = self._pyramids(side, turned) * sign
                room = delta[:, :, top : top + side, left : left + side]
                room += patch[:, :, : room.shape[2], : room.shape[3]]
        return self.bounded(x_NCHW, delta, threat)

    def propose(
        self,
        z_ACHW: Tensor,
        x_ACHW: Tensor,
        of_P: Tensor,
        u_PU: Tensor,
        sign_PC: Tensor,
        side: int,
        threat: ThreatModel,
    ) -> Whole:
        """In some of A images, `of_P`, a window's change is rebuilt from its own, another's and the unused budget."""
        z, x = z_ACHW[of_P], x_ACHW[of_P]
        delta = z - x
        top, left = corner(u_PU[:, 0], side, z.shape[2]), corner(u_PU[:, 1], side, z.shape[3])
        here = inside(top, left, side, z.shape)
        there = inside(corner(u_PU[:, 2], side, z.shape[2]), corner(u_PU[:, 3], side, z.shape[3]), side, z.shape)
        fresh = _placed(self._pyramids(side, u_PU[:, 4]), top, left, z.shape) * sign_PC[:, :, None, None]
        fresh = fresh + delta * here / (_TINY + self._length(delta * here))
        held = self._length(delta * torch.maximum(here, there))
        fresh = fresh / (_TINY + self._length(fresh)) * self.length_of(self._unused(delta, threat), held, z.shape[1])
        delta = torch.where(here > 0, fresh, torch.where(there > 0, torch.zeros_like(delta), delta))
        return Whole(self.bounded(x, delta, threat))

    def length_of(self, unused_N111: Tensor, held_NC11: Tensor, channels: int) -> Tensor:
        """Length of a channel's new window: its share of the unused budget and what both windows held."""
        return (unused_N111 / channels + held_NC11.square()).sqrt()

    def bounded(self, x_NCHW: Tensor, delta_NCHW: Tensor, threat: ThreatModel) -> Tensor:
        """The image changed by delta, scaled to length eps, inside [0, 1]."""
        length = self._length(delta_NCHW, dims=(1, 2, 3)) + _TINY
        return (x_NCHW + delta_NCHW / length * threat.eps).clamp_(0.0, 1.0)

    def _unused(self, delta_NCHW: Tensor, threat: ThreatModel) -> Tensor:
        used = self._length(delta_NCHW, dims=(1, 2, 3))
        return (threat.eps**self.power - used**self.power).clamp_min(0.0)

    def _length(self, delta: Tensor, dims: tuple[int, ...] = (2, 3)) -> Tensor:
        return torch.linalg.vector_norm(delta, ord=self.power, dim=dims, keepdim=True)

    def _pyramids(self, side: int, turned_N: Tensor) -> Tensor:
        """Two pyramids of opposite sign, length 1, [N, 1, side, side]; on their side where turned > 0.5."""
        device = turned_N.device
        pair = torch.cat((self._pyramid(side // 2, side, device), -self._pyramid(side - side // 2, side, device)))
        pair = pair / self._length(pair, dims=(0, 1))
        return torch.where((turned_N > 0.5)[:, None, None, None], pair.T, pair)

    def _pyramid(self, height: int, width: int, device: torch.device) -> Tensor:
        """Nested rectangles, the k-th adding 1 / k^steepness, length 1, [height, width]."""
        pyramid = torch.zeros(height, width, device=device)
        row, column = height // 2, width // 2
        for k in range(max(row, column) + 1):
            rows = slice(max(row - k, 0), min(row + k + 1, height))
            columns = slice(max(column - k, 0), min(column + k + 1, width))
            pyramid[rows, columns] += 1.0 / (k + 1) ** self.steepness
        return pyramid / self._length(pyramid, dims=(0, 1)) if height else pyramid


def corner(u_N: Tensor, side: int, length: int) -> Tensor:
    """First row or column of the window; the last position is never drawn, as published."""
    return (u_N * (length - side)).long()


def inside(top_N: Tensor, left_N: Tensor, side: int, shape: torch.Size) -> Tensor:
    """1 inside each image's square window, 0 elsewhere, [N, 1, H, W]."""
    rows = torch.arange(shape[2], device=top_N.device) - top_N[:, None]
    columns = torch.arange(shape[3], device=top_N.device) - left_N[:, None]
    in_rows, in_columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return (in_rows[:, None, :, None] & in_columns[:, None, None, :]).float()


def _placed(patch_N1SS: Tensor, top_N: Tensor, left_N: Tensor, shape: torch.Size) -> Tensor:
    """Each image's patch at its corner on a canvas of zeros, [N, 1, H, W]."""
    side = patch_N1SS.shape[-1]
    rows = (torch.arange(shape[2], device=top_N.device) - top_N[:, None]).clamp(0, side - 1)
    columns = (torch.arange(shape[3], device=top_N.device) - left_N[:, None]).clamp(0, side - 1)
    image = torch.arange(len(patch_N1SS), device=top_N.device)[:, None, None]
    spread = patch_N1SS[:, 0][image, rows[:, :, None], columns[:, None, :]][:, None]
    return spread * inside(top_N, left_N, side, shape)
