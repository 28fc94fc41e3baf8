"""How the Square attack searches: image by image the published sequence of queries, many of them asked at once.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithm 1. Few queries are accepted, about 5 in 100
after the first dozens, so that the next proposals of an image mostly start from the same point: they go through the
network in one batch, the first that is accepted counts, and those behind it, made from a point that is no longer the
best, are forgotten. What is known to be rejected is not asked (square_repeats.py). Each image walks as if it had been
asked one query at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import Near, SearchForm, broken, margin
from deatbench.attacks.journal import Journal, Place
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_draws import BLOCK, Draws
from deatbench.attacks.square_l1 import L1Squares
from deatbench.attacks.square_l2 import L2Squares, Whole
from deatbench.attacks.square_linf import LinfSquares, Windows
from deatbench.attacks.square_repeats import MOST_VARIETY, Repeats
from deatbench.threats import ThreatModel

if TYPE_CHECKING:
    from deatbench.attacks.square import Square

SELDOM, TOO_OFTEN = 1 / 8, 1 / 3  # shares of the images that move in one batch: look further ahead, look less far
MOST_AHEAD = 32  # queries of one image in a batch
OVERLOOKED = 8  # times as many are looked at where some need not be asked
CPU_VALUES, GPU_VALUES = 2**20, 2**23  # pixel values up to which a batch grows by asking ahead
NEAR_VALUES = 2**21  # of which only windows are computed

Squares = LinfSquares | L2Squares
SQUARES: dict[str, type[Squares]] = {"Linf": LinfSquares, "L2": L2Squares, "L1": L1Squares}


@dataclass(frozen=True)
class _Batch:
    """Proposals P for some of the images that stand, A `rows`; an image's follow one another.

    `of_P` says whose each is, `next_P` which query comes after it, and `settled_A` how many queries an image has behind
    it once all of its proposals are rejected. These are on the CPU.
    """

    rows_A: Tensor
    of_P: Tensor
    next_P: Tensor
    settled_A: Tensor
    tried: Windows | Whole


class Search:
    """Algorithm 1 over the images that still stand.

    `z` is the best point of each, `loss` its margin, `at` (on the CPU) the query that it makes next. All images stay
    within one stretch of queries of the same side, whose random numbers are at hand.
    """

    def __init__(
        self, attack: Square, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng
    ) -> None:
        self.attack, self.model, self.threat = attack, model, threat
        self.x_NCHW, self.y_N = x_NCHW, y_N
        self.squares = SQUARES[threat.norm]()
        self.draws = Draws(rng, x_NCHW, self.squares)
        self.ahead = 1
        self.standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
        self.at = torch.zeros(len(x_NCHW), dtype=torch.long)
        self.best_NCHW = self.z = self.loss = x_NCHW
        self.near = self._neighbours()
        self.repeats: Repeats | None = None
        self.moved = torch.ones(len(x_NCHW), dtype=torch.bool, device=x_NCHW.device)  # since `near` was told of them
        self._gather()

    def run(self, journal: Journal) -> Tensor:
        """The best point found for each image."""
        if not self._resumed(journal):
            self.z = self.squares.start(self.x_NCHW, self.threat, self.draws.rng)
            self.best_NCHW = self.z.clone()
            logits = self.model(self.z)
            self.loss = margin(logits, self.y)
            crossed = torch.nonzero(self.loss >= 0)[:, 0]
            self._let_go(crossed, logits[crossed])
        while len(self.standing) and (first := int(self.at.min())) < self.attack.queries:
            self._ask(first)
            journal.keep(self._place)
        self.best_NCHW[self.standing] = self.z
        return self.best_NCHW

    def _ask(self, first: int) -> None:
        """Several queries at once of each image that is not yet at the end of the stretch, which `first` is part of."""
        last = min(self.attack.same_side_until(first), first - first % BLOCK + BLOCK, self.attack.queries)
        rows_A, standing = torch.nonzero(self.at < last)[:, 0], len(self.standing)
        width = self._width(len(rows_A), last - first)
        batch = self._batch(rows_A, first, last, width)
        self.at[rows_A] = (self.at[rows_A] + batch.settled_A).clamp(max=last)
        self._adapt(width, self._walk(batch) / standing if len(batch.of_P) else 0.0)

    def _batch(self, rows_A: Tensor, first: int, last: int, width: int) -> _Batch:
        """The next `width` proposals of each row that must be asked, or as many as there are among those at hand."""
        side = self.attack.side(first, self.x.shape, self.squares.odd_side)
        repeats, on = self._repeats(side, first), rows_A.to(self.x.device)
        overlooked = min(OVERLOOKED * width, last - first) if repeats else width
        queries_AK = self.at[rows_A, None] + torch.arange(overlooked)
        new_AK = queries_AK < last
        queries_AK.clamp_(max=last - 1)
        u_AKU, sign_AKC = self.draws.at(queries_AK, self.standing[on])
        if repeats:
            new_AK &= repeats.new(self.standing[on], queries_AK.to(on.device), u_AKU, sign_AKC).cpu()
        within_AK = new_AK.cumsum(1) <= width
        of_P, ahead_P = torch.nonzero(new_AK & within_AK, as_tuple=True)
        of, k = of_P.to(on.device), ahead_P.to(on.device)
        z, x = (self.z, self.x) if len(on) == len(self.z) else (self.z[on], self.x[on])
        tried = self.squares.propose(z, x, of, u_AKU[of, k], sign_AKC[of, k], side, self.threat)
        return _Batch(rows_A, of_P, queries_AK[of_P, ahead_P] + 1, within_AK.sum(1), tried)

    def _walk(self, batch: _Batch) -> int:
        """Ask, and move each image to its first proposal that is accepted. Returns how many images move."""
        on, of = batch.rows_A.to(self.x.device), batch.of_P.to(self.x.device)
        logits = self._logits(on, of, batch.tried)
        loss_P = margin(logits, self.y[on[of]])
        crossed_P = loss_P >= 0
        accepted_P = (loss_P > self.loss[on[of]]) | crossed_P
        accepted_P, crossed_P = torch.stack((accepted_P, crossed_P)).cpu()
        accepted = torch.nonzero(accepted_P)[:, 0]
        moving, which = batch.of_P[accepted].unique_consecutive(return_inverse=True)
        if not len(moving):
            return 0
        chosen = accepted.new_full(moving.shape, len(accepted_P)).scatter_reduce_(0, which, accepted, "amin")
        self.at[batch.rows_A[moving]] = batch.next_P[chosen]
        to, crossed, chosen = (
            index.to(on.device) for index in (batch.rows_A[moving], torch.nonzero(crossed_P[chosen])[:, 0], chosen)
        )
        self.z[to], self.loss[to] = batch.tried.images(chosen), loss_P[chosen]
        self.moved[self.standing[to]] = True
        if self.repeats:
            self.repeats.moved(self.standing[to], self.z[to])
        self._let_go(to[crossed], logits[chosen[crossed]])
        return len(moving)

    def _logits(self, on: Tensor, of_P: Tensor, tried: Windows | Whole) -> Tensor:
        """The network's answers to proposals for some rows: of small windows computed from what it said before."""
        if self.near is None or not isinstance(tried, Windows) or not self.near.small(tried.side):
            return self.model(tried.images())
        images = self.standing[on]
        moved = torch.nonzero(self.moved[images])[:, 0]
        if len(moved):
            self.near.remember(images[moved], tried.z_ACHW[moved])
            self.moved[images] = False
        return self.near.logits(tried.squares_PCSS, images[of_P], tried.top_P, tried.left_P)

    def _repeats(self, side: int, first: int) -> Repeats | None:
        """What is known of squares of this size; None where they are too various, or the draws not an image's own."""
        if self.repeats is not None and self.repeats.side != side:
            self.repeats = None
        if self.repeats is None and self.draws.rng.per_image and isinstance(self.squares, LinfSquares):
            to_come = min(self.attack.same_side_until(first), self.attack.queries) - first
            if self.squares.variety(self.x.shape, side) <= MOST_VARIETY * to_come:
                self.repeats = Repeats(self.squares, self.x_NCHW, side, self.threat)
                self.repeats.moved(self.standing, self.z)
        return self.repeats

    def _width(self, rows: int, left: int) -> int:
        """How many queries of each row to ask at once."""
        if not self.draws.rng.per_image:
            return 1
        values = NEAR_VALUES if self.near else CPU_VALUES if self.x.device.type == "cpu" else GPU_VALUES
        return max(1, min(self.ahead, left, values // (rows * self.x[0].numel())))

    def _adapt(self, width: int, accepted: float) -> None:
        """Look further ahead while nearly all proposals are rejected, less far where many are thrown away.

        `accepted` is the share of all standing images: the last few of a stretch cost little and may look far.
        """
        if accepted > TOO_OFTEN:
            self.ahead = max(1, width // 2)
        elif accepted < SELDOM:
            self.ahead = min(2 * self.ahead, MOST_AHEAD)

    def _let_go(self, crossed: Tensor, logits: Tensor) -> None:
        """Rows whose margin is >= 0 leave: a tie of two logits ends a search, as published.

        With a search form only those leave that the exact network misclassifies.
        """
        if isinstance(self.model, SearchForm) and len(crossed):
            crossed = crossed[broken(self.model, self.z[crossed], self.y[crossed], logits)]
        if len(crossed) == 0:
            return
        self.best_NCHW[self.standing[crossed]] = self.z[crossed]
        stays = torch.ones_like(self.standing, dtype=torch.bool)
        stays[crossed] = False
        stay = torch.nonzero(stays)[:, 0]
        self.standing, self.z, self.loss = self.standing[stay], self.z[stay], self.loss[stay]
        self.at = self.at[stay.cpu()]
        self._gather()

    def _neighbours(self) -> Near | None:
        """What knows the activations of the best points, where the model offers that and windows are their own."""
        if not isinstance(self.model, SearchForm) or self.model.near is None:
            return None
        fits = self.draws.rng.per_image and isinstance(self.squares, LinfSquares)
        return self.model.near(self.x_NCHW) if fits else None

    def _gather(self) -> None:
        """Image and label of those that stand."""
        self.x, self.y = self.x_NCHW[self.standing], self.y_N[self.standing]

    def _place(self) -> Place:
        known, side = ({"first_NV": self.repeats.first_NV}, self.repeats.side) if self.repeats else ({}, 0)
        return known | {
            "standing": self.standing,
            "best_NCHW": self.best_NCHW,
            "z": self.z,
            "loss": self.loss,
            "at": self.at,
            "counters": torch.tensor([self.ahead, self.draws.block, self.draws.before_block, side]),
        }

    def _resumed(self, journal: Journal) -> bool:
        place = journal.recall()
        if place is None:
            return False
        self.standing, self.best_NCHW, self.z, self.loss = (
            place[name].to(self.x_NCHW.device) for name in ("standing", "best_NCHW", "z", "loss")
        )
        self.at = place["at"].cpu()
        self.ahead, block, before_block, side = place["counters"].tolist()
        self.draws.go_on(block, before_block)
        if side and isinstance(self.squares, LinfSquares):
            self.repeats = Repeats(self.squares, self.x_NCHW, side, self.threat)
            self.repeats.first_NV = place["first_NV"].to(self.x_NCHW.device)
        self._gather()
        return True
