"""Gaussian noise: a few random draws from the ball, and no search.

Gilmer, Ford, Carlini, Cubuk 2019, "Adversarial Examples Are a Natural Consequence of Test Error in Noise"
(arXiv 1901.10513) relate both. What falls to noise needs no adversary: an attack that breaks fewer images than this
is not working.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.base import ATTACKS, Attack
from deatbench.attacks.gradient import broken
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel


@ATTACKS.register("gaussian-noise")
@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Random Gaussian noise of the ball's size, 10 draws: a baseline that every attack must beat.

    Args:
        draws: tries per image, >= 1.
    """

    gradient_free: ClassVar[bool] = True

    draws: int = 10

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ConfigError("gaussian-noise: draws must be at least 1")

    @property
    def name(self) -> str:
        return "gaussian-noise"

    def passes(self, num_classes: int) -> int:
        return self.draws

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        """A misclassified draw of each image, or the image itself where there was none."""
        x_adv_NCHW = x_NCHW.clone()
        standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
        for _ in range(self.draws):
            z, y = _noisy(x_NCHW, threat, rng)[standing], y_N[standing]
            with torch.no_grad():
                broken_R = broken(model, z, y, model(z))
            x_adv_NCHW[standing[broken_R]] = z[broken_R]
            standing = standing[~broken_R]
            if len(standing) == 0:
                break
        return x_adv_NCHW


def _noisy(x_NCHW: Tensor, threat: ThreatModel, rng: ExampleRng) -> Tensor:
    """Images with noise of standard deviation eps in Linf, of length eps in other norms, cut to the ball and [0, 1]."""
    noise = rng.normal(x_NCHW)
    if threat.norm != "Linf":
        length_N = threat.distance(noise, torch.zeros_like(noise)).clamp_min(1e-12)
        noise = noise / length_N.view(-1, *[1] * (noise.ndim - 1))
    return threat.project(x_NCHW + threat.eps * noise, x_NCHW)
