"""Heat maps, tables and correlations of the report over k1 and k2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from deatbench.report.charts import Axis
from deatbench.report.charts.grid import grid
from deatbench.report.sweeps.cells import Cell, Measure
from deatbench.report.sweeps.document import MAX_FIGURES, Data, Entry, Figure, Section, Table, Value, entries, slugs
from deatbench.report.sweeps.inference import Ranks, ranks
from deatbench.report.sweeps.parts import cells_data, deciding
from deatbench.report.sweeps.planes import K1, K2, Plane
from deatbench.report.sweeps.words import coefficient, difference_entry, mean_entry, runs_words, usual_runs
from deatbench.report.wording import percent


def maps_section(planes: Sequence[Plane], measures: Sequence[Measure]) -> Section:
    named = list(zip(planes, slugs([plane.title for plane in planes]), strict=True))[: MAX_FIGURES // 3]
    chosen = deciding(measures)
    kinds = slugs([f"{measure.weights}-{measure.metric}" for measure in chosen])
    figures = []
    for plane, name in named:
        for measure, kind in zip(chosen, kinds, strict=True):
            figures.append(_map(plane, measure, f"mean-{name}-{kind}", _mean, "mean"))
        if any(_deviation(cell, chosen[0]) is not None for cell in plane.cells.values()):
            figures.append(_map(plane, chosen[0], f"spread-{name}", _deviation, "standard deviation over seeds"))
    tables = [_values(plane, measure) for plane in planes for measure in measures]
    text = (
        "Mean over seeds, darker is larger. Framed: the paper's k1 = 1, k2 = 0.8; EMA, k1 = 0, where nothing negative "
        "is left and DEAT is SGD on an average of gradients; SGD, where k2 = 0 too; OGD, k1 = 1 and k2 = 0, which is "
        "optimistic gradient descent; and the cell that validation images choose. "
        f"{runs_words(_usual(planes))}"
    )
    cells = [cell for plane in planes for cell in plane.cells.values()]
    return Section(
        "Accuracy over k1 and k2",
        (text,),
        figures=figures,
        tables=tables,
        data=(cells_data(cells, measures, ("arch", K1, K2)),),
    )


def _usual(planes: Sequence[Plane]) -> int:
    return usual_runs(cell for plane in planes for cell in plane.cells.values())


def _mean(cell: Cell, measure: Measure) -> float | None:
    return cell.mean(measure)


def _deviation(cell: Cell, measure: Measure) -> float | None:
    summary = cell.summary(measure)
    return None if summary is None else summary.spread


def _map(plane: Plane, measure: Measure, name: str, read: Callable[[Cell, Measure], float | None], what: str) -> Figure:
    values = {
        (plane.k1.index(k1), plane.k2.index(k2)): value
        for (k1, k2), cell in plane.cells.items()
        if (value := read(cell, measure)) is not None
    }
    named = {(plane.k1.index(k1), plane.k2.index(k2)): words for (k1, k2), words in plane.called(measure).items()}
    title = f"{plane.title}: {measure.title}, {what}"

    def draw(key: str, width: int) -> Markup:
        said = "; ".join(
            f"k1 = {plane.k1[row]:g}, k2 = {plane.k2[column]:g} ({named[row, column][1]}): "
            f"{percent(values[row, column])} %"
            for row, column in sorted(named)
            if (row, column) in values
        )
        return grid(
            values,
            [f"{k1:g}" for k1 in plane.k1],
            [f"{k2:g}" for k2 in plane.k2],
            Axis(what, percent=True),
            key=key,
            title=title,
            description=said,
            rows_title="k1",
            columns_title="k2",
            named=named,
            width=width,
        )

    return Figure(name, title, draw)


def _values(plane: Plane, measure: Measure) -> Table:
    usual = usual_runs(plane.cells.values())
    rows = [
        (
            Entry(f"{k1:g}"),
            *(
                mean_entry(plane.cells.get((k1, k2)), measure, usual, strong=(k1, k2) == plane.best(measure))
                for k2 in plane.k2
            ),
        )
        for k1 in plane.k1
    ]
    head = ("k1", *(f"k2 = {k2:g}" for k2 in plane.k2))
    return Table(f"{plane.title}: {measure.title} (bold: best by validation)", head, rows, folded=True)


def points_section(planes: Sequence[Plane], measures: Sequence[Measure]) -> Section:
    head = ("Point", "k1", "k2", "Accuracy, %", "Against the paper's, points")
    tables, rows = [], list[tuple[Value, ...]]()
    for plane in planes:
        for measure in measures:
            tested = plane.tests(measure)
            shown = [
                entries(
                    words,
                    f"{k1:g}",
                    f"{k2:g}",
                    mean_entry(plane.cells[k1, k2], measure, usual_runs(plane.cells.values())),
                    difference_entry(tested.get((k1, k2))),
                )
                for (k1, k2), (_, words) in plane.called(measure).items()
            ]
            tables.append(Table(f"{plane.title}: {measure.title}", head, shown))
            rows += [
                (plane.title, *place, *measure, each.value, each.n, each.p_value) for place, each in tested.items()
            ]
    text = (
        "Differences from the paper's k1 = 1, k2 = 0.8 with the paired test on the same test images over all seeds; "
        "bold ones are more than chance by themselves, none is corrected for the number of tests here."
    )
    data = Data("points", ("network", "k1", "k2", "weights", "metric", "difference", "images", "p"), rows)
    return Section("Named points against the paper's", (text,), tables=tables, data=(data,))


def followed_section(planes: Sequence[Plane], measures: Sequence[Measure]) -> Section:
    found = [
        (plane, measure, name, each)
        for plane in planes
        for measure in measures
        for name, each in _ranks(plane, measure).items()
    ]
    rows = [
        entries(plane.title, measure.title, name, str(each.n), coefficient(each.spearman), coefficient(each.kendall))
        for plane, measure, name, each in found
    ]
    data: list[tuple[Value, ...]] = [
        (plane.title, *measure, name, each.n, *each.spearman, *each.kendall) for plane, measure, name, each in found
    ]
    text = (
        "Rank correlations of the cells' means with k1, with k2, and with the length of a step along a gradient that "
        "stays the same, lr / √((1 + k1)² + k1²): a larger k1 also shortens the step, so what looks like the work of "
        "k1 may be that of the step."
    )
    head = ("Network", "Accuracy", "With", "Cells", "Spearman", "Kendall")
    names = ("network", "weights", "metric", "with", "cells", "spearman", "spearman_p", "kendall", "kendall_p")
    return Section(
        "Which of the two matters?",
        (text,),
        tables=[Table("", head, rows, frozenset({0, 1, 2}))],
        data=(Data("ranks", names, data),),
    )


def _ranks(plane: Plane, measure: Measure) -> dict[str, Ranks]:
    known = [
        (k1, k2, cell.step, mean) for (k1, k2), cell in plane.cells.items() if (mean := cell.mean(measure)) is not None
    ]
    means = [mean for *_, mean in known]
    found = {"k1": ranks([k1 for k1, *_ in known], means), "k2": ranks([k2 for _, k2, *_ in known], means)}
    steps = [step for *_, step, _ in known if step is not None]
    return found | ({"step": ranks(steps, means)} if len(steps) == len(known) else {})
