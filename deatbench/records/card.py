"""A model of the zoo."""

from __future__ import annotations

from typing import Literal

from deatbench.records.base import Checkpoint, Identifier, Record, Sha256
from deatbench.records.network import ModelSpec
from deatbench.records.threat import Threat
from deatbench.records.training import TrainingRecord


class ModelCard(Record):
    """A model of the zoo: how to build it, where its weights are, what they must hash to."""

    schema_version: Literal[1] = 1
    id: Identifier
    dataset: str
    threat: Threat
    model: ModelSpec
    checkpoint: Checkpoint
    weights_file: str | None
    weights_sha256: Sha256
    weights_bytes: int
    training: TrainingRecord
