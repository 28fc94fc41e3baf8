"""The report of a sweep that asks for none in particular: what each axis does on average, and every point."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from deatbench.report.escape import plain
from deatbench.report.setups import setting
from deatbench.report.sweeps.cells import Cell, Measure, axes_of, cells_of, measures_of
from deatbench.report.sweeps.document import Data, Entry, Report, Section, Table, Value
from deatbench.report.sweeps.parts import cells_data
from deatbench.report.sweeps.reading import Swept
from deatbench.report.sweeps.words import behind, mean_entry, runs_words, usual_runs
from deatbench.report.wording import NOTHING


def axes_report(sweep: Swept) -> Report:
    """A table per axis, then all points."""
    cells, measures = cells_of(sweep.results, by_point=True), measures_of(sweep.results)
    axes = axes_of(cells)
    found = [line for name, values in axes.items() if (line := _moves(name, values, cells, measures[0]))]
    sections = [_axes_section(axes, cells, measures), _all_section(axes, cells, measures)]
    if found and len(cells) < math.prod(len(values) for values in axes.values()):
        found.append("Not every combination of the axes has a result, so part of a move may be another axis's.")
    return Report(findings=tuple(found) or (_no_axis(cells),), sections=tuple(sections[0 if axes else 1 :]))


def _no_axis(cells: Sequence[Cell]) -> str:
    return f"All runs have the same settings: {behind(cells)}."


def _at(cells: Sequence[Cell], name: str, value: Any) -> list[Cell]:
    return [cell for cell in cells if name in cell.settings and json.dumps(cell.settings[name]) == json.dumps(value)]


def _mean(cells: Sequence[Cell], measure: Measure) -> float | None:
    known = [mean for cell in cells if (mean := cell.mean(measure)) is not None]
    return statistics.fmean(known) if known else None


def _moves(name: str, values: Sequence[Any], cells: Sequence[Cell], measure: Measure) -> str:
    """How far the mean moves along an axis."""
    found = [
        (mean, setting(value)) for value in values if (mean := _mean(_at(cells, name, value), measure)) is not None
    ]
    if len(found) < 2:
        return ""
    (low, least), (high, most) = min(found), max(found)
    return (
        f"{plain(name, 60)}: {measure.title} moves by {100 * (high - low):.1f} points on average, from {100 * low:.1f} "
        f"% at {least} to {100 * high:.1f} % at {most}, from {behind(cells)}; no test."
    )


def _axes_section(axes: dict[str, list[Any]], cells: Sequence[Cell], measures: Sequence[Measure]) -> Section:
    tables, rows = [], list[tuple[Value, ...]]()
    for name, values in axes.items():
        shown = []
        for value in values:
            there = _at(cells, name, value)
            means = [_mean(there, measure) for measure in measures]
            runs = sum(cell.seeds for cell in there)
            texts = [NOTHING if mean is None else f"{100 * mean:.1f}" for mean in means]
            shown.append((Entry(setting(value)), *(Entry(text) for text in texts), Entry(f"{runs:,}")))
            rows += [
                (name, setting(value), *measure, mean, runs) for measure, mean in zip(measures, means, strict=True)
            ]
        head = (name, *(measure.title for measure in measures), "Runs")
        tables.append(Table(f"{name}: means over all else", head, shown))
    text = "Accuracy in percent for each value of an axis, averaged over the cells that have it."
    data = Data("axes", ("axis", "value", "weights", "metric", "mean", "runs"), rows)
    return Section("Along each axis", (text,), tables=tables, data=(data,))


def _all_section(axes: dict[str, list[Any]], cells: Sequence[Cell], measures: Sequence[Measure]) -> Section:
    usual = usual_runs(cells)
    rows = [(Entry(cell.label), *(mean_entry(cell, measure, usual) for measure in measures)) for cell in cells]
    table = Table("", ("Point", *(measure.title for measure in measures)), rows)
    text = f"Mean ± standard deviation over seeds, in percent; {runs_words(usual)}"
    return Section("Every point", (text,), tables=[table], data=(cells_data(cells, measures, list(axes)),))
