"""The outcome of looking at one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FEW = 0.01  # the share of images that may be too near to tell: more, and the logits hide the verdicts


class Status(StrEnum):
    """How a check ended."""

    PASS = "PASS"
    FAIL = "FAIL"
    MISSING = "MISSING"  # the record names a file that is not here
    UNPROVEN = "NOT PROVEN"  # nothing was stored that could prove it
    SKIPPED = "SKIPPED"  # it makes no sense after an earlier failure


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: of `n` images `wrong` do not hold; of `borderline` others nobody can tell."""

    name: str
    status: Status
    detail: str
    n: int = 0
    wrong: int = 0
    borderline: int = 0

    @classmethod
    def counted(cls, name: str, n: int, wrong: int, what: str, borderline: int = 0) -> Check:
        """Passes if nothing is wrong and but few images are borderline."""
        near = f", {borderline:,} differ but are too near to tell" if borderline else ""
        detail = f"{n - wrong - borderline:,} of {n:,} images {what}{near}"
        holds = not wrong and borderline <= max(1, FEW * n)
        return cls(name, Status.PASS if holds else Status.FAIL, detail, n, wrong, borderline)
