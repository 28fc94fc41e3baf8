"""The main path: configure → train → evaluate → enter into the zoo.

`deatbench run --arch vgg16 --method deat` is `run(configure(...), machine)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deatbench.config import RunConfig
from deatbench.data import load_dataset
from deatbench.engine.monitor import Monitor
from deatbench.errors import InterruptedRun
from deatbench.models.runs import trained_model
from deatbench.pipeline.configuration import configure
from deatbench.pipeline.evaluation import evaluate
from deatbench.pipeline.machine import Machine
from deatbench.pipeline.publication import add_to_zoo
from deatbench.pipeline.request import EvaluationRequest
from deatbench.pipeline.training import prepare, train
from deatbench.records import Checkpoint, EvaluationRecord, TrainingRecord, digest_of
from deatbench.store import RunFolder, read_record, write_record
from deatbench.threats import make_threat

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
    """A finished run: its folder, its records, its place in the zoo."""

    folder: RunFolder
    training: TrainingRecord
    evaluations: tuple[EvaluationRecord, ...]
    zoo_entry: Path


def run(config: RunConfig, machine: Machine, *, fresh: bool = False, monitor: Monitor | None = None) -> RunResult:
    """Train, evaluate the best and the last checkpoint, and enter the model into the zoo."""
    monitor = monitor or Monitor()
    folder = train(config, machine, fresh=fresh, monitor=monitor)
    data = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction)
    threat = make_threat(config.threat.norm, config.threat.eps)
    plan = config.evaluation
    records = []
    checkpoint: Checkpoint
    for checkpoint, attacks in (("best", plan.attacks), ("last", plan.last_attacks)):
        path = folder.evaluations / f"{checkpoint}-{digest_of(plan.model_dump(mode='json'))[:8]}.json"
        if not path.is_file():
            monitor.note(f"attacking the {checkpoint} weights of {folder.path.name}")
            model = trained_model(folder, checkpoint, machine.device)
            request = EvaluationRequest(
                attacks,
                n=plan.n,
                seed=config.seed,
                batch_size=plan.batch_size,
                engine=plan.engine,
                precision=plan.precision,
                fresh=fresh,
            )
            done = evaluate(model, data, threat, request, machine, monitor=monitor)
            if done.interrupted:
                raise InterruptedRun("evaluation stopped", "the same command continues")
            write_record(path, done.record)
            done.progress.clear()
        records.append(read_record(path, EvaluationRecord))
    training = read_record(folder.training, TrainingRecord)
    return RunResult(folder, training, tuple(records), add_to_zoo(machine.home, folder, training, records))
