"""One evaluation: from a network, images and attacks to a record, its proof, and progress that survives a kill."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from deatbench.data import Dataset
from deatbench.engine.environment import environment
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.evaluation import Evaluation
from deatbench.engine.interruption import stopped_by_signals
from deatbench.engine.monitor import Monitor
from deatbench.engine.progress import SavedProgress, locked
from deatbench.engine.search import strict_float32
from deatbench.engine.shards import Alone
from deatbench.errors import DeatbenchError, InterruptedRun
from deatbench.evidence import write_evaluation
from deatbench.models import LoadedModel
from deatbench.models.factory import blamed
from deatbench.pipeline.machine import Machine, now
from deatbench.pipeline.proof import proved
from deatbench.pipeline.request import EvaluationRequest
from deatbench.pipeline.task import Task, make_task
from deatbench.records import Certificates, CurvePoint, EvaluationRecord, Flag, Samples, metrics_of, pack_bits
from deatbench.soundness import inspect_model, inspect_survivors, judge_results
from deatbench.store import read_record
from deatbench.threats import ThreatModel


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that came to its end, or was interrupted past a point worth recording."""

    record: EvaluationRecord
    archive: bytes | None
    progress: SavedProgress
    interrupted: bool

    def write(self, folders: Sequence[Path]) -> Path:
        """The record and its proof into each folder; then the progress is no longer needed. Returns the first path.

        Raises InterruptedRun, with nothing written, where it would replace a finished record of the same evaluation.
        """
        for path in (folder / f"{self.record.id}.json" for folder in folders):
            if self.interrupted and _is_finished(path):
                raise InterruptedRun(
                    f"evaluation stopped; {path} stays, which is the same one, finished", "the same command continues"
                )
        paths = [write_evaluation(folder, self.record, self.archive) for folder in folders]
        if not self.interrupted:
            self.progress.clear()
        return paths[0]


def _is_finished(path: Path) -> bool:
    """Whether a whole evaluation lies there; what cannot be read is none."""
    try:
        flags = read_record(path, EvaluationRecord).flags
    except DeatbenchError:
        return False
    return all(flag.code != "provisional" for flag in flags)


def evaluate(
    model: LoadedModel,
    data: Dataset,
    threat: ThreatModel,
    request: EvaluationRequest,
    machine: Machine,
    *,
    monitor: Monitor | None = None,
    shards: Alone | None = None,
) -> Evaluated:
    """Attack `model` on test images and say what was found, in one record.

    Killed and called again, it goes on where it was; several processes (`shards`) share the work and all return the
    same. Raises ConfigError if model, data and attacks do not fit, or another process is at it.
    """
    monitor, shards = monitor or Monitor(), shards or Alone()
    with blamed(model):
        task = make_task(model, data, threat, request, machine)
    folder = machine.home.evaluations / ".unfinished" / task.record_id
    with stopped_by_signals(), locked(folder) if shards.rank == 0 else nullcontext(), blamed(model):
        progress = _progress(task, folder, request.fresh, monitor, shards)
        with strict_float32():
            flags = inspect_model(task.module, task.images, threat, device=machine.device)
        done = attack_model(
            task.module, task.images, threat, task.attacks, task.settings,
            sweep=task.sweep, device=machine.device, progress=progress, shards=shards, monitor=monitor,
        )  # fmt: skip
        with strict_float32():
            flags += _survivors_flags(task, done, flags, machine)
    flags += judge_results(done.clean_N, done.robust, done.attacks, threat) + _unfinished(done)
    record, archive = _record(task, done, flags, machine), None
    if task.settings.keep_images:
        record, archive = proved(record, done.images, task.images)
    return Evaluated(record, archive, progress, bool(done.missing))


def under_its_other_name(
    record: EvaluationRecord,
    model: LoadedModel,
    data: Dataset,
    threat: ThreatModel,
    request: EvaluationRequest,
    machine: Machine,
) -> EvaluationRecord:
    """`record` for the same weights kept under another name: attacked again, they would get the same verdicts."""
    task = make_task(model, data, threat, request, machine)
    return record.model_copy(update={"id": task.record_id, "model": task.model_info, "training": model.training})


def _progress(task: Task, folder: Path, fresh: bool, monitor: Monitor, shards: Alone) -> SavedProgress:
    """What an earlier try has left, unless it is to be forgotten."""
    if fresh and shards.rank == 0:
        SavedProgress.forget(folder)
    shards.wait()
    progress = SavedProgress(folder, task.progress_key)
    if progress.begun:
        monitor.note(f"continuing an evaluation that was stopped ({progress.begun} parts done; --fresh starts over)")
    return progress


def _survivors_flags(task: Task, done: Evaluation, known: Sequence[Flag], machine: Machine) -> list[Flag]:
    """What more of the same attack does to the survivors; nobody waits for it who has stopped the evaluation."""
    if done.missing:
        return []
    return inspect_survivors(
        task.module, task.images, task.threat, task.attacks, done.clean_N, done.robust, known,
        seed=task.settings.seed, device=machine.device,
    )  # fmt: skip


def _record(task: Task, done: Evaluation, flags: Sequence[Flag], machine: Machine) -> EvaluationRecord:
    return EvaluationRecord(
        id=task.record_id,
        created=now(),
        model=task.model_info,
        training=task.model.training,
        dataset=task.dataset_info,
        threat=task.threat.record(),
        metrics=metrics_of(done.clean_N, done.robust),
        attacks=tuple(done.attacks),
        samples=_samples(done),
        certificates=_certificates(done),
        curve=_curve(done),
        flags=tuple(flags),
        env=environment(machine.device),
        search_precision=task.settings.search.precision if task.searches else "fp32",
        draws=task.settings.draws,
        batch_size=task.settings.batch_size,
        seconds=round(done.seconds, 2),
        command=machine.command,
    )


def _samples(done: Evaluation) -> Samples:
    return Samples(
        n=len(done.clean_N),
        clean=pack_bits(done.clean_N),
        robust={name: pack_bits(verdicts_N) for name, verdicts_N in done.robust.items()},
    )


def _certificates(done: Evaluation) -> Certificates | None:
    if done.proved_N is None:
        return None
    return Certificates(proved=pack_bits(done.proved_N), seconds=round(done.proof_seconds, 3))


def _curve(done: Evaluation) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(eps=threat.eps, eps_text=threat.eps_text, robust=pack_bits(robust_N))
        for threat, robust_N in done.curve
    )


def _unfinished(done: Evaluation) -> list[Flag]:
    """An interrupted evaluation says so; its numbers are upper bounds."""
    if not done.missing:
        return []
    message = f"stopped early, not finished: {', '.join(done.missing)}; accuracies are upper bounds"
    return [Flag(code="provisional", message=message)]
