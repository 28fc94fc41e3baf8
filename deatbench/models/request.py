"""What is asked for when a MODEL argument is resolved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from deatbench.models.loaded import LoadedModel
from deatbench.records import Checkpoint, ModelSpec
from deatbench.store import Home


@dataclass(frozen=True)
class ModelRequest:
    """A MODEL argument and what is needed to make sense of it.

    Args:
        text: as typed.
        home: the working folder, for run ids and the zoo.
        device: where the network goes.
        checkpoint: which weights of a run.
        spec: the architecture of a weight file that does not say it itself (`--arch`); None if not given.
    """

    text: str
    home: Home
    device: torch.device
    checkpoint: Checkpoint = "best"
    spec: ModelSpec | None = None

    @property
    def path(self) -> Path:
        """The argument read as a path."""
        return Path(self.text).expanduser()


class Source(Protocol):
    """A kind of MODEL argument; a module of this package is one."""

    def reading(self, request: ModelRequest) -> str | None:
        """How this source reads the argument, in words that would force this reading; None if it cannot."""
        ...

    def load(self, request: ModelRequest) -> LoadedModel:
        """The network, in eval mode on the request's device."""
        ...
