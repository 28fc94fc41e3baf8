"""Whether a network classifies every image of a ball as it should, decided by CROWN's bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.certificates.branching import all_exceed
from deatbench.certificates.crown import Bounds
from deatbench.certificates.layers import Box
from deatbench.certificates.network import Network
from deatbench.threats import ThreatModel

MOST_CASES = 600  # of signs, which a proof may tell apart
MOST_SIGNS = 2**24  # in all cases together
SLACK = 1e-3  # of the largest logit: what a proved margin must exceed, far above what float32 rounds


class Certifier:
    """Proofs for single images of a network under one L-infinity threat.

    Args:
        network: as `read` returns it.
        threat: Linf; the ball is its own, cut with [0, 1], and larger by its tolerance.
        most_rows: bounds that a proof may take; what needs more is not proved.
        slack: what a proved margin must exceed, as a share of the largest logit.
    """

    norm = "Linf"

    def __init__(self, network: Network, threat: ThreatModel, most_rows: int = 2**40, slack: float = SLACK) -> None:
        self.network, self.threat, self.most_rows, self.slack = network, threat, most_rows, slack
        self._widest: dict[int, int] = {}

    @torch.no_grad()
    def proved(self, x_CHW: Tensor, label: int) -> bool:
        """Whether no image of the ball is misclassified, nor any that an attack is believed."""
        bounds = Bounds(self.network, self._ball(x_CHW), self._widest)
        if not bounds.refine(self.most_rows):
            return False
        largest = float(self.network.logits(x_CHW).abs().max())
        most_cases = min(MOST_CASES, MOST_SIGNS // max(1, self.network.neurons), self.most_rows)
        return all_exceed(bounds, self._margins(label), self.slack * largest, most_cases)

    @torch.no_grad()
    def promise(self, x_CHW: Tensor, label: int) -> float:
        """The least margin over the ball of the network linearised at the image: above 0 a proof is likely."""
        at_image, ball = Bounds(self.network, Box(x_CHW, x_CHW), self._widest), self._ball(x_CHW)
        at_image.refine(0)
        at_image.root = self.network.enter(ball)
        return float(at_image.lower(self._margins(label)).min())

    def _ball(self, x_CHW: Tensor) -> Box:
        eps = self.threat.eps + self.threat.tolerance
        return Box((x_CHW - eps).clamp_min(0), (x_CHW + eps).clamp_max(1))

    def _margins(self, label: int) -> Tensor:
        """Label minus each other class, as functions [K − 1, K] of the logits."""
        classes = self.network.shape(len(self.network.steps) - 1)[0]
        others = torch.arange(classes)[torch.arange(classes) != label]
        functions = -torch.nn.functional.one_hot(others, classes).float()
        functions[:, label] = 1
        return functions
