"""A record's recipe run once more, and how the second result compares with the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom

from deatbench.archs import ARCHS
from deatbench.config import RunConfig, validate_config
from deatbench.data import Dataset
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.distributed import Processes
from deatbench.engine.environment import environment, hardware_name
from deatbench.engine.monitor import Monitor
from deatbench.engine.shards import shards
from deatbench.errors import ConfigError, InterruptedRun, MismatchError
from deatbench.methods import METHODS
from deatbench.models import LoadedModel
from deatbench.models.runs import trained_model
from deatbench.optim import OPTIMIZERS
from deatbench.pipeline.configuration import ARCH_CONTEXT
from deatbench.pipeline.evaluation import evaluate
from deatbench.pipeline.machine import Machine, now
from deatbench.pipeline.request import EvaluationRequest
from deatbench.pipeline.training import train
from deatbench.records import EvaluationRecord, Outcome, RepeatedMetric, Reproduction, TrainingRecord
from deatbench.store import read_record, write_record
from deatbench.threats import make_threat

LEVEL = 0.05  # of all tests together


@dataclass(frozen=True)
class Difference:
    """Something that was otherwise when the record was made, so that the same bits need not come out."""

    what: str
    recorded: str
    here: str


def recipe_of(record: EvaluationRecord) -> RunConfig:
    """The configuration that the record's weights were trained by. Raises ConfigError if it is none, or another's."""
    if record.training is None:
        raise ConfigError(
            f"nobody knows how the model of {record.id} was trained",
            "its evaluation alone can be repeated: deatbench reproduce RECORD MODEL --evaluate-only",
        )
    config = validate_config(record.training.config)
    for registry, spec, context in (
        (ARCHS, config.arch, ARCH_CONTEXT),
        (METHODS, config.method, ()),
        (OPTIMIZERS, config.optimizer, ()),
    ):
        registry.bind(spec.name, spec.params, context)
    if (config.run_id, config.digest) != (record.training.run_id, record.training.digest):
        raise ConfigError(f"the recipe in {record.id} is not that of {record.training.run_id}, which it names")
    return config


def request_of(record: EvaluationRecord, *, fresh: bool = False) -> EvaluationRequest:
    """The evaluation that the record tells of, as a request. Raises ConfigError where it cannot be asked for again."""
    names = tuple(record.samples.robust)
    obstacles = (
        (any(name.endswith("-provisional") for name in names), "was interrupted: there is no whole result to repeat"),
        ("transfer" in names, "made its images on a surrogate, which a record cannot bring along"),
        (record.samples.indices != "first", "is of listed images, not of the first ones"),
        (not names, "is of no attack"),
    )
    for stands, complaint in obstacles:
        if stands:
            raise ConfigError(f"{record.id} {complaint}")
    published = any(attack.engine.startswith("pyautoattack") for attack in record.attacks)
    return EvaluationRequest(
        attacks=names,
        n=record.dataset.n,
        seed=record.attacks[0].seed if record.attacks else 0,
        batch_size=record.batch_size,
        engine="reference" if published else "fast",
        precision=record.search_precision,
        draws=record.draws,
        eps_sweep=tuple(point.eps_text for point in record.curve),
        fresh=fresh,
    )


def differences(record: EvaluationRecord, machine: Machine, processes: Processes | None = None) -> list[Difference]:
    """What is otherwise here than where the record was made."""
    world = processes.world if processes else 1
    then, here = record.env, environment(machine.device, world)
    compared = [
        Difference("torch", then.torch, here.torch),
        Difference("device", then.device, here.device),
        Difference("hardware", then.hardware, here.hardware),
        Difference("revision of deatbench", then.git or "unknown", here.git or "unknown"),
    ]
    if record.training is not None and record.training.hardware != then.hardware:
        compared.append(Difference("training hardware", record.training.hardware, hardware_name(machine.device, world)))
    return [found for found in compared if found.recorded != found.here]


def repeat(
    record: EvaluationRecord,
    record_sha256: str,
    data: Dataset,
    machine: Machine,
    *,
    model: LoadedModel | None = None,
    fresh: bool = False,
    monitor: Monitor | None = None,
    processes: Processes | None = None,
) -> tuple[EvaluationRecord, float]:
    """Train and evaluate again in the machine's working folder; or evaluate `model`, which must be the record's.

    Returns the second evaluation, and the seconds that the work took. Stopped and called again, it goes on where it
    was; what is finished is not done again unless `fresh`. Raises MismatchError if data or model are not the record's.
    """
    monitor, team = monitor or Monitor(), processes or Processes()
    request = request_of(record, fresh=fresh)
    _check_data(record, data)
    trained = 0.0
    if model is None:
        recipe = recipe_of(record)
        folder = train(recipe, machine, fresh=fresh, monitor=monitor, processes=team)
        trained = read_record(folder.training, TrainingRecord).seconds
        assert record.training is not None  # it has a recipe
        model = trained_model(folder, record.training.checkpoint, machine.device)
        results = folder.evaluations
    else:
        results = machine.home.evaluations
        if weights_sha256(model.module) != record.model.sha256:
            raise MismatchError(f"{model.source} is not the network of {record.id}: its weights differ")
    path = results / f"again-{record_sha256[:16]}.json"
    second = _evaluated(record, request, model, data, machine, path, monitor, team)
    return second, trained + second.seconds


def _check_data(record: EvaluationRecord, data: Dataset) -> None:
    if data.test.sha256() != record.dataset.sha256:
        raise MismatchError(f"the test images of {data.name} here are not those of {record.id}: their SHA-256 differs")


def _evaluated(
    record: EvaluationRecord,
    request: EvaluationRequest,
    model: LoadedModel,
    data: Dataset,
    machine: Machine,
    path: Path,
    monitor: Monitor,
    team: Processes,
) -> EvaluationRecord:
    """The second evaluation, made now unless it is at `path` already, of these weights."""

    def stored() -> bool:
        return path.is_file() and read_record(path, EvaluationRecord).model.sha256 == weights_sha256(model.module)

    if not request.fresh and team.first(stored):
        monitor.note(f"already evaluated in {path} (--fresh does it again)")
        return read_record(path, EvaluationRecord)
    threat = make_threat(record.threat.norm, record.threat.eps_text)
    done = evaluate(model, data, threat, request, machine, monitor=monitor, shards=shards(team))
    if done.interrupted:
        raise InterruptedRun("evaluation stopped", "the same command continues")
    team.first(lambda: write_record(path, done.record))
    team.first(done.progress.clear)
    return done.record


def judge(first: EvaluationRecord, second: EvaluationRecord) -> tuple[Outcome, dict[str, RepeatedMetric]]:
    """How the second evaluation compares with the first, and every metric of both on the same images.

    A match is equality of every verdict. Else each metric has an exact test of McNemar (1947); the second result is a
    mismatch if any of them differs by more than chance at 5 % after Holm (1979), whose first step is the smallest
    p-value times their number. Raises MismatchError if the second is of other images or attacks.
    """
    same_task = (first.dataset, first.threat) == (second.dataset, second.threat)
    if not same_task or first.samples.robust.keys() != second.samples.robust.keys():
        raise MismatchError(f"{second.id} is of other images or attacks than {first.id}")
    metrics = {}
    for name, a_N, b_N in _verdicts(first, second):
        recorded, repeated = float(a_N.mean()), float(b_N.mean())
        metrics[name] = RepeatedMetric(recorded=recorded, repeated=repeated, p_value=mcnemar_p(a_N, b_N))
    if first.samples == second.samples and first.curve == second.curve:
        return Outcome.MATCH, metrics
    smallest = min(metric.p_value for metric in metrics.values())
    return (Outcome.MISMATCH if smallest * len(metrics) < LEVEL else Outcome.WITHIN_INTERVAL), metrics


def _verdicts(first: EvaluationRecord, second: EvaluationRecord) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every metric's name and its verdicts, bool [N], in both evaluations."""
    names, samples = list(first.samples.robust), (first.samples, second.samples)
    clean = [each.clean_N() for each in samples]
    yield "clean_acc", clean[0], clean[1]
    for name in names:
        yield name, samples[0].robust_N(name), samples[1].robust_N(name)
    yield "worst_case_acc", samples[0].worst_case_N(), samples[1].worst_case_N()


def mcnemar_p(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """p-value of the exact two-sided test of McNemar: verdicts (bool [N]) that differ fall as a fair coin does."""
    only_a, only_b = int((a_N & ~b_N).sum()), int((b_N & ~a_N).sum())
    return min(1.0, 2 * float(binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def reproduction(
    first: EvaluationRecord,
    first_sha256: str,
    second: EvaluationRecord,
    seconds: float,
    machine: Machine,
    *,
    retrained: bool,
) -> Reproduction:
    """The comparison as a record. Raises MismatchError as `judge` does."""
    outcome, metrics = judge(first, second)
    return Reproduction(
        record=first.id,
        record_sha256=first_sha256,
        created=now(),
        outcome=outcome,
        metrics=metrics,
        retrained=retrained,
        same_weights=first.model.sha256 == second.model.sha256,
        seconds=round(seconds, 2),
        env=second.env,
        command=machine.command,
    )
