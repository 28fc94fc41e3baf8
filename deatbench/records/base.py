"""What all records have in common: frozen, no unknown keys, no NaN; names, hashes, flags, the machine."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}$")]
Checkpoint = Literal["best", "last", "ema", "swa", "shifted"]
Norm = Literal["Linf", "L2", "L1"]
METADATA_KEY = "deatbench"  # under which a weight file carries its ModelSpec


class Record(BaseModel):
    """Base of all records: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Flag(Record):
    """A reason to doubt a number: a code and a plain sentence."""

    code: str
    message: str


class Env(Record):
    """The machine and the versions behind a number. Never a host name or a path."""

    python: str
    torch: str
    device: str
    hardware: str
    threads: int
    git: str | None
    packages: dict[str, str]


def digest_of(value: Any) -> str:
    """SHA-256 (first 12 hex digits) of a JSON-like value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
