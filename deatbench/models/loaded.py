"""A network ready to be attacked, and what is known about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from deatbench.records import Threat, TrainingInfo


@dataclass(frozen=True)
class LoadedModel:
    """A network that takes [0, 1] NCHW and returns logits, in eval mode, and where it comes from.

    `source` is how to name it again, without machine paths. `dataset`, `threat` and `training` are None where nobody
    knows; `evaluations` is the folder that its records belong in, None for a model that has no home. `code_sha256` is
    of the source files that it was made by, where these are neither deatbench's nor a library's.
    """

    module: nn.Module
    name: str
    arch: str
    source: str
    params: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    threat: Threat | None = None
    training: TrainingInfo | None = None
    evaluations: Path | None = None
    code_sha256: str | None = None


def identifier(text: str) -> str:
    """`text` with everything but letters, digits and . _ + = - made into dashes, as ids of records need it."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text).strip("-.=+_")[:150] or "model"


def first_line(error: BaseException) -> str:
    """What an exception of foreign code says, in one line; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
