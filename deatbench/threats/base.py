"""What every threat model offers, whatever its norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from deatbench.records import Threat, parse_eps
from deatbench.registry import Registry


class Rng(Protocol):
    """A source of random numbers for a batch of N images; implementations decide what the draws depend on."""

    def uniform(self, like_NCHW: Tensor) -> Tensor:
        """Uniform on [0, 1), same shape, type and device as `like_NCHW`."""

    def normal(self, like_NCHW: Tensor) -> Tensor:
        """Standard normal, same shape, type and device as `like_NCHW`."""


@dataclass(frozen=True)
class ThreatModel(ABC):
    """The ball of radius `eps` around an image, cut with [0, 1].

    Args:
        eps: radius in the norm, in units of pixels scaled to [0, 1].
        eps_text: the radius as the user wrote it, such as "8/255".
    """

    eps: float
    eps_text: str

    norm = ""
    tolerance = 1e-6  # by how much float32 rounding may leave the ball

    @abstractmethod
    def random_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        """A random point of the ball around each image, cut to [0, 1]."""

    @abstractmethod
    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float) -> Tensor:
        """One steepest-ascent step of length `step` in the norm."""

    @abstractmethod
    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """The point of the ball around x, cut to [0, 1], that replaces x_adv."""

    @abstractmethod
    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """Norm of the perturbation of each image, shape [N]."""

    def record(self) -> Threat:
        """The threat as it stands in records."""
        return Threat(norm=self.norm, eps=self.eps, eps_text=self.eps_text)  # type: ignore[arg-type]


THREATS: Registry[type[ThreatModel]] = Registry("norm", "deatbench.threats")


def make_threat(norm: str, eps_text: str) -> ThreatModel:
    """The threat model of a norm and a radius such as "8/255". Raises ConfigError on a radius that is not > 0."""
    return THREATS[norm](parse_eps(eps_text), eps_text.strip())
