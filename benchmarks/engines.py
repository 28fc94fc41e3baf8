"""The two that are compared: deatbench's own AutoAttack, and pyautoattack called as its users call it."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass

import numpy as np
import pyautoattack
import torch
from torch import nn

from benchmarks.measuring import now, timed
from deatbench.attacks import Attack
from deatbench.attacks.autoattack import STANDARD, AutoAttack
from deatbench.data import Images
from deatbench.engine.evaluate import Settings, evaluate
from deatbench.engine.search import Precision, Search
from deatbench.threats import ThreatModel

SETTINGS = {"steps": 100, "queries": 5000}  # the published ones


@dataclass(frozen=True)
class Task:
    """What both are given. `members` in the suite's order; `steps` and `queries` below the published are rehearsals.

    `batch_size` is pyautoattack's, in images; `rows`, `precision`, `compiled` and `certificates` are ours: its batches
    decide verdicts, ours do not.
    """

    module: nn.Module
    images: Images
    threat: ThreatModel
    device: torch.device
    members: tuple[str, ...] = STANDARD
    seed: int = 0
    batch_size: int = 250
    rows: int = 500
    precision: Precision = "fp32"
    compiled: bool = False
    certificates: bool = True
    steps: int = SETTINGS["steps"]
    queries: int = SETTINGS["queries"]

    @property
    def published_settings(self) -> bool:
        return {"steps": self.steps, "queries": self.queries} == SETTINGS


@dataclass(frozen=True)
class Outcome:
    """Verdicts [N], seconds in all and of each member, robust accuracy after each member; images that were proved."""

    clean_N: np.ndarray
    robust_N: np.ndarray
    seconds: float
    member_seconds: dict[str, float]
    robust_after: dict[str, float]
    proved: int = 0
    proof_seconds: float = 0.0


@dataclass(frozen=True)
class _Chosen(AutoAttack):
    """AutoAttack with some of its members, or with fewer steps."""

    chosen: tuple[Attack, ...] = ()

    def own_members(self, norm: str) -> tuple[Attack, ...]:
        return self.chosen


def ours(task: Task) -> Outcome:
    """deatbench's own members under its evaluation loop: clean pass, attacks, confirmation of each success."""
    suite = AutoAttack("fast")
    if task.members != STANDARD or not task.published_settings:
        members = suite.members(task.threat.norm)
        suite = _Chosen("fast", tuple(_shortened(member, task) for member in members if member.name in task.members))
    search = Search(task.precision, task.compiled)
    workers = torch.get_num_threads() if task.device.type == "cpu" else 1
    settings = Settings(
        seed=task.seed, batch_size=task.rows, search=search, workers=workers, certificates=task.certificates
    )
    seconds, done = timed(
        lambda: evaluate(task.module, task.images, task.threat, [suite], settings, device=task.device), task.device
    )
    names = [result.name.rpartition("/")[2] for result in done.attacks]
    return Outcome(
        clean_N=done.clean_N,
        robust_N=done.robust[suite.name],
        seconds=seconds,
        member_seconds={name: result.seconds for name, result in zip(names, done.attacks, strict=True)},
        robust_after={name: result.robust_after for name, result in zip(names, done.attacks, strict=True)},
        proved=0 if done.proved_N is None else int(done.proved_N.sum()),
        proof_seconds=round(done.proof_seconds, 3),
    )


def published(task: Task) -> Outcome:
    """`pyautoattack.AutoAttack(...).run_standard_evaluation(...)`, with torch's own settings for TF32."""
    (batch,) = task.images.batches([torch.arange(len(task.images))], task.device)
    x_NCHW, y_N = batch[0].contiguous(), batch[1]
    with torch.no_grad():
        clean_N = torch.cat([task.module(part).argmax(1) for part in x_NCHW.split(task.batch_size)]) == y_N
    clock, tracer = _MemberClock(task.device), sys.gettrace()
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []), clock:
        suite = _published_suite(task)
        seconds, (_, y_adv_N) = timed(
            lambda: suite.run_standard_evaluation(x_NCHW, y_N, batch_size=task.batch_size), task.device
        )
    sys.settrace(tracer)  # its check for dynamic models switches the tracer off
    return Outcome(clean_N.cpu().numpy(), (y_adv_N == y_N).cpu().numpy(), seconds, clock.seconds, clock.robust_after)


def _shortened(member: Attack, task: Task) -> Attack:
    known = {field.name for field in dataclasses.fields(member)}
    return dataclasses.replace(member, **{key: getattr(task, key) for key in SETTINGS if key in known})


def _published_suite(task: Task) -> pyautoattack.AutoAttack:
    what = {"norm": task.threat.norm, "eps": task.threat.eps, "seed": task.seed, "device": task.device}
    if task.members == STANDARD:
        suite = pyautoattack.AutoAttack(task.module, version="standard", **what)
    else:
        suite = pyautoattack.AutoAttack(task.module, version="custom", attacks=list(task.members), **what)
        suite.apgd.n_restarts = suite.apgd_targeted.n_restarts = 1  # as version "standard" sets them
    if not task.published_settings:
        for attack in (suite.apgd, suite.apgd_targeted):
            attack.n_iter = task.steps
            attack.n_iter_2 = max(int(0.22 * task.steps), 1)
            attack.n_iter_min = max(int(0.06 * task.steps), 1)
            attack.size_decr = max(int(0.03 * task.steps), 1)
        suite.fab.n_iter, suite.square.n_queries = task.steps, task.queries
    return suite


class _MemberClock(logging.Handler):
    """Reads from the published code's log lines when each member begins and ends, and what it left standing."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(logging.DEBUG)
        self.device = device
        self.seconds: dict[str, float] = {}
        self.robust_after: dict[str, float] = {}
        self._started = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().split()
        if words[0] == "running":
            self._started = now(self.device)
        elif words[:3] == ["robust", "accuracy", "after"]:  # robust accuracy after APGD-CE: 55.08% (total time 3.0 s)
            name = words[3].rstrip(":").lower()
            self.seconds[name] = round(now(self.device) - self._started, 3)
            self.robust_after[name] = float(words[4].rstrip("%")) / 100

    def __enter__(self) -> None:
        self._logger = logging.getLogger("auto-attack")
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before


ENGINES = {"deatbench": ours, "pyautoattack": published}
