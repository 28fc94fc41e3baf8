"""The Linf moves of the Square attack: a window in which every channel moves by 2·eps, up or down.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithm 2. L2: square_l2.py; L1: square_l1.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l2 import corner
from deatbench.threats import ThreatModel


@dataclass(frozen=True)
class Windows:
    """Proposals that differ from the best points of A images in one square window each, K of every image.

    Args:
        z_ACHW: the best points.
        values_AKCS: the windows' pixels, and places_AKS where in the flattened image they lie.
        top_AK, left_AK: the windows' corners; `side` pixels each way.
    """

    z_ACHW: Tensor
    values_AKCS: Tensor
    places_AKS: Tensor
    top_AK: Tensor
    left_AK: Tensor
    side: int

    @property
    def squares_PCSS(self) -> Tensor:
        """The windows as images, P = A · K."""
        return self.values_AKCS.flatten(0, 1).unflatten(2, (self.side, self.side))

    def images(self, chosen_M: Tensor | None = None) -> Tensor:
        """The proposals, or some of them by their place among A · K: [M, C, H, W]."""
        images, tries, channels = self.values_AKCS.shape[:3]
        places_MS, values_MCS = self.places_AKS.expand(images, tries, -1).flatten(0, 1), self.values_AKCS.flatten(0, 1)
        if chosen_M is None:
            found = self.z_ACHW[:, None].expand(images, tries, *self.z_ACHW.shape[1:])
            found = found.clone(memory_format=torch.contiguous_format).flatten(0, 1)
        else:
            found = self.z_ACHW[chosen_M // tries].contiguous()
            places_MS, values_MCS = places_MS[chosen_M], values_MCS[chosen_M]
        found.flatten(2).scatter_(2, places_MS[:, None].expand(-1, channels, -1), values_MCS)
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
        u_AKP: Tensor,
        sign_AKC: Tensor,
        side: int,
        tries: int,
        threat: ThreatModel,
    ) -> Windows:
        """K tries of A images, each with one square changed. u in [0, 1): row and column of the window."""
        height, width = z_ACHW.shape[2:]
        top, left = corner(u_AKP[..., 0], side, height), corner(u_AKP[..., 1], side, width)
        shape = (len(z_ACHW), tries, z_ACHW.shape[1], side * side)
        places = _positions(top, left, side, width)
        window = places[:, :, None].expand(shape)
        z, x = (images.flatten(2)[:, None].expand(*shape[:3], -1).gather(3, window) for images in (z_ACHW, x_ACHW))
        moved = threat.project(z + 2 * threat.eps * sign_AKC[..., None], x)
        return Windows(z_ACHW, moved, places, top, left, side)


def _positions(top: Tensor, left: Tensor, side: int, width: int) -> Tensor:
    """Where in the flattened image each window's pixels lie: one more axis, of side² places."""
    line = torch.arange(side, device=top.device)
    square = (line[:, None] * width + line).flatten()
    return (top * width + left)[..., None] + square
