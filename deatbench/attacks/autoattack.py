"""AutoAttack, version *standard*, through pyautoattack, driven attack by attack.

Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (arXiv 2003.01690): APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5000 queries), each on the
survivors of the one before. The reference members run the published code unchanged, so that with the same seed and
batches the verdicts are those of `pyautoattack.AutoAttack.run_standard_evaluation`; the loop over them is the engine's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from deatbench.attacks.apgd import APGDCE, APGDT
from deatbench.attacks.base import ATTACKS, Attack, Engine
from deatbench.attacks.borrow import frozen
from deatbench.attacks.fab import FABT
from deatbench.attacks.gradient import cross_entropy, input_gradient
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square import Square
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
TARGETS = 9
ITERATIONS = 100
QUERIES = 5000


class _FreshLogits(nn.Module):
    """The model with its logits copied: Square writes into the tensor that it gets back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.model(x_NCHW).clone()


@dataclass(frozen=True)
class Member(Attack):
    """One attack of the standard suite, with the suite's settings."""

    member: str

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
        targets = min(TARGETS, num_classes - 1)
        return {
            "apgd-ce": ITERATIONS + 1,
            "apgd-t": targets * (ITERATIONS + 1),
            "fab-t": targets * (2 * ITERATIONS + 1),
            "square": QUERIES + 1,
        }[self.member]

    def params(self) -> dict[str, Any]:
        settings: dict[str, dict[str, Any]] = {
            "apgd-ce": {"n_iter": ITERATIONS, "restarts": 1, "rho": 0.75},
            "apgd-t": {"n_iter": ITERATIONS, "restarts": 1, "rho": 0.75, "targets": TARGETS},
            "fab-t": {"n_iter": ITERATIONS, "restarts": 1, "targets": TARGETS},
            "square": {"n_queries": QUERIES, "restarts": 1, "p_init": 0.8},
        }
        return settings[self.member]

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        from pyautoattack import AutoAttack as Published

        devices = [x_NCHW.device] if x_NCHW.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), frozen(model), _silenced("auto-attack"):
            x_NCHW = x_NCHW.contiguous()
            targets = min(TARGETS, _num_classes(model, x_NCHW) - 1)
            suite = Published(
                _FreshLogits(model), norm=threat.norm, eps=threat.eps, seed=rng.seed, device=x_NCHW.device
            )
            suite.apgd.loss = "ce"
            suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = targets
            suite.fab.targeted = True
            run = {
                "apgd-ce": suite.apgd.perturb,
                "apgd-t": suite.apgd_targeted.perturb,
                "fab-t": suite.fab.perturb,
                "square": suite.square.perturb,
            }[self.member]
            try:
                return run(x_NCHW, y_N.long()).detach()
            except RuntimeError:
                input_gradient(model, x_NCHW[:1], y_N[:1], cross_entropy)  # if this is why, it says so
                raise


@contextmanager
def _silenced(logger: str) -> Iterator[None]:
    """Without the published code's warnings: soundness/ says the same in flags that reach the record."""
    speaking = logging.getLogger(logger)
    before, speaking.disabled = speaking.disabled, True
    try:
        yield
    finally:
        speaking.disabled = before


def _num_classes(model: nn.Module, x_NCHW: Tensor) -> int:
    """K, from one forward pass. Raises ConfigError where the targeted DLR loss is not defined."""
    num_classes = model(x_NCHW[:1]).shape[1]
    if num_classes < 4:
        raise ConfigError(
            f"AutoAttack needs at least 4 classes for its targeted DLR loss, this model has {num_classes}",
            "use --attacks pgd-100,cw-100",
        )
    return num_classes


@ATTACKS.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack standard: APGD-CE, APGD-T, FAB-T, Square, each on the survivors (Croce & Hein 2020).

    Args:
        run_by: "reference" is pyautoattack, unchanged; "fast" are our own members with the same settings, which reach
            the same verdicts when they take its random draws, and otherwise draw per image.
    """

    run_by: Engine = "reference"

    @property
    def name(self) -> str:
        return "autoattack"

    @property
    def engine(self) -> str:
        return self.members()[0].engine

    def by(self, engine: Engine) -> AutoAttack:
        return AutoAttack(engine)

    def members(self) -> tuple[Attack, ...]:
        if self.run_by == "fast":
            return (APGDCE(), APGDT(), FABT(), Square())
        return tuple(Member(member) for member in STANDARD)

    def passes(self, num_classes: int) -> int:
        return sum(member.passes(num_classes) for member in self.members())

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        """All members in turn, each on the images that still stand."""
        x_adv_NCHW = x_NCHW.clone()
        standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
        for member in self.members():
            found = member(model, x_NCHW[standing], y_N[standing], threat, rng.of(standing))
            x_adv_NCHW[standing] = found
            with torch.no_grad():
                standing = standing[model(found).argmax(1) == y_N[standing]]
            if len(standing) == 0:
                break
        return x_adv_NCHW
