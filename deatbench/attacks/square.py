"""Square: random search with square-shaped changes; needs no gradient.

Andriushchenko, Croce, Flammarion, Hein 2020, "Square Attack: a query-efficient black-box adversarial attack via random
search" (arXiv 1912.00049), algorithms 1 and 2 (Linf); algorithm 3 (L2) is in square_l2.py. Margin loss; p = 0.8 halved
by the published schedule, not rescaled to the number of queries.

Ours draws each image's windows and signs from that image's own random numbers; the published code shares one window
across a batch, so that its verdicts depend on the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS, Attack
from deatbench.attacks.gradient import margin
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l2 import L2Squares, corner, inside
from deatbench.threats import ThreatModel

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 250  # queries whose random numbers are drawn at once


class LinfSquares:
    """Changes of Algorithm 2: a window in which every channel moves by 2·eps, up or down."""

    places = 2
    signs_per_image = False
    odd_side = False

    def start(self, x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        """Vertical stripes of width 1, at the ball's corners."""
        stripes = (rng.uniform(x_NCHW[:, :, :1, :]) * 2 - 1).sign()
        return (x_NCHW + threat.eps * stripes).clamp_(0.0, 1.0)

    def propose(self, z: Tensor, x: Tensor, u_NP: Tensor, sign_NC: Tensor, side: int, threat: ThreatModel) -> Tensor:
        """The images with one square changed. u in [0, 1): row and column; the last position is never drawn."""
        top, left = corner(u_NP[:, 0], side, z.shape[2]), corner(u_NP[:, 1], side, z.shape[3])
        window = inside(top, left, side, z.shape)
        return threat.project(z + 2 * threat.eps * window * sign_NC[:, :, None, None], x)


@ATTACKS.register("square")
@dataclass(frozen=True)
class Square(Attack):
    """Square attack: score-based random search, 5000 queries (Andriushchenko et al. 2020).

    Args:
        queries: forward passes per image at most (in AutoAttack: 5000).
        p_init: share of the pixels that the first squares cover.
    """

    gradient_free: ClassVar[bool] = True

    queries: int = 5000
    p_init: float = 0.8

    @property
    def name(self) -> str:
        return "square"

    def passes(self, num_classes: int) -> int:
        return self.queries + 1

    def __call__(self, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
        squares = LinfSquares() if threat.norm == "Linf" else L2Squares()
        with torch.no_grad():
            best = squares.start(x_NCHW, threat, rng)
            loss_N = margin(model(best), y_N)
            standing = torch.nonzero(loss_N < 0)[:, 0]
            x, y, z, loss = x_NCHW[standing], y_N[standing], best[standing], loss_N[standing]
            draws = _Draws(rng, x_NCHW, squares)
            for query in range(self.queries):
                if len(standing) == 0:
                    break
                u, sign = draws.at(query, standing)
                side = self._side(query, x_NCHW.shape, squares.odd_side)
                tried = squares.propose(z, x, u, sign, side, threat)
                loss_tried = margin(model(tried), y)
                better = (loss_tried > loss) | (loss_tried >= 0)
                z = torch.where(better[:, None, None, None], tried, z)
                loss = torch.where(better, loss_tried, loss)
                broken = loss >= 0
                if broken.any():
                    best[standing[broken]] = z[broken]
                    standing, x, y, z, loss = (part[~broken] for part in (standing, x, y, z, loss))
            best[standing] = z
        return best

    def _side(self, query: int, shape: torch.Size, odd: bool) -> int:
        """Side of the square at a query, in pixels: the published halving schedule of p."""
        height, width = shape[2:]
        p = self.p_init / 2 ** sum(query > bound for bound in HALVED_AT)
        side = max(round(math.sqrt(p * height * width)), 3 if odd else 1)
        return min(side + (odd and side % 2 == 0), height, width)


class _Draws:
    """The random numbers of each query: places in [0, 1) and signs in {-1, 1}.

    With per-image randomness they come in blocks, a row for each image of the batch; in the published order one by one.
    """

    def __init__(self, rng: ExampleRng, x_NCHW: Tensor, squares: LinfSquares | L2Squares) -> None:
        self.rng, self.x, self.squares = rng, x_NCHW, squares
        self.block = x_NCHW[:0]

    def at(self, query: int, standing: Tensor) -> tuple[Tensor, Tensor]:
        """(u [M, places], sign [M, C]) for the M standing images; M is 1 where the published code shares a draw."""
        places, channels = self.squares.places, self.x.shape[1]
        if not self.rng.per_image:
            u = self.rng.uniform(self.x.new_empty(1, places))
            count = len(standing) if self.squares.signs_per_image else 1
            return u, (self.rng.uniform(self.x.new_empty(count, channels)) * 2 - 1).sign()
        if query % BLOCK == 0:
            self.block = self.rng.uniform(self.x.new_empty(len(self.x), BLOCK, places + channels))
        u = self.block[standing, query % BLOCK]
        return u[:, :places], (u[:, places:] * 2 - 1).sign()
