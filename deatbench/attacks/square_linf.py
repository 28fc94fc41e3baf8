"""The Linf moves of the Square attack: a window in which every channel moves by 2·eps, up or down.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithm 2. L2: square_l2.py; L1: square_l1.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l2 import corner
from deatbench.threats import ThreatModel


@dataclass(frozen=True)
class Windows:
    """P proposals that differ from the best points of A images in one square window each.

    Args:
        z_ACHW: the best points, and of_P whose of them a proposal starts from.
        values_PCS: the windows' pixels, and places_PS where in the flattened image they lie.
        top_P, left_P: the windows' corners; `side` pixels each way.
    """

    z_ACHW: Tensor
    of_P: Tensor
    values_PCS: Tensor
    places_PS: Tensor
    top_P: Tensor
    left_P: Tensor
    side: int

    @property
    def squares_PCSS(self) -> Tensor:
        """The windows as images."""
        return self.values_PCS.unflatten(2, (self.side, self.side))

    def images(self, chosen_M: Tensor | None = None) -> Tensor:
        """The proposals, or some of them: [M, C, H, W]."""
        of, places, values = self.of_P, self.places_PS, self.values_PCS
        if chosen_M is not None:
            of, places, values = of[chosen_M], places[chosen_M], values[chosen_M]
        found = self.z_ACHW.contiguous().index_select(0, of)
        found.flatten(2).scatter_(2, places[:, None].expand_as(values), values)
        return found


class LinfSquares:
    """Changes of Algorithm 2. Only the window is computed: small squares cost next to nothing."""

    places = 2
    signs_per_image = False
    odd_side = False

    def start(self, x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        """Vertical stripes of width 1, at the ball's corners."""
        stripes = (rng.uniform(x_NCHW[:, :, :1, :]) * 2 - 1).sign()
        return (x_NCHW + threat.eps * stripes).clamp_(0.0, 1.0)

    def propose(
        self,
        z_ACHW: Tensor,
        x_ACHW: Tensor,
        of_P: Tensor,
        u_PU: Tensor,
        sign_PC: Tensor,
        side: int,
        threat: ThreatModel,
    ) -> Windows:
        """In some of A images, `of_P`, one square is changed. u in [0, 1): row and column of the window."""
        height, width = z_ACHW.shape[2:]
        top, left = corner(u_PU[:, 0], side, height), corner(u_PU[:, 1], side, width)
        places = _positions(top, left, side, width)
        channels = z_ACHW.shape[1]
        planes = of_P[:, None] * channels + torch.arange(channels, device=of_P.device)
        window = planes[:, :, None] * (height * width) + places[:, None]
        z, x = (images.flatten().index_select(0, window.flatten()).view_as(window) for images in (z_ACHW, x_ACHW))
        moved = threat.project(z + 2 * threat.eps * sign_PC[:, :, None], x)
        return Windows(z_ACHW, of_P, moved, places, top, left, side)

    def variety(self, shape: torch.Size, side: int) -> int:
        """How many different squares there are for an image: windows times signs of the channels."""
        channels, height, width = shape[1:]
        return _corners(height, side) * _corners(width, side) * 2**channels

    def number(self, u_QU: Tensor, sign_QC: Tensor, side: int, shape: torch.Size) -> Tensor:
        """Which of these each draw means, [...]."""
        height, width = shape[2:]
        window = corner(u_QU[..., 0], side, height) * _corners(width, side) + corner(u_QU[..., 1], side, width)
        for channel in range(shape[1]):
            window = 2 * window + (sign_QC[..., channel] > 0)
        return window

    def idle(self, z_ACHW: Tensor, x_ACHW: Tensor, side: int, threat: ThreatModel) -> Tensor:
        """Which of these change nothing in each image, because its window stands where they would move it: [A, V]."""
        rows, columns = (_corners(edge, side) for edge in z_ACHW.shape[2:])
        stays = []  # by sign: windows [A, C, rows, columns] in which no pixel would move by more than rounding
        for step in (-2 * threat.eps, 2 * threat.eps):
            change = (threat.project(z_ACHW + step, x_ACHW) - z_ACHW).abs_()
            stays.append(F.max_pool2d(change, side, stride=1)[..., :rows, :columns] <= threat.tolerance)
        idle = stays[0].new_ones(len(z_ACHW), rows, columns, 1)
        for channel in range(z_ACHW.shape[1]):
            each = torch.stack([windows[:, channel] for windows in stays], dim=-1)
            idle = (idle[..., :, None] & each[..., None, :]).flatten(-2)
        return idle.flatten(1)


def _positions(top: Tensor, left: Tensor, side: int, width: int) -> Tensor:
    """Where in the flattened image each window's pixels lie: one more axis, of side² places."""
    line = torch.arange(side, device=top.device)
    square = (line[:, None] * width + line).flatten()
    return (top * width + left)[..., None] + square


def _corners(length: int, side: int) -> int:
    """How many first rows or columns are drawn (square_l2.corner)."""
    return max(1, length - side)
