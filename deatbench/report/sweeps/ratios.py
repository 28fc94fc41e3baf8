"""The report over learning rate α and batch size b: does robust accuracy follow their ratio, as the theory says?"""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from deatbench.report.charts import Axis, Line, lines
from deatbench.report.setups import number
from deatbench.report.standings.significance import LEVEL
from deatbench.report.sweeps.cells import Cell, Measure, cells_of, measures_of
from deatbench.report.sweeps.document import (
    MAX_FIGURES,
    Data,
    Entry,
    Figure,
    Report,
    Section,
    Table,
    Value,
    entries,
    slugs,
)
from deatbench.report.sweeps.effects import Level, Noise, level
from deatbench.report.sweeps.inference import Ranks, ranks
from deatbench.report.sweeps.parts import Part, cells_data, deciding, parts_of
from deatbench.report.sweeps.reading import Swept
from deatbench.report.sweeps.words import behind, coefficient, mean_entry, p_words, runs_words, usual_runs
from deatbench.report.wording import percent

RATE, BATCH = "optimizer.lr", "batch_size"
WITH = ("α/b", "α", "b")
Placed = tuple[float, float, Cell]  # α, b, cell


def ratio_report(sweep: Swept) -> Report:
    """Correlations in words first, then the figures and every point."""
    measures = measures_of(sweep.results)
    parts = [part for part in parts_of(cells_of(sweep.results), (RATE, BATCH)) if placed(part)]
    if not parts:
        return Report(findings=("No run has a learning rate and a batch size.",))
    chosen = deciding(measures)
    findings = [line for part in parts for measure in chosen for line in _findings(part, measure)]
    return Report(
        findings=(*findings, *_same_epochs(sweep)),
        sections=(_figures(parts, measures), _correlations(parts, chosen), _fixed(parts, measures)),
    )


def _same_epochs(sweep: Swept) -> list[str]:
    """What else α/b is where all trainings see as many images: the way that all steps together can go."""
    epochs = {json.dumps(each.config.get("epochs")) for each in sweep.results}
    if len(epochs) != 1:
        return []
    return [
        "All trainings have the same number of epochs, so α times the number of steps follows α/b too: a network that "
        "is still short of trained gets further with a larger α/b, whatever a step's noise does. Runs with the same "
        "number of steps would tell the two apart."
    ]


def placed(part: Part) -> list[Placed]:
    """Cells that have a rate and a batch size, in that order."""
    found = [(cell.rate, number(cell.value(BATCH)), cell) for cell in part.cells]
    known = [(rate, batch, cell) for rate, batch, cell in found if rate is not None and batch is not None and batch > 0]
    return sorted(known, key=lambda each: each[:2])


def found_ranks(part: Part, measure: Measure) -> dict[str, Ranks]:
    """Rank correlations of the cells' means with α/b, α and b."""
    known = [(rate, batch, mean) for rate, batch, cell in placed(part) if (mean := cell.mean(measure)) is not None]
    means = [mean for *_, mean in known]
    columns = ([_ratio(rate, batch) for rate, batch, _ in known], [r for r, *_ in known], [b for _, b, _ in known])
    return {name: ranks(values, means) for name, values in zip(WITH, columns, strict=True)}


def _ratio(rate: float, batch: float) -> float:
    """α/b to ten digits, so that equal ratios are equal."""
    return float(f"{rate / batch:.10g}")


def _findings(part: Part, measure: Measure) -> list[str]:
    where, found = f"{part.title}, {measure.title}", found_ranks(part, measure)
    by_ratio, by_rate = found["α/b"].spearman, found["α"].spearman
    cells = behind([cell for *_, cell in placed(part)])
    if by_ratio.p_value is None or by_rate.p_value is None:
        return [f"{where}: too few points to say whether α/b or α explains accuracy better ({cells})."]
    a, b = round(abs(by_ratio.value), 2), round(abs(by_rate.value), 2)
    said = (
        "α/b explains accuracy better than α alone"
        if a > b
        else "α alone explains accuracy better than α/b"
        if a < b
        else ("α/b and α alone explain accuracy equally well")
    )
    return [
        f"{where}: by rank {said}: |ρ| = {a:.2f} ({p_words(by_ratio.p_value)}) against {b:.2f} "
        f"({p_words(by_rate.p_value)}), from {cells}.",
        *_within(part, measure, where),
    ]


def _within(part: Part, measure: Measure, where: str) -> list[str]:
    """How much accuracy still moves where the ratio is the same, and where α is; is that more than seeds?"""
    noise, points = Noise.of((cell for *_, cell in placed(part)), measure), fixed(part, measure)
    if not points:
        return [f"{where}: no ratio α/b was tried with two batch sizes."]
    moves = [max(means) - min(means) for means in points.values()]
    every = [mean for *_, cell in placed(part) if (mean := cell.mean(measure)) is not None]
    moved = (
        f"{where}: at a fixed α/b, accuracy still moves by up to {100 * max(moves):.1f} points over batch sizes; over "
        f"all points by {100 * (max(every) - min(every)):.1f}"
    )
    if noise is None:
        return [f"{moved}. One run each: seeds may do as much."]
    by_ratio, by_rate = (_left(part, measure, noise, ratio=ratio) for ratio in (True, False))
    return [
        f"{moved}; seeds alone spread it by ±{percent(noise.spread)}. That accuracy depends on α/b alone is "
        f"{_verdict(by_ratio)}; that it depends on α alone is {_verdict(by_rate)} (F-tests of what b does beside it)."
    ]


def _left(part: Part, measure: Measure, noise: Noise, *, ratio: bool) -> float | None:
    """p of the hypothesis that accuracy is a function of α/b, or of α: the test of lack of fit."""
    groups: dict[float, list[Level]] = {}
    for rate, batch, cell in placed(part):
        if (known := level([cell], measure)) is not None:
            groups.setdefault(_ratio(rate, batch) if ratio else rate, []).append(known)
    return noise.p_value(groups.values())


def _verdict(p_value: float | None) -> str:
    if p_value is None:
        return "untested"
    return f"{'ruled out' if p_value < LEVEL else 'not ruled out'} ({p_words(p_value)})"


def fixed(part: Part, measure: Measure) -> dict[float, list[float]]:
    """The means at each ratio that was tried with at least two batch sizes."""
    groups: dict[float, list[float]] = {}
    for rate, batch, cell in placed(part):
        mean = cell.mean(measure)
        if mean is not None:
            groups.setdefault(_ratio(rate, batch), []).append(mean)
    return {ratio: means for ratio, means in sorted(groups.items()) if len(means) > 1}


def _figures(parts: Sequence[Part], measures: Sequence[Measure]) -> Section:
    figures = []
    for part, name in list(zip(parts, slugs([part.title for part in parts]), strict=True))[: MAX_FIGURES // 2]:
        figures += [
            _figure(part, measures[0], f"ratio-{name}", ratio=True),
            _figure(part, measures[0], f"rate-{name}", ratio=False),
        ]
    text = (
        f"{measures[0].title}, mean over seeds with its 95 % interval, a line per batch size: over α/b, then over α. "
        "If the ratio is all that matters, the lines of the first figure lie on each other."
    )
    cells = [cell for part in parts for *_, cell in placed(part)]
    return Section(
        "Accuracy over α/b and over α",
        (text,),
        figures=figures,
        data=(cells_data(cells, measures, ("arch", "method", RATE, BATCH)),),
    )


def _figure(part: Part, measure: Measure, name: str, *, ratio: bool) -> Figure:
    groups: dict[float, list[Placed]] = {}
    for each in placed(part):
        if each[2].mean(measure) is not None:
            groups.setdefault(each[1], []).append(each)
    drawn = []
    for batch, members in sorted(groups.items()):
        shown = [(_ratio(rate, batch) if ratio else rate, cell) for rate, _, cell in members]
        band = tuple((x, *ends) for x, cell in shown if (ends := cell.interval(measure)))
        drawn.append(Line(f"b = {batch:g}", tuple((x, cell.mean(measure) or 0.0) for x, cell in shown), band))
    what = "Learning rate / batch size" if ratio else "Learning rate"

    def draw(key: str, width: int) -> Markup:
        said = "; ".join(f"{line.label}: {len(line.points)} points" for line in drawn)
        return lines(
            drawn,
            Axis(what, log=True),
            Axis(measure.title, percent=True),
            key=key,
            title=f"{part.title}: {measure.title} over {what.lower()}",
            description=said,
            width=width,
        )

    return Figure(name, f"{part.title}: over {'α/b' if ratio else 'α'}", draw)


def _correlations(parts: Sequence[Part], measures: Sequence[Measure]) -> Section:
    found = [(part, measure, found_ranks(part, measure)) for part in parts for measure in measures]
    rows = [
        entries(part.title, measure.title, str(each["α"].n), *(coefficient(each[name].spearman) for name in WITH))
        for part, measure, each in found
    ]
    data: list[tuple[Value, ...]] = [
        (part.title, *measure, name, each[name].n, *each[name].spearman, *each[name].kendall)
        for part, measure, each in found
        for name in WITH
    ]
    head = ("Network", "Accuracy", "Points", *(f"Spearman with {name}" for name in WITH))
    names = ("network", "weights", "metric", "with", "points", "spearman", "spearman_p", "kendall", "kendall_p")
    return Section(
        "Rank correlations",
        ("A point per pair of α and b, means over seeds.",),
        tables=[Table("", head, rows, frozenset({0, 1}))],
        data=(Data("ranks", names, data),),
    )


def _fixed(parts: Sequence[Part], measures: Sequence[Measure]) -> Section:
    usual = usual_runs(cell for part in parts for cell in part.cells)
    tables = [_points(part, measures, usual) for part in parts]
    rows: list[tuple[Value, ...]] = [
        (part.title, *measure, ratio, len(means), min(means), max(means))
        for part in parts
        for measure in measures
        for ratio, means in fixed(part, measure).items()
    ]
    head = ("network", "weights", "metric", "ratio", "batch_sizes", "lowest", "highest")
    return Section(
        "Every point",
        (f"By α/b, so that points of one ratio stand together; {runs_words(usual)}",),
        tables=tables,
        data=(Data("fixed-ratio", head, rows),),
    )


def _points(part: Part, measures: Sequence[Measure], usual: int) -> Table:
    order = sorted(placed(part), key=lambda each: (_ratio(each[0], each[1]), each[1]))
    rows = [
        (
            Entry(f"{_ratio(rate, batch):.3g}"),
            Entry(f"{rate:g}"),
            Entry(f"{batch:g}"),
            *(mean_entry(cell, measure, usual) for measure in measures),
        )
        for rate, batch, cell in order
    ]
    return Table(part.title, ("α/b", "α", "b", *(measure.title for measure in measures)), rows, frozenset())
