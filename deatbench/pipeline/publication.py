"""From a finished run to an entry of the model zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deatbench.config import RunConfig
from deatbench.evidence import SUFFIX
from deatbench.records import EvaluationRecord, ModelCard, TrainingRecord
from deatbench.store import Home, RunFolder, atomic_write_bytes, read_record, write_record
from deatbench.threats import make_threat

SMALL_WEIGHTS_BYTES = 4 * 2**20  # weights up to this size go into the zoo beside their card


def add_to_zoo(home: Home, folder: RunFolder, training: TrainingRecord, records: Sequence[EvaluationRecord]) -> Path:
    """Enter the chosen weights of a run into the zoo: card, evaluations, and the weights when they are small.

    An entry speaks of one set of weights: evaluations of weights that this run had before it was trained again leave.
    """
    config = RunConfig.model_validate(training.config)
    threat = make_threat(config.threat.norm, config.threat.eps).record()
    entry = home.zoo / training.dataset / threat.slug / training.id
    weights = folder.weights(training.chosen).read_bytes()
    small = len(weights) <= SMALL_WEIGHTS_BYTES
    card = ModelCard(
        id=training.id,
        dataset=training.dataset,
        threat=threat,
        model=training.model,
        checkpoint=training.chosen,
        weights_file="model.safetensors" if small else None,
        weights_sha256=training.weights[training.chosen],
        weights_bytes=len(weights),
        training=training,
    )
    if small:
        atomic_write_bytes(entry / "model.safetensors", weights)
    for path in (entry / "evaluations").glob("*.json"):
        if read_record(path, EvaluationRecord).model.sha256 not in {record.model.sha256 for record in records}:
            path.unlink()
            path.with_suffix(SUFFIX).unlink(missing_ok=True)
    for record in records:
        write_record(entry / "evaluations" / f"{record.id}.json", record)
    write_record(entry / "card.json", card)
    return entry
