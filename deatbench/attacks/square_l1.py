"""The L1 moves of the Square attack: as in L2, with steeper pyramids and an exact projection.

Croce, Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers" (arXiv 2103.01208),
where the Square attack (arXiv 1912.00049, algorithm 3) is carried over to L1: lengths are L1, and a proposal is
projected onto the ball cut with [0, 1] instead of being scaled and clipped, which would leave budget unused.
"""

from __future__ import annotations

from torch import Tensor

from deatbench.attacks.square_l2 import L2Squares
from deatbench.threats import ThreatModel

INSIDE = 1 - 1e-6  # of eps, as published: rounding does not leave the ball


class L1Squares(L2Squares):
    """Changes of Algorithm 3 in L1."""

    power = 1.0
    steepness = 4

    def length_of(self, unused_N111: Tensor, held_NC11: Tensor, channels: int) -> Tensor:
        """As published C times the share of each channel: the projection takes back what is too much."""
        return (unused_N111 / channels + held_NC11) * channels

    def bounded(self, x_NCHW: Tensor, delta_NCHW: Tensor, threat: ThreatModel) -> Tensor:
        """The image changed by delta, projected onto the ball cut with [0, 1]."""
        return threat.scaled(INSIDE).project(x_NCHW + delta_NCHW, x_NCHW)
