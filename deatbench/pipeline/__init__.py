"""The main path: configure → train → evaluate → enter into the zoo.

`deatbench run --arch vgg16 --method deat` is `run(configure(...), machine)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deatbench.config import RunConfig
from deatbench.data import Dataset, load_dataset
from deatbench.engine.distributed import Processes
from deatbench.engine.monitor import Monitor
from deatbench.engine.shards import shards
from deatbench.errors import InterruptedRun
from deatbench.models import LoadedModel
from deatbench.models.runs import trained_model
from deatbench.pipeline.configuration import configure
from deatbench.pipeline.evaluation import evaluate, under_its_other_name
from deatbench.pipeline.generalisation import measure_generalisation
from deatbench.pipeline.machine import Machine
from deatbench.pipeline.publication import add_diagnostics, add_to_zoo
from deatbench.pipeline.request import EvaluationRequest
from deatbench.pipeline.training import prepare, train
from deatbench.records import Checkpoint, EvaluationRecord, TrainingRecord
from deatbench.store import RunFolder, read_record, write_record
from deatbench.threats import ThreatModel, make_threat
from deatbench.trackers import Trackers

__all__ = [
    "EvaluationRequest",
    "Machine",
    "RunResult",
    "add_to_zoo",
    "configure",
    "evaluate",
    "prepare",
    "run",
    "train",
]


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its records, its place in the zoo if it was to have one."""

    folder: RunFolder
    training: TrainingRecord
    evaluations: tuple[EvaluationRecord, ...]
    zoo_entry: Path | None


def run(
    config: RunConfig,
    machine: Machine,
    *,
    fresh: bool = False,
    publish: bool = True,
    monitor: Monitor | None = None,
    trackers: Trackers | None = None,
    processes: Processes | None = None,
) -> RunResult:
    """Train, evaluate every kept set of weights, and enter the chosen one into the zoo; by `processes` together.

    Not to `publish` leaves the zoo as it is: a sweep's runs are points of a comparison, not models to choose from.
    """
    monitor, team = monitor or Monitor(), processes or Processes()
    folder = train(config, machine, fresh=fresh, monitor=monitor, trackers=trackers, processes=team)
    training = read_record(folder.training, TrainingRecord)
    data = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction)
    measuring = _Measuring(config, folder, training, data, machine, fresh, monitor, team)
    records: dict[Checkpoint, EvaluationRecord] = {}
    for name in sorted(training.weights, key=lambda name: name != training.chosen):
        records[name] = measuring.evaluation(name, records)
    entry = None
    if publish:
        entry = team.first(lambda: add_to_zoo(machine.home, folder, training, [*records.values()]))
        team.first(lambda: add_diagnostics(entry, folder, data, machine, monitor))
    return RunResult(folder, training, tuple(records.values()), entry)


@dataclass(frozen=True)
class _Measuring:
    """The evaluations of a trained run's weights, each made unless it is there."""

    config: RunConfig
    folder: RunFolder
    training: TrainingRecord
    data: Dataset
    machine: Machine
    fresh: bool
    monitor: Monitor
    team: Processes

    def evaluation(self, name: Checkpoint, before: Mapping[Checkpoint, EvaluationRecord]) -> EvaluationRecord:
        """Of the weights of this name; those evaluated `before` under another, by the same attacks, are not again."""
        path = self.folder.evaluations / f"{name}-{self.config.evaluation.digest}.json"
        if not self.team.first(path.is_file):
            model = trained_model(self.folder, name, self.machine.device)
            alike = (other for other in before if self.training.weights[other] == self.training.weights[name])
            if same := next((other for other in alike if self._attacks(other) == self._attacks(name)), None):
                self.monitor.note(f"{self.folder.path.name}: its {name} weights are the {same} ones, evaluated already")
                record = under_its_other_name(before[same], model, *self._asked(name), self.machine)
                self.team.first(lambda: write_record(path, record))
            else:
                self._attack(name, model, path)
        return read_record(path, EvaluationRecord)

    def _attack(self, name: Checkpoint, model: LoadedModel, path: Path) -> None:
        self.monitor.note(f"attacking the {name} weights of {self.folder.path.name}")
        asked = self._asked(name)
        done = evaluate(model, *asked, self.machine, monitor=self.monitor, shards=shards(self.team))
        if done.interrupted:
            raise InterruptedRun("evaluation stopped", "the same command continues")
        gap = self.team.first(lambda: measure_generalisation(model.module, self.data, self.config, self.machine.device))
        record = done.record.model_copy(update={"generalisation": gap})
        self.team.first(lambda: write_record(path, record))
        self.team.first(done.progress.clear)

    def _attacks(self, name: Checkpoint) -> tuple[str, ...]:
        """The whole plan for the chosen weights."""
        plan = self.config.evaluation
        return plan.attacks if name == self.training.chosen else plan.last_attacks

    def _asked(self, name: Checkpoint) -> tuple[Dataset, ThreatModel, EvaluationRequest]:
        config, plan = self.config, self.config.evaluation
        request = EvaluationRequest(
            self._attacks(name),
            n=plan.n,
            seed=config.seed,
            batch_size=plan.batch_size,
            engine=plan.engine,
            precision=plan.precision,
            fresh=self.fresh,
        )
        return self.data, make_threat(config.threat.norm, config.threat.eps), request
