"""A model of the zoo, `zoo:ID`: its weights are checked against its card before they are used."""

from __future__ import annotations

from pathlib import Path

from deatbench.errors import CheckpointError, MissingError
from deatbench.models.loaded import LoadedModel
from deatbench.models.request import ModelRequest
from deatbench.models.runs import training_info
from deatbench.models.weights import load_weights
from deatbench.records import ModelCard
from deatbench.store import read_record, safe_name

PREFIX = "zoo:"


def reading(request: ModelRequest) -> str | None:
    """`zoo:ID`; a bare ID too, unless the run that made the model lies here, which then is the same thing."""
    if request.text.startswith(PREFIX):
        return request.text
    same_run = (request.home.runs / request.text / "training.json").is_file() and not request.path.exists()
    known = any(folder.name == request.text for folder in request.home.zoo_entries())
    return f"{PREFIX}{request.text}" if known and not same_run else None


def load(request: ModelRequest) -> LoadedModel:
    """Raises MissingError if there is no such entry or its weights are nowhere, CheckpointError if they differ."""
    entry = request.home.zoo_entry(safe_name(request.text.removeprefix(PREFIX), "zoo id"))
    card = read_record(entry / "card.json", ModelCard)
    module, spec = load_weights(_weights(card, entry, request), request.device, expect_sha256=card.weights_sha256)
    if spec != card.model:
        raise CheckpointError(f"{entry / 'card.json'} describes another model than its weights do")
    return LoadedModel(
        module=module,
        name=card.id,
        arch=spec.arch,
        params=spec.params,
        source=f"{PREFIX}{card.id}",
        dataset=card.dataset,
        threat=card.threat,
        training=training_info(card.training, card.checkpoint),
        evaluations=entry / "evaluations",
    )


def _weights(card: ModelCard, entry: Path, request: ModelRequest) -> Path:
    """Beside the card where they are kept there, else in the run that made them."""
    beside = [entry / safe_name(card.weights_file, "weights file")] if card.weights_file is not None else []
    for path in (*beside, request.home.run(card.training.id).weights(card.checkpoint)):
        if path.is_file():
            return path
    size = f"{card.weights_bytes / 2**20:.0f} MiB"
    raise MissingError(
        f"the weights of {card.id} ({size}) are not kept in the zoo", f"train it: {card.training.command}"
    )
