"""AutoAttack's members run by pyautoattack, unchanged.

With the same seed and batches the verdicts are those of `pyautoattack.AutoAttack(...).run_standard_evaluation`; the
loop over members and batches is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from deatbench.attacks.base import Attack
from deatbench.attacks.borrow import frozen
from deatbench.attacks.gradient import cross_entropy, input_gradient
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel

Version = Literal["standard", "plus", "rand"]
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
MEMBERS: dict[Version, tuple[str, ...]] = {
    "standard": STANDARD,
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
FEWEST_CLASSES: dict[Version, tuple[int, str]] = {
    "standard": (4, "targeted DLR loss"),
    "plus": (4, "targeted DLR loss"),
    "rand": (3, "DLR loss"),
}
TARGETS = 9
ITERATIONS = 100
QUERIES = 5000


@dataclass(frozen=True)
class Member(Attack):
    """One attack of a suite, with the suite's settings for a norm. Its restarts are the published code's own."""

    own: ClassVar[bool] = False

    member: str
    suite: Version = "standard"
    norm: str = "Linf"

    @property
    def gradient_free(self) -> bool:  # type: ignore[override]
        """Only Square needs no gradient."""
        return self.member == "square"

    @property
    def name(self) -> str:
        return self.member

    @property
    def engine(self) -> str:
        return f"pyautoattack {version('pyautoattack')}"

    def passes(self, num_classes: int) -> int:
        given = self.params(num_classes)
        each = {"square": QUERIES + 1, "fab": 2 * ITERATIONS + 1, "fab-t": 2 * ITERATIONS + 1}
        radii = 3 if self._large_reps else 1  # a search in each, with a first look of its own
        once = each.get(self.member, given.get("eot_iter", 1) * (ITERATIONS + radii))
        return given["restarts"] * given.get("targets", 1) * once

    def params(self, num_classes: int = 10) -> dict[str, Any]:
        """The published settings, targets capped at K - 1."""
        if self.member == "square":
            return {"n_queries": QUERIES, "restarts": 1, "p_init": 0.8}
        given: dict[str, Any] = {"n_iter": ITERATIONS, "restarts": self._restarts}
        if self.member.startswith("apgd"):
            given |= {"rho": 0.75} | ({"eot_iter": 20} if self.suite == "rand" else {})
            given |= {"use_largereps": True} if self._large_reps else {}
        if self.member.endswith("-t"):
            targets = 5 if self._large_reps and self.member == "apgd-t" else TARGETS
            given |= {"targets": min(targets, num_classes - 1)}
        return given

    @property
    def _large_reps(self) -> bool:
        """APGD under L1 in the standard version begins in larger balls."""
        return self.suite == "standard" and self.norm == "L1"

    @property
    def _restarts(self) -> int:
        if self.member in ("apgd-t", "fab-t"):
            return 1
        return 5 if self.suite == "plus" or self._large_reps else 1

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        devices = [x_NCHW.device] if x_NCHW.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), frozen(model), _silenced("auto-attack"):
            x_NCHW = x_NCHW.contiguous()
            targets = self.params(self._num_classes(model, x_NCHW)).get("targets", 0)
            suite = self._published(model, threat, rng.seed, x_NCHW.device)
            suite.apgd.loss = "dlr" if self.member == "apgd-dlr" else "ce"
            suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = targets
            suite.fab.targeted = self.member == "fab-t"
            suite.fab.n_restarts = self._restarts
            attack = {"square": suite.square, "apgd-t": suite.apgd_targeted, "fab": suite.fab, "fab-t": suite.fab}
            try:
                return attack.get(self.member, suite.apgd).perturb(x_NCHW, y_N.long()).detach()
            except RuntimeError:
                input_gradient(model, x_NCHW[:1], y_N[:1], cross_entropy)  # if this is why, it says so
                raise

    def _published(self, model: nn.Module, threat: ThreatModel, seed: int, device: torch.device) -> Any:
        from pyautoattack import AutoAttack

        return AutoAttack(
            _FreshLogits(model), norm=threat.norm, eps=threat.eps, seed=seed, device=device, version=self.suite
        )

    def _num_classes(self, model: nn.Module, x_NCHW: Tensor) -> int:
        """K, from one forward pass. Raises ConfigError where a loss of the suite is not defined."""
        num_classes = model(x_NCHW[:1]).shape[1]
        fewest, loss = FEWEST_CLASSES[self.suite]
        if num_classes < fewest:
            raise ConfigError(
                f"pyautoattack needs at least {fewest} classes for its {loss}, this model has {num_classes}",
                "use --engine fast",
            )
        return num_classes


class _FreshLogits(nn.Module):
    """The model with its logits copied: Square writes into the tensor that it gets back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.model(x_NCHW).clone()


@contextmanager
def _silenced(logger: str) -> Iterator[None]:
    """Without the published code's warnings: soundness/ says the same in flags that reach the record."""
    speaking = logging.getLogger(logger)
    before, speaking.disabled = speaking.disabled, True
    try:
        yield
    finally:
        speaking.disabled = before
