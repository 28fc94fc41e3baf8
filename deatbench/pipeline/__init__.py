"""The main path: configure → train → evaluate → enter into the zoo.

`deatbench run --arch vgg16 --method deat` is `run(configure(...), machine)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deatbench.config import RunConfig
from deatbench.data import Dataset, load_dataset
from deatbench.engine.distributed import Processes
from deatbench.engine.monitor import Monitor
from deatbench.engine.shards import shards
from deatbench.errors import InterruptedRun
from deatbench.models.runs import trained_model
from deatbench.pipeline.configuration import configure
from deatbench.pipeline.evaluation import evaluate
from deatbench.pipeline.generalisation import measure_generalisation
from deatbench.pipeline.machine import Machine
from deatbench.pipeline.publication import add_diagnostics, add_to_zoo
from deatbench.pipeline.request import EvaluationRequest
from deatbench.pipeline.training import prepare, train
from deatbench.records import Checkpoint, EvaluationRecord, TrainingRecord
from deatbench.store import RunFolder, read_record, write_record
from deatbench.threats import make_threat
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
    checkpoints = sorted(training.weights, key=lambda name: name != training.chosen)
    records = [_evaluated(name, config, folder, training, data, machine, fresh, monitor, team) for name in checkpoints]
    entry = None
    if publish:
        entry = team.first(lambda: add_to_zoo(machine.home, folder, training, records))
        team.first(lambda: add_diagnostics(entry, folder, data, machine, monitor))
    return RunResult(folder, training, tuple(records), entry)


def _evaluated(
    checkpoint: Checkpoint,
    config: RunConfig,
    folder: RunFolder,
    training: TrainingRecord,
    data: Dataset,
    machine: Machine,
    fresh: bool,
    monitor: Monitor,
    team: Processes,
) -> EvaluationRecord:
    """The evaluation of one set of weights, made now unless it is there: the chosen one gets the whole plan."""
    plan = config.evaluation
    path = folder.evaluations / f"{checkpoint}-{plan.digest}.json"
    if not team.first(path.is_file):
        monitor.note(f"attacking the {checkpoint} weights of {folder.path.name}")
        model = trained_model(folder, checkpoint, machine.device)
        request = EvaluationRequest(
            plan.attacks if checkpoint == training.chosen else plan.last_attacks,
            n=plan.n,
            seed=config.seed,
            batch_size=plan.batch_size,
            engine=plan.engine,
            precision=plan.precision,
            fresh=fresh,
        )
        threat = make_threat(config.threat.norm, config.threat.eps)
        done = evaluate(model, data, threat, request, machine, monitor=monitor, shards=shards(team))
        if done.interrupted:
            raise InterruptedRun("evaluation stopped", "the same command continues")
        gap = team.first(lambda: measure_generalisation(model.module, data, config, machine.device))
        record = done.record.model_copy(update={"generalisation": gap})
        team.first(lambda: write_record(path, record))
        team.first(done.progress.clear)
    return read_record(path, EvaluationRecord)
