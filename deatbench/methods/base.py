"""What a training method is: how it perturbs a batch, and what it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.attacks.borrow import mode
from deatbench.attacks.rng import BatchRng
from deatbench.registry import Registry
from deatbench.threats import ThreatModel

Precision = Callable[[], AbstractContextManager[object]]  # torch.autocast or nothing, around a forward pass


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
    """One training batch: augmented images in [0, 1], labels, and the randomness that belongs to it.

    Under CutMix an image shows two classes: `share_N` in [0, 1] of its pixels are of class `y_N`, the rest of class
    `other_N`. `smoothing` is the share of the target that is spread over all classes. `memory` is what the method
    keeps from batch to batch (Method.memory), to be written in place. These may be some rows of a batch that several
    processes share: `average` replaces tensors by their means over all of them, in place; what depends on the batch
    other than through an average of row losses and batch norm must ask for it.
    """

    x_NCHW: Tensor
    y_N: Tensor
    rng: BatchRng
    other_N: Tensor | None = None
    share_N: Tensor | None = None
    smoothing: float = 0.0
    memory: dict[str, Tensor] = field(default_factory=dict)
    average: Callable[[Sequence[Tensor]], None] = lambda tensors: None

    def share(self, k: int, of: int) -> Batch:
        """Part `k` of `of` equal parts: its rows, their memory, their draws."""
        rows = slice(k * len(self.y_N) // of, (k + 1) * len(self.y_N) // of)
        return replace(
            self,
            x_NCHW=self.x_NCHW[rows],
            y_N=self.y_N[rows],
            rng=self.rng.share(k, of),
            other_N=None if self.other_N is None else self.other_N[rows],
            share_N=None if self.share_N is None else self.share_N[rows],
            memory={name: tensor[rows] for name, tensor in self.memory.items()},
        )

    def cross_entropy(self, logits_NK: Tensor) -> Tensor:
        """Mean cross-entropy to the targets, smoothed and mixed as asked for."""
        return self.mean(lambda y_N: F.cross_entropy(logits_NK, y_N, reduction="none", label_smoothing=self.smoothing))

    def mean(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The batch mean of a loss of the labels, y_N -> loss_N; of both labels' losses where images are mixed."""
        return self._mixed(loss).mean()

    def label_loss(self, logits_NK: Tensor, y_N: Tensor) -> Tensor:
        """What an attack on this batch ascends, shape [N]: cross-entropy, mixed as the images are, never smoothed."""
        return self._mixed(lambda labels_N: F.cross_entropy(logits_NK, labels_N, reduction="none"))

    def _mixed(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        if self.other_N is None or self.share_N is None:
            return loss(self.y_N)
        return self.share_N * loss(self.y_N) + (1 - self.share_N) * loss(self.other_N)


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
    asks_network: ClassVar[bool] = True  # in `perturb`; if not, no cheaper form of the network need be kept for it
    wants_input_gradient: ClassVar[bool] = False  # of the loss, for `remember`

    @property
    def replays(self) -> int:
        """Updates on each batch."""
        return 1

    @property
    def reach(self) -> float:
        """How far an image may be moved, in units of eps."""
        return 1.0

    def memory(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """What it keeps between batches of this shape, before the first one; part of the resume state.

        A row for each of the batch's, so that processes that share a batch share this in the same way.
        """
        return {}

    @abstractmethod
    def perturb(self, model: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        """The images that the loss sees, shape of x. `model` may be a cheaper form of the network."""

    def displaced(
        self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor, precision: Precision
    ) -> AbstractContextManager[None]:
        """Where in weight space loss and gradient are taken; on leaving, the weights are exactly the old ones."""
        return nullcontext()

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Losses:
        """The loss, batch norm in training mode."""

    def remember(self, batch: Batch, gradient_NCHW: Tensor, inner: Inner) -> None:
        """Called after the backward pass with d loss / d x_adv if `wants_input_gradient`; writes into the memory."""
        raise NotImplementedError

    def step(self, model: nn.Module, batch: Batch, inner: Inner) -> Losses:
        """Perturb, loss, backward: adds to the weights' gradients; the caller updates. The engine's step in short."""
        with mode(model, training=inner.bn_mode == "train"):
            x_adv_NCHW = self.perturb(model, batch, inner).detach()
        return self.descend(model, batch, x_adv_NCHW, inner)

    def descend(
        self,
        model: nn.Module,
        batch: Batch,
        x_adv_NCHW: Tensor,
        inner: Inner,
        precision: Precision = nullcontext,
    ) -> Losses:
        """Loss and backward pass, under `precision` (autocast); weights get gradients, the memory is renewed."""
        x_adv_NCHW.requires_grad_(self.wants_input_gradient)
        with self.displaced(model, batch, x_adv_NCHW, precision):
            with precision():
                losses = self.loss(model, batch, x_adv_NCHW)
            losses.loss.backward()
        if x_adv_NCHW.grad is not None:
            self.remember(batch, x_adv_NCHW.grad, inner)
        return losses

    def passes(self, inner: Inner) -> float:
        """Forward-equivalents per image and step (input gradient = 1, full backward = 2); for forecasts."""
        return 2.0 * inner.steps + 3.0 if self.adversarial else 3.0


METHODS: Registry[type[Method]] = Registry("method", "deatbench.methods")
