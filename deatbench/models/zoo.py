"""A model of the zoo, `zoo:ID`: its weights are checked against its card before they are used."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from deatbench.errors import CheckpointError, MissingError
from deatbench.models.loaded import LoadedModel
from deatbench.models.request import ModelRequest
from deatbench.models.runs import training_info
from deatbench.models.weights import load_weights
from deatbench.records import ModelCard
from deatbench.store import Home, read_record, safe_name

PREFIX = "zoo:"


def reading(request: ModelRequest) -> str | None:
    """`zoo:ID`; a bare ID too, unless the run that made the model lies here, which then is the same thing."""
    if request.text.startswith(PREFIX):
        return request.text
    same_run = (request.home.runs / request.text / "training.json").is_file() and not request.path.exists()
    known = any(folder.name == request.text for folder in request.home.zoo_entries())
    return f"{PREFIX}{request.text}" if known and not same_run else None


def load(request: ModelRequest) -> LoadedModel:
    """Raises MissingError if there is no such entry or its weights are nowhere, CheckpointError if they differ.

    The zoo keeps one set of weights of a run: "best" stands for it, and any other name must be its own.
    """
    entry = request.home.zoo_entry(safe_name(request.text.removeprefix(PREFIX), "zoo id"))
    card = read_record(entry / "card.json", ModelCard)
    if request.checkpoint not in ("best", card.checkpoint):
        raise MissingError(f"the zoo keeps the {card.checkpoint} weights of {card.id}, no {request.checkpoint} ones")
    module = network_of(card, entry, request.home, request.device)
    spec = card.model
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


def network_of(card: ModelCard, entry: Path, home: Home, device: torch.device) -> nn.Module:
    """The network of an entry, in eval mode: its weights are those of the card, and of the model that the card names.

    Raises MissingError where they are not kept, CheckpointError where they differ.
    """
    path = weights_of(card, entry, home)
    if path is None:
        size = f"{card.weights_bytes / 2**20:.1f} MiB"
        raise MissingError(
            f"the weights of {card.id} ({size}) are not kept in the zoo", f"train it: {card.training.command}"
        )
    module, spec = load_weights(path, device, expect_sha256=card.weights_sha256)
    if spec != card.model:
        raise CheckpointError(f"{entry / 'card.json'} describes another model than its weights do")
    return module


def weights_of(card: ModelCard, entry: Path, home: Home) -> Path | None:
    """The weight file: beside the card where it is kept there, else in the run that made it; None if in neither."""
    beside = [entry / safe_name(card.weights_file, "weights file")] if card.weights_file is not None else []
    made = home.run(card.training.id).weights(card.checkpoint)
    return next((path for path in (*beside, made) if path.is_file()), None)
