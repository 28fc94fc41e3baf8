"""From the folder of a finished run to the one line that a sweep keeps of it, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deatbench.errors import ConfigError, MissingError
from deatbench.records import (
    EpochMetrics,
    EpochSeries,
    EvaluationRecord,
    MeasuredWeights,
    SweepPoint,
    SweepResult,
    TrainingRecord,
)
from deatbench.store import RunFolder, read_record
from deatbench.sweep.points import Planned

MAX_LINE_BYTES = 4 * 2**20


def files_of(folder: RunFolder, evaluation: str, checkpoints: Iterable[str]) -> list[Path]:
    """The files that a result is made from if these weights were kept and measured by this plan."""
    return [folder.training, *(folder.evaluations / f"{name}-{evaluation}.json" for name in checkpoints)]


def is_finished(folder: RunFolder, point: Planned) -> bool:
    """Whether `result_of` would find a result, as far as can be seen from which files there are."""
    try:
        weights = json.loads(folder.training.read_bytes())["weights"]
        return all(path.is_file() for path in files_of(folder, point.evaluation, weights))
    except (OSError, ValueError, TypeError, KeyError):
        return False


def result_of(folder: RunFolder, points: Sequence[Planned]) -> SweepResult | None:
    """What came out of the run that `points` stand for; None until it is finished. Raises what `read_record` does."""
    if not folder.finished:
        return None
    training = read_record(folder.training, TrainingRecord)
    paths = files_of(folder, points[0].evaluation, training.weights)[1:]
    if not all(path.is_file() for path in paths):
        return None
    evaluations = dict(zip(training.weights, (read_record(path, EvaluationRecord) for path in paths), strict=True))
    first = evaluations[training.chosen]
    return SweepResult(
        run_id=training.id,
        digest=training.digest,
        points=tuple(SweepPoint(label=point.label, settings=point.settings) for point in points),
        evaluation=points[0].evaluation,
        config={key: value for key, value in training.config.items() if key != "evaluation"},
        n_params=training.n_params,
        dataset=first.dataset,
        threat=first.threat,
        best_epoch=training.best_epoch,
        chosen=training.chosen,
        weights={name: _measured(evaluations[name]) for name in training.weights},
        epochs=_series(folder.metrics),
        flags=training.flags,
        seconds=training.seconds,
        hardware=training.hardware,
        threads=training.env.threads,
        torch=training.env.torch,
    )


def _measured(record: EvaluationRecord) -> MeasuredWeights:
    return MeasuredWeights(
        metrics=record.metrics,
        samples=record.samples,
        flags=record.flags,
        generalisation=record.generalisation,
        seconds=record.seconds,
    )


def _series(metrics: Path) -> EpochSeries:
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
        epochs = [EpochMetrics.model_validate_json(line) for line in lines]
    except OSError as error:
        raise MissingError(f"cannot read {metrics}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{metrics}: {error.errors()[0]['msg']}") from error
    names = EpochSeries.model_fields
    return EpochSeries.model_validate({name: [_short(getattr(epoch, name)) for epoch in epochs] for name in names})


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def to_line(result: SweepResult) -> str:
    """The result as one line of JSON."""
    return dump_line(result.model_dump(mode="json"))


def dump_line(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file; none where it is not there. Raises ConfigError on one that is too long."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
            yield line.decode("utf-8", errors="replace").rstrip("\n")
