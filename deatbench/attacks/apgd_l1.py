"""How APGD steps in L1: along few pixel values, and fewer the sparser the best change becomes; larger balls first.

Croce, Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (arXiv 2103.01208),
algorithm 1 and sections 3, 4. Step eps; at each check the number of pixel values that a step changes becomes the best
point's number of changed values, divided by 1.5. Where that number fell by 5 % the step is eps again and the search
returns to the best point, elsewhere the step is divided by 1.5, down to eps / 10. There is no momentum.

With larger radii first, 30 % of the steps are made in the ball of radius 3·eps, 30 % in that of 2·eps, 40 % in that of
eps, each from the projection of the point of highest loss found in the one before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deatbench.attacks.apgd_steps import State, StepRule
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.rows import per_row
from deatbench.threats import ThreatModel
from deatbench.threats.l1 import sparse_direction

FIRST_DENSITY = 0.2
SPARSER = 0.95  # a smaller share of changed values than this, check over check, counts as a gain
SHRINK = 1.5  # of the step, and of the density below that of the best change
SMALLEST_STEP = 0.1  # in units of eps
CHECK_EVERY = 0.04  # share of the number of steps
LARGEST = 3.0  # units of eps


class SparseSteps(StepRule):
    """Algorithm 1. `as_start`: the first steps are as dense as the start's change says, not 20 % of the values."""

    def __init__(self, as_start: bool) -> None:
        self.as_start = as_start

    def begin(self, s: State, x_RCHW: Tensor, threat: ThreatModel) -> None:
        s.step = s.step + threat.eps
        if self.as_start:
            self._count(s, x_RCHW)
        else:
            s.changed, s.density = s.changed + x_RCHW[:1].numel(), s.density + FIRST_DENSITY

    def window(self, steps: int) -> int:
        return max(int(CHECK_EVERY * steps), 1)

    def move(self, s: State, x_RCHW: Tensor, threat: ThreatModel, iteration: int) -> None:
        slope_RD = s.gradient.flatten(1)
        values = slope_RD.shape[1]
        rank_R = ((1.0 - s.density) * values).clamp(0, values - 1).long()
        threshold_R1 = slope_RD.abs().sort(1).values.gather(1, rank_R[:, None])
        way = sparse_direction(slope_RD, threshold_R1).view_as(s.x_adv)
        s.x_adv = threat.project(s.x_adv + s.step * way, x_RCHW)

    def check(self, s: State, x_RCHW: Tensor, threat: ThreatModel, window: int) -> None:
        before_R = s.changed
        self._count(s, x_RCHW)
        sparser_R = s.changed / before_R < SPARSER
        step = torch.where(per_row(sparser_R, s.step), threat.eps, s.step / SHRINK)
        s.step = step.clamp(SMALLEST_STEP * threat.eps, threat.eps)
        s.back_to_best(sparser_R)

    def _count(self, s: State, x_RCHW: Tensor) -> None:
        s.changed = (s.x_best != x_RCHW).flatten(1).sum(1).to(s.changed)
        s.density = s.changed / x_RCHW[:1].numel() / SHRINK


def larger_first(steps: int) -> tuple[tuple[float, int], ...]:
    """(radius in units of eps, steps) of each part of the search."""
    part = math.ceil(0.3 * steps)
    return (LARGEST, part), (2.0, part), (1.0, steps - 2 * part)


def start_outside(x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
    """A random point of the largest ball's surface."""
    start = threat.scaled(LARGEST).boundary_start(x_NCHW, rng)
    if not rng.per_image:
        for _ in larger_first(1):
            rng.normal(x_NCHW)  # the published code draws a start for each radius and does not use it
    return start
