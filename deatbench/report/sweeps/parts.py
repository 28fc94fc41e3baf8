"""Cells in parts: those that share everything but some settings, and what is measured first of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deatbench.report.standings.runs import AUTOATTACK
from deatbench.report.sweeps.arms import titles_of
from deatbench.report.sweeps.cells import Cell, Measure, without_seed
from deatbench.report.sweeps.document import Data, Value


@dataclass(frozen=True, eq=False)
class Part:
    """Cells that differ in nothing but what their report is about."""

    title: str
    cells: tuple[Cell, ...]


def parts_of(cells: Iterable[Cell], apart: Collection[str]) -> list[Part]:
    """Cells grouped by their configuration without the keys `apart` (`optimizer.k1`), in order of appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(_without(without_seed(cell.config), apart), sort_keys=True), []).append(cell)
    firsts = [members[0] for members in groups.values()]
    titles = titles_of([Cell({k: v for k, v in c.settings.items() if k not in apart}, c.label, c.runs) for c in firsts])
    return [Part(title, tuple(members)) for title, members in zip(titles, groups.values(), strict=True)]


def _without(config: dict[str, Any], apart: Collection[str]) -> dict[str, Any]:
    kept = dict(config)
    for key in apart:
        head, _, tail = key.partition(".")
        if not tail:
            kept.pop(head, None)
        elif isinstance(kept.get(head), dict):
            kept[head] = _without(kept[head], [tail])
    return kept


def deciding(measures: Sequence[Measure]) -> list[Measure]:
    """As the DEAT paper tests, and AutoAttack, of the best weights where there is a choice."""
    found = [measure for measure in measures if measure.metric == AUTOATTACK]
    strongest = min(found, key=lambda measure: measure.weights != "best", default=measures[0])
    return list(dict.fromkeys([measures[0], strongest]))


def cells_data(cells: Sequence[Cell], measures: Sequence[Measure], keys: Sequence[str]) -> Data:
    """A row per cell and measure."""
    rows: list[tuple[Value, ...]] = []
    for cell in cells:
        place = [_value(cell.value(key)) for key in keys]
        for measure in measures:
            summary, ends = cell.summary(measure), cell.interval(measure)
            if summary is not None and ends is not None:
                runs = len(cell.metrics(measure))
                rows.append((cell.label, *place, *measure, summary.mean, summary.spread, runs, *ends))
    head = ("point", *keys, "weights", "metric", "mean", "sd", "runs", "ci95_low", "ci95_high")
    return Data("cells", head, rows)


def _value(value: Any) -> Value:
    plain = isinstance(value, str | float | int) and not isinstance(value, bool)
    return value if plain else None if value is None else json.dumps(value)
