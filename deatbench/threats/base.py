"""What every threat model offers, whatever its norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from deatbench.records import Threat, parse_eps
from deatbench.registry import Registry

NEWTON_STEPS = 40  # far more than the handful of pieces that a projection crosses


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
    def boundary_start(self, x_NCHW: Tensor, rng: Rng) -> Tensor:
        """A random point of the ball's surface around each image, cut to [0, 1]."""

    @abstractmethod
    def ascend(self, x_adv_NCHW: Tensor, grad_NCHW: Tensor, step: float | Tensor) -> Tensor:
        """One steepest-ascent step of length `step` in the norm; a tensor [N, 1, 1, 1] gives each image its own."""

    @abstractmethod
    def project(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """The point of the ball around x, cut to [0, 1], that replaces x_adv."""

    @abstractmethod
    def to_hyperplane(self, x_ND: Tensor, w_ND: Tensor, b_N: Tensor) -> Tensor:
        """The shortest move [N, D] that brings x, inside [0, 1]^D, onto the hyperplane w·z = b; as far as it gets."""

    @abstractmethod
    def distance(self, x_adv_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
        """Norm of the perturbation of each image, shape [N]."""

    def scaled(self, factor: float) -> ThreatModel:
        """The same norm's ball, `factor` times as large; for searches that pass through other radii."""
        return replace(self, eps=factor * self.eps)

    def record(self) -> Threat:
        """The threat as it stands in records."""
        return Threat(norm=self.norm, eps=self.eps, eps_text=self.eps_text)  # type: ignore[arg-type]


def descent(x_ND: Tensor, w_ND: Tensor, b_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The way from x to the hyperplane w·z = b inside [0, 1]^D: (direction in {-1, 0, 1}, |w|, room, gap >= 0).

    Moving each coordinate by m in its direction, at most its room, closes the gap by sum of |w|·m.
    """
    gap_N = (w_ND * x_ND).sum(1) - b_N
    down_ND = w_ND.sign().mul_(torch.where(gap_N >= 0, -1.0, 1.0)[:, None])
    room_ND = (down_ND.clamp_min(0.0) - x_ND).abs_()  # 1 - x upward, x downward
    return down_ND, w_ND.abs(), room_ND, gap_N.abs()


def have_room(room_ND: Tensor, moved_ND: Tensor) -> Tensor:
    """1 where a coordinate's room is larger than what it has moved, else 0; as numbers, which cost less than bools."""
    return (room_ND - moved_ND).sign_().clamp_min_(0.0)


def one_of_each(x_NCHW: Tensor) -> Tensor:
    """One value of each image, shape [N, 1, ..., 1]; for draws that an image needs one of."""
    return x_NCHW[(slice(None), *(slice(1),) * (x_NCHW.ndim - 1))]


THREATS: Registry[type[ThreatModel]] = Registry("norm", "deatbench.threats")


def make_threat(norm: str, eps_text: str) -> ThreatModel:
    """The threat model of a norm and a radius such as "8/255". Raises ConfigError on a radius that is not > 0."""
    return THREATS[norm](parse_eps(eps_text), eps_text.strip())
