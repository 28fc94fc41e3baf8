"""The evaluation loop: a verdict per image, attack by attack.

Every top-level attack starts from the correctly classified images; the members of a suite and the restarts of an
attack see only the survivors. Each such stage is cut into units, parts of the images that stand; a unit's outcome
depends on nothing but itself, so that units may be kept, repeated after a kill, or shared among processes.
An adversarial image counts only if it is confirmed: inside the ball, inside [0, 1], and misclassified by the model in
float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from deatbench.attacks import Attack
from deatbench.attacks.borrow import mode
from deatbench.attacks.gradient import InterruptedGradient
from deatbench.data import Images
from deatbench.engine.evaluation import Evaluation, joined, standing
from deatbench.engine.monitor import Monitor
from deatbench.engine.progress import Outcome, Progress
from deatbench.engine.proofs import prover_for
from deatbench.engine.search import strict_float32
from deatbench.engine.shards import Alone
from deatbench.engine.trial import Settings, Trial
from deatbench.engine.workers import Workers
from deatbench.errors import DeatbenchError, InterruptedRun
from deatbench.records import AttackResult
from deatbench.threats import ThreatModel

__all__ = ["Settings", "evaluate"]


def evaluate(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    attacks: Sequence[Attack],
    settings: Settings | None = None,
    *,
    sweep: Sequence[ThreatModel] = (),
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    shards: Alone | None = None,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Attack `model` on `images` with each of `attacks`, then at the other radii of `sweep`.

    The model must return logits [N, K] for float32 images in [0, 1]; it is used in eval mode and left in the mode it
    came in. An attack that needs a gradient where the model interrupts it succeeds nowhere. What `progress` recalls is
    not done again. Raises ConfigError if images, labels and model do not fit, DeatbenchError on NaN logits,
    InterruptedRun if it is interrupted before an attack or a provisional point is finished.
    """
    monitor, shards, settings = monitor or Monitor(), shards or Alone(), settings or Settings()
    if shards.count > 1:  # processes share the units already; threads would each do all of them again
        settings = replace(settings, workers=1)
    trial = Trial(model, images, settings, torch.device(device), monitor)
    judge = _Judge(trial, progress or Progress(), shards, monitor)
    with strict_float32(), mode(model, training=False):
        return judge.all(threat, attacks, sweep)


class _Judge:
    """One evaluation in progress."""

    def __init__(self, trial: Trial, progress: Progress, shards: Alone, monitor: Monitor) -> None:
        self.trial, self.progress, self.shards, self.monitor = trial, progress, shards, monitor
        self.settings, self.n = trial.settings, len(trial.images)
        self.workers = Workers(trial.settings.workers)
        self.stages = 0
        self.proved_N = np.zeros(self.n, dtype=bool)
        self.kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # per attack: indices and adversarial images

    def all(self, threat: ThreatModel, attacks: Sequence[Attack], sweep: Sequence[ThreatModel]) -> Evaluation:
        """Clean images, each attack, the other radii; what is finished when somebody interrupts."""
        started = time.perf_counter()
        done = Evaluation(np.zeros(self.n, dtype=bool))
        for attack in attacks:
            attack.check(threat)
        self.to_come = [member for attack in attacks for member in attack.members(threat.norm)]
        try:
            done.clean_N = self._clean()
            for attack in attacks:
                done.robust[attack.name] = self._attack(attack, threat, done.clean_N, done)
            done.curve = self._curve(attacks, threat, sweep, done)
        except KeyboardInterrupt:
            if not done.robust:
                hint = "the same command continues" if type(self.progress) is not Progress else "run it again"
                raise InterruptedRun("evaluation stopped before an attack was finished", hint) from None
            done.missing = (
                *(attack.name for attack in attacks if attack.name not in done.robust),
                *["curve"] * bool(sweep),
            )
        done.images = {name: joined(parts) for name, parts in self.kept.items()}
        done.seconds = time.perf_counter() - started
        return done

    def _clean(self) -> np.ndarray:
        """Which images are classified correctly."""
        correct_N = np.ones(self.n, dtype=bool)
        self.monitor.start("clean", self.n)
        units = torch.arange(self.n).split(self.settings.batch_size)
        for unit, outcome, _ in self._outcomes(units, lambda name, indices: self.trial.clean(indices), self.shards):
            correct_N[units[unit][outcome.found_U]] = False
        self.monitor.finish(f"{correct_N.mean():.2%}")
        return correct_N

    def _attack(self, attack: Attack, threat: ThreatModel, clean_N: np.ndarray, done: Evaluation) -> np.ndarray:
        """Verdicts after `attack`; what its members did, and their images, go into `done`."""
        robust_N = clean_N.copy()
        for member in attack.members(threat.norm):
            name = member.name if member is attack else f"{attack.name}/{member.name}"
            if len(done.attacks) == 1:
                self._prove(threat, done)
            before = float(robust_N.mean())
            outcomes = list(self._tries(name, member, threat, robust_N, attack.name))
            result = AttackResult(
                name=name,
                params=member.params(self.trial.num_classes),
                seed=self.settings.seed,
                engine=member.engine,
                robust_before=before,
                robust_after=float(robust_N.mean()),
                seconds=round(sum(outcome.seconds for outcome in outcomes), 3),
                forward_passes=sum(outcome.passes for outcome in outcomes),
            )
            if not done.attacks:
                self.first_N = robust_N.copy()
            done.attacks.append(result)
            if member.name == attack.provisional_after:
                done.robust[f"{attack.name}-provisional"] = robust_N.copy()
                self.monitor.note(f"{attack.name}, provisional: {standing(robust_N)}; what follows seldom lowers it")
        done.robust.pop(f"{attack.name}-provisional", None)
        return robust_N

    def _tries(
        self, title: str, member: Attack, threat: ThreatModel, robust_N: np.ndarray, under: str = ""
    ) -> Iterator[Outcome]:
        """`member` and its restarts, each on the survivors; updates `robust_N`, keeps images `under` a name if any.

        At the evaluation's own radius, where there is a name, our own attacks pass over what is proved robust.
        """
        before, cost = robust_N.mean(), member.passes(self.trial.num_classes)
        spared_N = self.proved_N & bool(under and self.trial.is_ours(member))
        self.monitor.start(title, float((robust_N & ~spared_N).sum()) * cost * member.runs)
        interrupted = False
        for run in range(member.runs if self.settings.draws == "own" else 1):
            survivors = torch.from_numpy(np.flatnonzero(robust_N & ~spared_N))
            units = self.trial.units(member, survivors)
            team = self.workers if len(units) > 1 and self.trial.parallel(member) else self.shards

            def find(name: str, indices: Tensor, run: int = run, team: Alone = team) -> Outcome:
                journal = team.heeded_by(self.progress.journal(name))
                return self.trial.attack(member, run, indices, threat, journal)

            for unit, outcome, left in self._outcomes(units, find, team, cost):
                broken = units[unit][outcome.found_U].numpy()
                robust_N[broken] = False
                if under and self.proved_N[broken].any():
                    raise DeatbenchError("an image is broken that was proved robust", "--no-certificates --fresh")
                if under and len(outcome.x_adv):
                    self.kept.setdefault(under, []).append((broken, outcome.x_adv))
                self.monitor.advance(left, standing(robust_N))
                interrupted |= outcome.interrupted
                yield replace(outcome, seconds=outcome.seconds / min(team.count, len(units)))
            if interrupted:  # no success is no proof of robustness: soundness flags such a model
                self.monitor.note(f"{title}: {InterruptedGradient().message}")
                return
        self.monitor.finish(f"{before:.2%} -> {robust_N.mean():.2%}")

    def _prove(self, threat: ThreatModel, done: Evaluation) -> None:
        """Certificates for the survivors of the first attack, where they cost less than the attacks to come."""
        survivors = torch.from_numpy(np.flatnonzero(self.first_N))
        prover = prover_for(self.trial, threat, self.to_come[1:], survivors)
        if prover is None:
            return
        team = self.workers if self.workers.count > 1 else self.shards

        def run(units: Sequence[Tensor], work: Callable[[str, Tensor], Outcome]) -> Iterator[tuple[int, Outcome]]:
            return ((unit, outcome) for unit, outcome, _ in self._outcomes(units, work, team))

        done.proved_N = self.proved_N
        self.monitor.start("certificates", len(survivors))
        for tried, proved, seconds in prover.among(survivors, run):
            self.proved_N[proved.numpy()] = True
            done.proof_seconds += seconds / team.count
            self.monitor.advance(len(tried), f"{self.proved_N.sum()} proved")
        self.monitor.finish(f"{self.proved_N.sum()} of {len(survivors)} proved")

    def _curve(
        self, attacks: Sequence[Attack], threat: ThreatModel, sweep: Sequence[ThreatModel], done: Evaluation
    ) -> list[tuple[ThreatModel, np.ndarray]]:
        """Verdicts at the radii of `sweep` and at the evaluation's own, by increasing radius.

        An image that withstands a radius withstands the smaller ones, one that is broken is broken at the larger
        ones: the curve cannot rise, and only the images in between are attacked.
        """
        if not sweep:
            return []
        worst_N = np.logical_and.reduce([done.clean_N, *done.robust.values()])
        verdicts = {threat: worst_N}
        smaller = sorted((other for other in sweep if other.eps < threat.eps), key=lambda other: -other.eps)
        for larger, other in pairwise([threat, *smaller]):
            doubtful_N = done.clean_N & ~verdicts[larger]
            verdicts[other] = verdicts[larger] | self._worst(attacks, other, doubtful_N)
        larger_ones = sorted((other for other in sweep if other.eps > threat.eps), key=lambda other: other.eps)
        for before, other in pairwise([threat, *larger_ones]):
            verdicts[other] = self._worst(attacks, other, verdicts[before].copy())
        return sorted(verdicts.items(), key=lambda pair: pair[0].eps)

    def _worst(self, attacks: Sequence[Attack], threat: ThreatModel, robust_N: np.ndarray) -> np.ndarray:
        """`robust_N` after all attacks, each on the survivors of the one before."""
        for attack in attacks:
            for member in attack.members(threat.norm):
                list(self._tries(f"eps {threat.eps_text}: {member.name}", member, threat, robust_N))
        return robust_N

    def _outcomes(
        self, units: Sequence[Tensor], work: Callable[[str, Tensor], Outcome], team: Alone, cost: int = 1
    ) -> Iterator[tuple[int, Outcome, int]]:
        """The outcomes of one stage's units: recalled, or worked out by some of the team, then kept.

        `cost` are the passes that an image is expected to take; the third value are those that nobody here has made.
        """
        left: dict[int, int] = {}
        stage = f"{self.stages:03}"
        self.stages += 1

        def outcome_of(unit: int) -> Outcome:
            name = f"{stage}-{unit:05}"
            known = self.progress.recall(name)
            if known is not None:
                return known
            started, passed = time.perf_counter(), self.trial.passed
            found = work(name, units[unit])
            seconds, passes = time.perf_counter() - started, self.trial.passed - passed
            outcome = replace(found, seconds=seconds, passes=passes)
            self.progress.keep(name, outcome)
            left[unit] = max(0, len(units[unit]) * cost - passes)
            return outcome

        for unit, outcome in team.share(stage, len(units), outcome_of):
            yield unit, outcome, left.pop(unit, len(units[unit]) * cost)
