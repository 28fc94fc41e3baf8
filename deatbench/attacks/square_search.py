"""How the Square attack searches: image by image the published sequence of queries, many of them asked at once.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithm 1. Few queries are accepted, about 5 in 100
after the first dozens, so that the next proposals of an image mostly start from the same point: they go through the
network in one batch, the first that is accepted counts, and those behind it, made from a point that is no longer the
best, are forgotten. Each image walks as if it had been asked one query at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import Near, SearchForm, broken, margin
from deatbench.attacks.journal import Journal, Place
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l1 import L1Squares
from deatbench.attacks.square_l2 import L2Squares, Whole
from deatbench.attacks.square_linf import LinfSquares, Windows
from deatbench.threats import ThreatModel

if TYPE_CHECKING:
    from deatbench.attacks.square import Square

BLOCK = 250  # queries whose random numbers are drawn at once
SELDOM, TOO_OFTEN = 1 / 8, 1 / 3  # shares of the images that move in one batch: look further ahead, look less far
MOST_AHEAD = 32  # queries of one image in a batch
CPU_VALUES, GPU_VALUES = 2**20, 2**23  # pixel values up to which a batch grows by asking ahead
NEAR_VALUES = 2**21  # of which only windows are computed

Squares = LinfSquares | L2Squares
SQUARES: dict[str, type[Squares]] = {"Linf": LinfSquares, "L2": L2Squares, "L1": L1Squares}


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
        self.draws = _Draws(rng, x_NCHW, self.squares)
        self.ahead = 1
        self.standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
        self.at = torch.zeros(len(x_NCHW), dtype=torch.long)
        self.best_NCHW = self.z = self.loss = x_NCHW
        self.near = self._neighbours()
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
        rows = torch.nonzero(self.at < last)[:, 0]
        width = self._width(len(rows), last - first)
        queries_AK = self.at[rows, None] + torch.arange(width)
        on = rows.to(self.x.device)
        tried = self._tried(on, queries_AK.clamp(max=last - 1))
        logits = self._logits(on, tried)
        loss_AK = margin(logits, self.y[on].repeat_interleave(width)).view(-1, width)
        accepted_AK = ((loss_AK > self.loss[on, None]) | (loss_AK >= 0)) & (queries_AK < last).to(on.device)
        rejected_A = (accepted_AK.cumsum(1) == 0).sum(1)  # before the first that is accepted
        crossed_A = loss_AK.gather(1, rejected_A.clamp(max=width - 1)[:, None])[:, 0] >= 0
        rejected_A, crossed_A = torch.stack((rejected_A, crossed_A)).cpu()  # the one wait for the device
        self.at[rows] = (self.at[rows] + (rejected_A + 1).clamp(max=width)).clamp(max=last)
        moving = torch.nonzero(rejected_A < width)[:, 0]
        self._adapt(width, len(moving) / len(self.standing))
        if len(moving):
            to, chosen = rows[moving].to(on.device), (moving * width + rejected_A[moving]).to(on.device)
            self.z[to], self.loss[to] = tried.images(chosen), loss_AK.flatten()[chosen]
            self.moved[self.standing[to]] = True
            crossed = torch.nonzero(crossed_A[moving])[:, 0].to(on.device)
            self._let_go(to[crossed], logits[chosen[crossed]])

    def _tried(self, on: Tensor, queries_AK: Tensor) -> Windows | Whole:
        """The proposals of some rows' next queries, each made from the row's best point."""
        query = int(queries_AK[0, 0])  # side and block are those of all others
        side = self.attack.side(query, self.x.shape, self.squares.odd_side)
        u, sign = self.draws.at(queries_AK.to(on.device), self.standing[on], query // BLOCK)
        z, x = (self.z, self.x) if len(on) == len(self.z) else (self.z[on], self.x[on])
        return self.squares.propose(z, x, u, sign, side, queries_AK.shape[1], self.threat)

    def _logits(self, on: Tensor, tried: Windows | Whole) -> Tensor:
        """The network's answers to proposals for some rows: of small windows computed from what it said before."""
        if self.near is None or not isinstance(tried, Windows) or not self.near.small(tried.side):
            return self.model(tried.images())
        images = self.standing[on]
        moved = torch.nonzero(self.moved[images])[:, 0]
        if len(moved):
            self.near.remember(images[moved], tried.z_ACHW[moved])
            self.moved[images] = False
        of = images.repeat_interleave(tried.top_AK.shape[1])
        return self.near.logits(tried.squares_PCSS, of, tried.top_AK.flatten(), tried.left_AK.flatten())

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
        return {
            "standing": self.standing,
            "best_NCHW": self.best_NCHW,
            "z": self.z,
            "loss": self.loss,
            "at": self.at,
            "counters": torch.tensor([self.ahead, self.draws.block, self.draws.before_block]),
        }

    def _resumed(self, journal: Journal) -> bool:
        place = journal.recall()
        if place is None:
            return False
        self.standing, self.best_NCHW, self.z, self.loss = (
            place[name].to(self.x_NCHW.device) for name in ("standing", "best_NCHW", "z", "loss")
        )
        self.at = place["at"].cpu()
        self.ahead, block, before_block = place["counters"].tolist()
        self.draws.go_on(block, before_block)
        self._gather()
        return True


class _Draws:
    """The random numbers of each query: places in [0, 1) and signs in {-1, 1}.

    With per-image randomness they come in blocks, a row for each image of the batch; in the published order one by one.
    """

    def __init__(self, rng: ExampleRng, x_NCHW: Tensor, squares: Squares) -> None:
        self.rng, self.x, self.squares = rng, x_NCHW, squares
        self.block = -1  # which block of queries the numbers at hand are for
        self.before_block = 0  # draws that were made before this block's
        self.numbers = x_NCHW[:0]

    def at(self, queries_AK: Tensor, standing_A: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """(u [A, K, places], sign [A, K, C]) for queries of one block; the first is 1 where one draw serves all."""
        places, channels = self.squares.places, self.x.shape[1]
        if not self.rng.per_image:
            u = self.rng.uniform(self.x.new_empty(1, places))
            count = len(standing_A) if self.squares.signs_per_image else 1
            return u[:, None], (self.rng.uniform(self.x.new_empty(count, channels)) * 2 - 1).sign()[:, None]
        if block != self.block:
            self.block, self.before_block = block, self.rng.draws
            self._draw()
        u = self.numbers[standing_A[:, None], queries_AK % BLOCK]
        return u[..., :places], (u[..., places:] * 2 - 1).sign()

    def go_on(self, block: int, before_block: int) -> None:
        """Stand where a search stood that had drawn this block."""
        self.rng.draws = self.before_block = before_block
        self.block = block
        if block >= 0:
            self._draw()

    def _draw(self) -> None:
        count = self.squares.places + self.x.shape[1]
        self.numbers = self.rng.uniform(self.x.new_empty(len(self.x), BLOCK, count))
