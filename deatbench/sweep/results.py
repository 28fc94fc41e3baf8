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
from deatbench.store import RunFolder, parse_json, read_record
from deatbench.sweep.points import Planned

MAX_LINE_BYTES = 4 * 2**20


def files_of(folder: RunFolder, evaluation: str, checkpoints: Iterable[str]) -> list[Path]:
    """The files that a result is made from if these weights were kept and measured by this plan."""
    return [folder.training, *(folder.evaluations / f"{name}-{evaluation}.json" for name in checkpoints)]


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
    return json.dumps(result.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False)


def read_lines(path: Path) -> Iterator[Any]:
    """The values in a file of one JSON text a line; none where it is not there. Raises ConfigError naming the line."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
            yield parse_json(line.decode("utf-8", errors="replace"), f"{path}: line {number}")
