"""AutoAttack: suites of attacks, each on the survivors of the one before.

Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(arXiv 2003.01690). Members and settings are those of the published code's versions *standard*, *plus* and *rand*; for
L1 those of Croce, Hein 2021, "Mind the box" (arXiv 2103.01208). Run by our own members, or by pyautoattack, unchanged.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from deatbench.attacks.apgd import APGDCE, APGDDLR, APGDT
from deatbench.attacks.base import ATTACKS, Attack, Engine
from deatbench.attacks.fab import FABT
from deatbench.attacks.fab_untargeted import FABUntargeted
from deatbench.attacks.journal import FORGETFUL, Journal
from deatbench.attacks.published import MEMBERS, STANDARD, Member, Version
from deatbench.attacks.restarts import all_runs, still_standing
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square import Square
from deatbench.threats import ThreatModel

__all__ = ["STANDARD", "AutoAttack", "AutoAttackPlus", "AutoAttackRand", "Member", "Suite"]


@dataclass(frozen=True)
class Suite(Attack):
    """Attacks tried in turn on the survivors.

    Args:
        run_by: "fast" are our own members, which draw per image and reach the published code's verdicts when they take
            its random draws; "reference" is pyautoattack, unchanged.
    """

    id: ClassVar[str]
    version: ClassVar[Version]

    run_by: Engine = "fast"

    @property
    def name(self) -> str:
        return self.id

    @property
    def engine(self) -> str:
        return self.members()[0].engine

    def by(self, engine: Engine) -> Suite:
        return replace(self, run_by=engine)

    def members(self, norm: str = "Linf") -> tuple[Attack, ...]:
        """The attacks with their settings for a norm, in the published order."""
        if self.run_by == "reference":
            return tuple(Member(member, self.version, norm) for member in MEMBERS[self.version])
        return self.own_members(norm)

    @abstractmethod
    def own_members(self, norm: str) -> tuple[Attack, ...]:
        """Our own attacks with the published settings."""

    def check(self, threat: ThreatModel) -> None:
        for member in self.members(threat.norm):
            member.check(threat)

    def passes(self, num_classes: int) -> int:
        return sum(member.passes(num_classes) * member.runs for member in self.members())

    def __call__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        rng: ExampleRng,
        journal: Journal = FORGETFUL,
    ) -> Tensor:
        """All members in turn, each with all its restarts, on the images that still stand."""
        x_adv_NCHW = x_NCHW.clone()
        standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
        for member in self.members(threat.norm):
            x, y = x_NCHW[standing], y_N[standing]
            found = all_runs(member, model, x, y, threat, rng.of(standing))
            x_adv_NCHW[standing] = found
            standing = standing[still_standing(model, found, x, y, threat)]
            if len(standing) == 0:
                break
        return x_adv_NCHW


@ATTACKS.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Suite):
    """AutoAttack standard: APGD-CE, APGD-T, FAB-T, Square, each on the survivors (Croce & Hein 2020).

    With fewer than 4 classes our APGD-T ascends the difference of two logits, since its own loss takes four.
    """

    id: ClassVar[str] = "autoattack"
    version: ClassVar[Version] = "standard"
    provisional_after: ClassVar[str] = "apgd-t"

    def own_members(self, norm: str) -> tuple[Attack, ...]:
        if norm == "L1":
            return (APGDCE(restarts=5, large_reps=True), APGDT(targets=5, large_reps=True), FABT(), Square())
        return (APGDCE(), APGDT(), FABT(), Square())


@ATTACKS.register("autoattack-plus")
@dataclass(frozen=True)
class AutoAttackPlus(Suite):
    """AutoAttack plus: APGD-CE, APGD-DLR and FAB with 5 restarts, Square, APGD-T, FAB-T (Croce & Hein 2020)."""

    id: ClassVar[str] = "autoattack-plus"
    version: ClassVar[Version] = "plus"
    provisional_after: ClassVar[str] = "apgd-dlr"

    def own_members(self, norm: str) -> tuple[Attack, ...]:
        restarted = (APGDCE(restarts=5), APGDDLR(restarts=5), FABUntargeted(restarts=5))
        return (*restarted, Square(), APGDT(), FABT())


@ATTACKS.register("autoattack-rand")
@dataclass(frozen=True)
class AutoAttackRand(Suite):
    """AutoAttack rand, for networks that draw random numbers: APGD-CE and APGD-DLR, EoT 20 (Croce & Hein 2020)."""

    id: ClassVar[str] = "autoattack-rand"
    version: ClassVar[Version] = "rand"

    def own_members(self, norm: str) -> tuple[Attack, ...]:
        return (APGDCE(eot=20), APGDDLR(eot=20))
