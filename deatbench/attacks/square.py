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
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_search import Search
from deatbench.threats import ThreatModel

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


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
            return Search(self, model, x_NCHW, y_N, threat, rng).run(journal)

    def side(self, query: int, shape: torch.Size, odd: bool) -> int:
        """Side of the square at a query, in pixels: the published halving schedule of p."""
        height, width = shape[2:]
        p = self.p_init / 2 ** sum(query > bound for bound in HALVED_AT)
        side = max(round(math.sqrt(p * height * width)), 3 if odd else 1)
        return min(side + (odd and side % 2 == 0), height, width)

    def same_side_until(self, query: int) -> int:
        """The next query, after this one, whose side may differ."""
        return next((bound + 1 for bound in HALVED_AT if bound >= query), self.queries)
