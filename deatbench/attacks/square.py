"""Square: random search with square-shaped changes; needs no gradient.

Andriushchenko, Croce, Flammarion, Hein 2020, "Square Attack: a query-efficient black-box adversarial attack via random
search" (arXiv 1912.00049), algorithms 1 and 2 (Linf); algorithm 3 (L2) is in square_l2.py, L1 in square_l1.py.
Margin loss; p = 0.8 halved by the published schedule, not rescaled to the number of queries.

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
from deatbench.attacks.gradient import SearchForm, broken, margin
from deatbench.attacks.journal import FORGETFUL, Journal, Place
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l1 import L1Squares
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


Squares = LinfSquares | L2Squares
SQUARES: dict[str, type[Squares]] = {"Linf": LinfSquares, "L2": L2Squares, "L1": L1Squares}


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

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        with torch.no_grad():
            return _Search(self, model, x_NCHW, y_N, threat, rng).run(journal)

    def side(self, query: int, shape: torch.Size, odd: bool) -> int:
        """Side of the square at a query, in pixels: the published halving schedule of p."""
        height, width = shape[2:]
        p = self.p_init / 2 ** sum(query > bound for bound in HALVED_AT)
        side = max(round(math.sqrt(p * height * width)), 3 if odd else 1)
        return min(side + (odd and side % 2 == 0), height, width)


class _Search:
    """Algorithm 1 over the images that still stand: `z` is the best point of each, `loss` its margin."""

    def __init__(
        self, attack: Square, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng
    ) -> None:
        self.attack, self.model, self.threat = attack, model, threat
        self.x_NCHW, self.y_N = x_NCHW, y_N
        self.squares = SQUARES[threat.norm]()
        self.draws = _Draws(rng, x_NCHW, self.squares)
        self.query = 0
        self.standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
        self.best_NCHW = self.z = self.loss = x_NCHW

    def run(self, journal: Journal) -> Tensor:
        """The best point found for each image."""
        if not self._resumed(journal):
            self.z = self.squares.start(self.x_NCHW, self.threat, self.draws.rng)
            self.best_NCHW = self.z.clone()
            self._gather()
            logits = self.model(self.z)
            self.loss = margin(logits, self.y)
            self._let_go(logits)
        while self.query < self.attack.queries and len(self.standing):
            self._ask()
            self.query += 1
            journal.keep(self._place)
        self.best_NCHW[self.standing] = self.z
        return self.best_NCHW

    def _ask(self) -> None:
        u, sign = self.draws.at(self.query, self.standing)
        side = self.attack.side(self.query, self.x_NCHW.shape, self.squares.odd_side)
        tried = self.squares.propose(self.z, self.x, u, sign, side, self.threat)
        logits = self.model(tried)
        loss = margin(logits, self.y)
        better = (loss > self.loss) | (loss >= 0)
        self.z = torch.where(better[:, None, None, None], tried, self.z)
        self.loss = torch.where(better, loss, self.loss)
        self._let_go(logits)

    def _let_go(self, logits: Tensor) -> None:
        """Images that are broken leave; a tie of two logits, margin 0, ends the search too, as published."""
        gone = self.loss >= 0
        if isinstance(self.model, SearchForm):
            gone &= broken(self.model, self.z, self.y, logits)
        if not gone.any():
            return
        self.best_NCHW[self.standing[gone]] = self.z[gone]
        self.standing, self.z, self.loss = self.standing[~gone], self.z[~gone], self.loss[~gone]
        self._gather()

    def _gather(self) -> None:
        """Image and label of those that stand."""
        self.x, self.y = self.x_NCHW[self.standing], self.y_N[self.standing]

    def _place(self) -> Place:
        counters = torch.tensor([self.query, self.draws.before_block])
        return {
            "standing": self.standing,
            "best_NCHW": self.best_NCHW,
            "z": self.z,
            "loss": self.loss,
            "counters": counters,
        }

    def _resumed(self, journal: Journal) -> bool:
        place = journal.recall()
        if place is None:
            return False
        self.standing, self.best_NCHW, self.z, self.loss = (
            place[name].to(self.x_NCHW.device) for name in ("standing", "best_NCHW", "z", "loss")
        )
        self.query = int(place["counters"][0])
        self.draws.go_on(self.query, int(place["counters"][1]))
        self._gather()
        return True


class _Draws:
    """The random numbers of each query: places in [0, 1) and signs in {-1, 1}.

    With per-image randomness they come in blocks, a row for each image of the batch; in the published order one by one.
    """

    def __init__(self, rng: ExampleRng, x_NCHW: Tensor, squares: Squares) -> None:
        self.rng, self.x, self.squares = rng, x_NCHW, squares
        self.block = x_NCHW[:0]
        self.before_block = 0  # draws that were made before the current block's

    def at(self, query: int, standing: Tensor) -> tuple[Tensor, Tensor]:
        """(u [M, places], sign [M, C]) for the M standing images; M is 1 where the published code shares a draw."""
        places, channels = self.squares.places, self.x.shape[1]
        if not self.rng.per_image:
            u = self.rng.uniform(self.x.new_empty(1, places))
            count = len(standing) if self.squares.signs_per_image else 1
            return u, (self.rng.uniform(self.x.new_empty(count, channels)) * 2 - 1).sign()
        if query % BLOCK == 0:
            self.before_block = self.rng.draws
            self._draw_block()
        u = self.block[standing, query % BLOCK]
        return u[:, :places], (u[:, places:] * 2 - 1).sign()

    def go_on(self, query: int, before_block: int) -> None:
        """Stand where a search of `query` queries stood, with the rest of its block of draws."""
        self.rng.draws = self.before_block = before_block
        if query % BLOCK:
            self._draw_block()

    def _draw_block(self) -> None:
        numbers = self.squares.places + self.x.shape[1]
        self.block = self.rng.uniform(self.x.new_empty(len(self.x), BLOCK, numbers))
