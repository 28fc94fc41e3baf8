"""All that the pages follow from, read once from a working folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from deatbench.errors import ConfigError
from deatbench.records import (
    Diagnostics,
    EpochMetrics,
    EvaluationRecord,
    ModelCard,
    PublishedResult,
    Reproduction,
    Verification,
)
from deatbench.report.histories import read_epochs
from deatbench.report.reference import reference_results
from deatbench.report.sweeps.reading import Swept, read_sweeps
from deatbench.store import Home, read_record, second_look, sha256_of

Look = TypeVar("Look", Verification, Reproduction)


@dataclass(frozen=True)
class Inputs:
    """Records, and what belongs to them: by the id of a zoo entry or of an evaluation record.

    `published` was imported into the working folder, `references` come with deatbench.
    """

    evaluations: tuple[EvaluationRecord, ...] = ()
    cards: tuple[ModelCard, ...] = ()
    published: tuple[PublishedResult, ...] = ()
    references: tuple[PublishedResult, ...] = ()
    histories: Mapping[str, tuple[EpochMetrics, ...]] = field(default_factory=dict)
    diagnostics: Mapping[str, Diagnostics] = field(default_factory=dict)
    verifications: Mapping[str, Verification] = field(default_factory=dict)
    reproductions: Mapping[str, Reproduction] = field(default_factory=dict)
    sweeps: tuple[Swept, ...] = ()


def read_inputs(home: Home) -> Inputs:
    """Everything under `home`, in the order of ids. Raises ConfigError or MissingError naming the first bad file.

    A second look counts only while the record's file is the one that it speaks of.
    """
    paths: dict[str, Path] = {}
    evaluations: dict[str, EvaluationRecord] = {}
    for path in home.evaluation_paths():
        record = read_record(path, EvaluationRecord)
        paths[record.id], evaluations[record.id] = path, record
    entries = home.zoo_entries()
    published = _by_id([read_record(path, PublishedResult) for path in sorted(home.published.rglob("*.json"))], home)
    return Inputs(
        evaluations=tuple(evaluations[key] for key in sorted(evaluations)),
        cards=tuple(read_record(entry / "card.json", ModelCard) for entry in entries),
        published=tuple(published[key] for key in sorted(published)),
        references=reference_results(),
        histories={entry.name: read_epochs(path) for entry in entries if (path := entry / "metrics.jsonl").is_file()},
        diagnostics={
            entry.name: read_record(path, Diagnostics)
            for entry in entries
            if (path := entry / "diagnostics.json").is_file()
        },
        verifications=_looks(paths, "verifications", Verification),
        reproductions=_looks(paths, "reproductions", Reproduction),
        sweeps=read_sweeps(home),
    )


def _looks(
    paths: Mapping[str, Path], kind: Literal["verifications", "reproductions"], record: type[Look]
) -> dict[str, Look]:
    found = {}
    for key, path in sorted(paths.items()):
        beside = second_look(path, kind, key)
        if beside.is_file():
            look = read_record(beside, record)
            if (look.record, look.record_sha256) == (key, sha256_of(path)):
                found[key] = look
    return found


def _by_id(results: list[PublishedResult], home: Home) -> dict[str, PublishedResult]:
    """Published results by id. Raises ConfigError if two share one."""
    found: dict[str, PublishedResult] = {}
    for result in results:
        if result.id in found:
            raise ConfigError(f"two results under {home.published} are called {result.id!r}", "remove or rename one")
        found[result.id] = result
    return found
