"""How a row's numbers came about and what speaks against them, as short phrases and sentences."""

from __future__ import annotations

from collections.abc import Iterator

from deatbench.records import PublishedResult
from deatbench.report.standings.rows import Row
from deatbench.report.wording import count, percent


def facts(row: Row) -> list[str]:
    """What the row's runs share, and where they were evaluated."""
    training, phrases = row.training, [f"{count(row.model.n_params)} parameters"]
    if training:
        phrases += [
            f"recipe {training.recipe} ({training.digest})",
            f"{training.n_train:,} training and {training.n_val:,} validation images",
            f"batch norm in {training.bn_mode} mode inside the training attack",
            f"trained on {training.hardware}",
        ]
    else:
        phrases.append(f"from {row.model.source}")
    environments = {
        f"evaluated on {record.env.hardware} ({record.env.device}, torch {record.env.torch})"
        for run in row.runs
        for record in run.evaluations
    }
    return [*phrases, *_gaps(row), *sorted(environments)]


def doubts(row: Row) -> Iterator[tuple[str, str]]:
    """Flags of the row and notes of its training: each in words, and its sentence."""
    for flag in row.flags:
        yield flag.code.replace("_", " "), flag.message
    for note in row.notes:
        yield f"in training: {note.code.replace('_', ' ')}", note.message


def published_facts(result: PublishedResult) -> list[str]:
    """Where a published result comes from."""
    phrases = [f"from {result.source}"]
    phrases += [result.venue] if result.venue else []
    if result.pgd_acc is not None:
        phrases.append(f"{percent(result.pgd_acc)} % under {result.pgd_attack or 'PGD'}")
    return [*phrases, "as published: no verdicts per image, so no interval and no test against other rows"]


def _gaps(row: Row) -> list[str]:
    """The robust generalisation gap of each set of weights, the mean over the row's runs."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for run in row.runs:
        for record in run.evaluations:
            if record.generalisation and record.training:
                gap = record.generalisation
                found.setdefault((record.training.checkpoint, gap.attack, gap.n), []).append(gap.robust_gap)
    return [
        f"robust accuracy of the {name} weights on training minus test images: "
        f"{100 * sum(gaps) / len(gaps):+.1f} points ({attack}, {n:,} of each)"
        for (name, attack, n), gaps in sorted(found.items())
    ]
