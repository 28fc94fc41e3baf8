"""Who looked again: a record checked without attacking, or its recipe run once more."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from deatbench.records.base import Env, Identifier, Record, Sha256


class CheckResult(Record):
    """One check and what it found. NOT PROVEN: nothing speaks against it, nothing proves it."""

    name: str
    status: Literal["PASS", "FAIL", "MISSING", "NOT PROVEN", "SKIPPED"]
    detail: str


class Verification(Record):
    """What `deatbench verify` found for the evaluation record whose file has this SHA-256."""

    schema_version: Literal[1] = 1
    record: Identifier
    record_sha256: Sha256
    created: str
    checks: tuple[CheckResult, ...] = Field(min_length=1)
    env: Env

    @property
    def proven(self) -> bool:
        """Whether every check passed: each broken verdict has an adversarial image that holds."""
        return all(check.status == "PASS" for check in self.checks)


class Outcome(StrEnum):
    """How a second run compares with the first."""

    MATCH = "match"
    WITHIN_INTERVAL = "within interval"
    MISMATCH = "mismatch"


class RepeatedMetric(Record):
    """One accuracy, as recorded and as it came out again; p of the exact McNemar test on the same images."""

    recorded: float = Field(ge=0, le=1)
    repeated: float = Field(ge=0, le=1)
    p_value: float = Field(ge=0, le=1)


class Reproduction(Record):
    """What `deatbench reproduce` found: the recipe of the record whose file has this SHA-256, run once more.

    `retrained` is false where only the evaluation was repeated, on the weights that the record speaks of.
    """

    schema_version: Literal[1] = 1
    record: Identifier
    record_sha256: Sha256
    created: str
    outcome: Outcome
    metrics: dict[str, RepeatedMetric]
    retrained: bool
    same_weights: bool
    seconds: float = Field(ge=0)
    env: Env
    command: str
