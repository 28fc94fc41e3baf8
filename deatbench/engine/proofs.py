"""Survivors of the first attack that no further one can break: a certificate proves it, so none is tried on them.

Certificates are tried on the most promising images first, wave by wave, until a wave has proved few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deatbench.attacks import Attack
from deatbench.certificates import Certifier, NotCertifiable, read
from deatbench.certificates.reading import PROBE
from deatbench.engine.progress import Outcome
from deatbench.engine.trial import NOTHING_KEPT, Trial
from deatbench.threats import ThreatModel

PROMISES = 64  # images whose promise is one unit of work
FIRST, WAVE = 4, 16  # images that are tried before it is asked whether to go on, first and later
UNIT = 2  # images of one unit of work
LEAST_SHARE = 0.25  # of a wave: who proves fewer had better attack
LEAST_PASSES = 500  # that an image has before it, for a proof to be worth a try; it may take a bound for each

T = TypeVar("T")
Units = Sequence[Tensor]
Run = Callable[[Units, Callable[[str, Tensor], Outcome]], Iterator[tuple[int, Outcome]]]


class Prover:
    """Certificates for the images of a trial."""

    def __init__(self, trial: Trial, certifier: Certifier) -> None:
        self.trial, self.certifier = trial, certifier

    def among(self, survivors: Tensor, run: Run) -> Iterator[tuple[Tensor, Tensor, float]]:
        """(images that were tried, those of them that are proved, seconds), wave by wave."""
        ordered = self._most_promising_first(survivors, run)
        for wave in (ordered[:FIRST], *ordered[FIRST:].split(WAVE)):
            units = wave.split(UNIT)
            outcomes = list(run(units, self._prove))
            proved = torch.cat([units[unit][outcome.found_U] for unit, outcome in outcomes])
            yield wave, proved, sum(outcome.seconds for _, outcome in outcomes)
            if len(proved) < LEAST_SHARE * len(wave):
                return

    def _most_promising_first(self, survivors: Tensor, run: Run) -> Tensor:
        units = survivors.split(PROMISES)
        promises = {unit: outcome.promise_U for unit, outcome in run(units, self._promise)}
        promise = np.concatenate([promises[unit] for unit in range(len(units))])
        return survivors[np.argsort(-promise, kind="stable")]

    def _promise(self, name: str, indices: Tensor) -> Outcome:
        promises = [self._asked(self.certifier.promise, image, -np.inf) for image in self._images(indices)]
        return Outcome(np.zeros(len(indices), dtype=bool), NOTHING_KEPT, promise_U=np.array(promises))

    def _prove(self, name: str, indices: Tensor) -> Outcome:
        proved = [self._asked(self.certifier.proved, image, False) for image in self._images(indices)]
        return Outcome(np.array(proved), NOTHING_KEPT)

    def _asked(self, ask: Callable[[Tensor, int], T], image: tuple[Tensor, int], otherwise: T) -> T:
        """The certifier's answer; where it cannot find one, for want of memory, the image is attacked."""
        try:
            return ask(*image)
        except RuntimeError:
            return otherwise

    def _images(self, indices: Tensor) -> Iterator[tuple[Tensor, int]]:
        x_NCHW, y_N = self.trial.batch(indices)
        return zip(x_NCHW, y_N.tolist(), strict=True)


def prover_for(trial: Trial, threat: ThreatModel, to_come: Iterable[Attack], survivors: Tensor) -> Prover | None:
    """Who spares `survivors` the attacks that are to come; None where nobody can or it is not worth it."""
    settings = trial.settings
    passes = sum(member.passes(trial.num_classes) * member.runs for member in to_come if trial.is_ours(member))
    worth_it = settings.certificates and passes >= LEAST_PASSES and len(survivors) > 0
    if not worth_it or threat.norm != Certifier.norm or trial.device.type != "cpu":
        return None
    try:
        network = read(trial.model.model, trial.batch(survivors[:PROBE])[0])
    except NotCertifiable:
        return None
    return Prover(trial, Certifier(network, threat, passes))
