"""The model that a record speaks of: named by the user, or found where the record lies. Never a stranger's code."""

from __future__ import annotations

from pathlib import Path

import torch

from deatbench.data import Dataset
from deatbench.errors import MissingError
from deatbench.models import LoadedModel, ModelRequest, load_model
from deatbench.records import Checkpoint, EvaluationRecord, ModelCard
from deatbench.store import Home, RunFolder, read_record, safe_name


def evaluated_model(
    record: EvaluationRecord, path: Path, data: Dataset, home: Home, device: torch.device, named: str | None = None
) -> LoadedModel:
    """The model `named` on the command line; else that of the run or zoo entry that the record at `path` lies in.

    A record may come from anybody, so nothing that it says leads to code being run: a factory or a foreign weight
    file must be named. Raises MissingError with what to name, and what loading raises.
    """
    checkpoint: Checkpoint = record.training.checkpoint if record.training else "best"
    text, home = (named, home) if named is not None else _beside(record, path, home)
    spec = data.model_spec(record.model.arch, record.model.params)  # for weight files that do not say it themselves
    return load_model(ModelRequest(text, home, device, checkpoint, spec))


def _beside(record: EvaluationRecord, path: Path, home: Home) -> tuple[str, Home]:
    """MODEL and working folder: the run around the record, that of its name, or the zoo's entry around or of its name.

    The zoo keeps one set of weights of a run.
    """
    around = path.resolve().parents[1] if path.resolve().parent.name == "evaluations" else None
    if record.training is not None:
        run_id = safe_name(record.training.run_id, "run")
        for folder in filter(None, (around, home.run(run_id).path)):
            if folder.name == run_id and RunFolder(folder).finished:
                return str(folder), home
        if around is not None and around.name == run_id and _holds(around, record.training.checkpoint):
            return f"zoo:{run_id}", Home(around.parents[3])
        if any(entry.name == run_id and _holds(entry, record.training.checkpoint) for entry in home.zoo_entries()):
            return f"zoo:{run_id}", home
    raise MissingError(
        f"the model of {record.id} ({record.model.source}) is not found beside its record nor in {home.path}",
        "name it behind the record: RECORD MODEL",
    )


def _holds(entry: Path, checkpoint: Checkpoint) -> bool:
    """Whether a folder is a zoo entry of these weights of its run."""
    card = entry / "card.json"
    return card.is_file() and read_record(card, ModelCard).checkpoint == checkpoint
