"""Which proposals of the Square attack in Linf are rejected unasked: those that change nothing, and repetitions.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithms 1 and 2. A square moves each channel to one
of two values: of one pixel of a grey image it changes nothing in half of the draws. And a small image has few small
squares: 8 × 8 grey pixels have 98, among which the published schedule draws 4500 times. What was rejected at a point is
rejected there again. So the search walks as it would, and asks for fewer passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.attacks.square_linf import LinfSquares
from deatbench.threats import ThreatModel

MOST_VARIETY = 2  # different squares for each query to come; with more, few are drawn twice
_NEVER, _ALWAYS = 2**31 - 1, -1


class Repeats:
    """For squares of one size: the first query of each image, since its point last moved, that makes each of them.

    Args:
        squares: what numbers them.
        x_NCHW: the images.
        side: of the squares, in pixels.
        threat: the ball.
    """

    def __init__(self, squares: LinfSquares, x_NCHW: Tensor, side: int, threat: ThreatModel) -> None:
        self.squares, self.x_NCHW, self.side, self.threat = squares, x_NCHW, side, threat
        shape = (len(x_NCHW), squares.variety(x_NCHW.shape, side))
        self.first_NV = torch.full(shape, _NEVER, dtype=torch.int32, device=x_NCHW.device)

    def moved(self, images_M: Tensor, z_MCHW: Tensor) -> None:
        """The points of these images are `z_MCHW` from now on: only what changes nothing is known of them."""
        idle_MV = self.squares.idle(z_MCHW, self.x_NCHW[images_M], self.side, self.threat)
        self.first_NV[images_M] = torch.where(idle_MV, _ALWAYS, _NEVER).int()

    def new(self, images_A: Tensor, queries_AK: Tensor, u_AKU: Tensor, sign_AKC: Tensor) -> Tensor:
        """Which of the queries to come must be asked, bool [A, K]. An image's follow one another, without gaps."""
        numbers_AK = self.squares.number(u_AKU, sign_AKC, self.side, self.x_NCHW.shape)
        places = (images_A[:, None] * self.first_NV.shape[1] + numbers_AK).flatten()
        first = self.first_NV.view(-1)
        first.scatter_reduce_(0, places, queries_AK.flatten().int(), "amin")
        return first[places].view_as(queries_AK) == queries_AK
