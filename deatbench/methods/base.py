"""What a training method is: how it perturbs a batch, and what it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from deatbench.attacks.borrow import mode
from deatbench.attacks.rng import BatchRng
from deatbench.registry import Registry
from deatbench.threats import ThreatModel


@dataclass(frozen=True)
class Inner:
    """The inner maximisation of adversarial training: its threat, its budget, and batch norm's mode inside it."""

    threat: ThreatModel
    steps: int
    rel_step: float
    random_start: bool
    bn_mode: Literal["eval", "train"]


@dataclass(frozen=True)
class Batch:
    """One training batch: augmented images in [0, 1], labels, and the randomness that belongs to it."""

    x_NCHW: Tensor
    y_N: Tensor
    rng: BatchRng


@dataclass(frozen=True)
class Losses:
    """What one step computed: the loss to minimise and the logits that happen to exist, for statistics."""

    loss: Tensor
    clean_logits_NK: Tensor | None
    adv_logits_NK: Tensor | None


@dataclass(frozen=True)
class Method(ABC):
    """A training method; its fields are its hyper-parameters."""

    optimizer: ClassVar[str] = "sgd"  # the update that it is published with; `--set optimizer.name=` overrides
    adversarial: ClassVar[bool] = True

    @abstractmethod
    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        """The images that the loss sees, shape of x."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        """The loss, batch norm in training mode."""

    def step(self, model: nn.Module, batch: Batch, inner: Inner) -> Losses:
        """Perturb, then the loss; the caller does backward and update."""
        with mode(model, training=inner.bn_mode == "train"):
            x_adv_NCHW = self.perturb(model, batch, inner)
        return self.loss(model, batch, x_adv_NCHW.detach())

    def passes(self, inner: Inner) -> float:
        """Forward-equivalents per image and step (input gradient = 1, full backward = 2); for forecasts."""
        return 2.0 * inner.steps + 3.0 if self.adversarial else 3.0


METHODS: Registry[type[Method]] = Registry("method", "deatbench.methods")
