"""Numbers for people: percent, intervals, times, sizes, and the sign for nothing."""

from __future__ import annotations

from deatbench.records import EvaluationRecord

NOTHING = "–"
NORMS = {"Linf": "L∞", "L2": "L2", "L1": "L1"}


def percent(value: float) -> str:
    """A share as percent with one decimal: `57.1`."""
    return f"{100 * value:.1f}"


def interval(ci95: tuple[float, float]) -> str:
    """Bounds in percent: `52.0–62.1`."""
    return f"{percent(ci95[0])}–{percent(ci95[1])}"


def duration(seconds: float) -> str:
    """A time for people: `42 s`, `12.5 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def count(value: int) -> str:
    """A number of parameters for people: `312`, `27.2 k`, `11.2 M`."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return str(value)


def proved_robust(record: EvaluationRecord) -> str:
    """How many images an evaluation has proved robust against any attack: `28 of 360 proved robust`; or nothing."""
    if record.certificates is None:
        return ""
    n = record.samples.n
    proved = int(record.certificates.proved_N(n).sum())
    return f"{proved:,} of {n:,} images proved robust" if proved else ""
