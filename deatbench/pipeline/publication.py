"""From a finished run to an entry of the model zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.engine.monitor import Monitor
from deatbench.evidence import SUFFIX
from deatbench.models.runs import trained_model
from deatbench.pipeline.diagnosis import diagnose
from deatbench.pipeline.machine import Machine
from deatbench.records import Diagnostics, EvaluationRecord, ModelCard, TrainingRecord
from deatbench.store import Home, RunFolder, atomic_write_bytes, read_record, write_record
from deatbench.threats import make_threat

DIAGNOSTICS = "diagnostics.json"
SMALL_WEIGHTS_BYTES = 4 * 2**20  # weights up to this size go into the zoo beside their card


def add_to_zoo(home: Home, folder: RunFolder, training: TrainingRecord, records: Sequence[EvaluationRecord]) -> Path:
    """Enter the chosen weights of a run into the zoo: card, epochs, evaluations, and the weights when they are small.

    An entry speaks of one set of weights: what it holds of those that the run had before it was trained again leaves.
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
    if folder.metrics.is_file():
        atomic_write_bytes(entry / "metrics.jsonl", folder.metrics.read_bytes())
    _clear_out(entry, {record.model.sha256 for record in records})
    for record in records:
        write_record(entry / "evaluations" / f"{record.id}.json", record)
    write_record(entry / "card.json", card)
    return entry


def _clear_out(entry: Path, kept: set[str]) -> None:
    """Evaluations and diagnostics of other weights than those with the hashes `kept` leave the entry."""
    for path in (entry / "evaluations").glob("*.json"):
        if read_record(path, EvaluationRecord).model.sha256 not in kept:
            path.unlink()
            path.with_suffix(SUFFIX).unlink(missing_ok=True)
    diagnostics = entry / DIAGNOSTICS
    if diagnostics.is_file() and read_record(diagnostics, Diagnostics).model.sha256 not in kept:
        diagnostics.unlink()


def add_diagnostics(entry: Path, folder: RunFolder, data: Dataset, machine: Machine, monitor: Monitor) -> None:
    """Write what the entry's network makes of each image, unless it is there. Raises what `diagnose` does."""
    path = entry / DIAGNOSTICS
    if path.is_file():
        return
    card = read_record(entry / "card.json", ModelCard)
    monitor.note(f"looking at what {card.id} makes of single images")
    model = trained_model(folder, card.checkpoint, machine.device)
    threat = make_threat(card.threat.norm, card.threat.eps_text)
    write_record(path, diagnose(model, data, threat, machine, monitor=monitor))
