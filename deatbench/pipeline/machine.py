"""Where the work is done, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from deatbench.store import Home


@dataclass(frozen=True)
class Machine:
    """Where the work is done and what it is told to: device, data folder, working folder, and the command line."""

    home: Home
    device: torch.device
    data_dir: Path | None = None
    command: str = ""


def now() -> str:
    """The time in UTC as it stands in records: 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
