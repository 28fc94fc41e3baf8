"""What every measurement needs: clocks that wait for the device, the machine in words, a file of results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

import deatbench
from deatbench.engine.environment import environment
from deatbench.store import atomic_write_text

T = TypeVar("T")
RESULTS = Path(__file__).resolve().parent / "results"


def now(device: torch.device) -> float:
    """The wall clock in seconds, read after the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """(seconds, result) of one call."""
    started = now(device)
    result = work()
    return now(device) - started, result


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, threads, versions, revision and date, as they stand above every table."""
    facts = environment(device).model_dump(mode="json")
    return facts | {
        "deatbench": deatbench.__version__,
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def results_file(benchmark: str, device: torch.device) -> Path:
    """A new place under benchmarks/results/."""
    return RESULTS / f"{benchmark}-{device.type}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}.json"


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write `figures` atomically, so that a measurement cut short leaves what it had."""
    atomic_write_text(path, json.dumps(figures, indent=1, allow_nan=False) + "\n")
