"""The Linf moves of the Square attack: a window in which every channel moves by 2·eps, up or down.

Andriushchenko, Croce, Flammarion, Hein 2020 (arXiv 1912.00049), algorithm 2. L2: square_l2.py; L1: square_l1.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l2 import corner
from deatbench.threats import ThreatModel


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
        self, z_AKCHW: Tensor, x_AKCHW: Tensor, u_AKP: Tensor, sign_AKC: Tensor, side: int, threat: ThreatModel
    ) -> Tensor:
        """K times each of A images with one square changed. u in [0, 1): row and column of the window."""
        height, width = z_AKCHW.shape[3:]
        top, left = corner(u_AKP[..., 0], side, height), corner(u_AKP[..., 1], side, width)
        window_AKS = _positions(top, left, side, width)
        tried = z_AKCHW.clone(memory_format=torch.contiguous_format).flatten(3)
        window = window_AKS[:, :, None].expand(*tried.shape[:3], -1)
        moved = tried.gather(3, window) + 2 * threat.eps * sign_AKC[..., None]
        tried.scatter_(3, window, threat.project(moved, x_AKCHW.flatten(3).gather(3, window)))
        return tried.view(z_AKCHW.shape)


def _positions(top_AK: Tensor, left_AK: Tensor, side: int, width: int) -> Tensor:
    """Where in the flattened image each window's pixels lie, [A, K, side²]."""
    line = torch.arange(side, device=top_AK.device)
    square = (line[:, None] * width + line).flatten()
    return (top_AK * width + left_AK)[..., None] + square
