"""Figures 4 and 5: robust accuracy over the learning rate, and how it came about over the epochs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from deatbench.report.charts import Axis, Gap, Line, lines
from deatbench.report.sweeps.arms import Arm, Panel
from deatbench.report.sweeps.cells import Cell, Measure
from deatbench.report.sweeps.claims import gaps
from deatbench.report.sweeps.document import MAX_FIGURES, Data, Entry, Figure, Section, Table, Value, entries, slugs
from deatbench.report.wording import NOTHING, percent

TRAIN, VALIDATION = "training images", "validation images"
EPOCHS_AT_RATES = 2  # per network: the lowest and the highest rate that all its updates share


def rate_section(panels: Sequence[Panel], measure: Measure) -> Section:
    """Figure 4, a panel per network."""
    names = slugs([panel.title for panel in panels])
    figures = [
        _rate_figure(panel, measure, f"figure4-{name}")
        for panel, name in zip(panels[:MAX_FIGURES], names, strict=False)
    ]
    rows: list[tuple[Value, ...]] = [
        (panel.title, arm.name, rate, mean, *(arm.cells[rate].interval(measure) or (None, None)))
        for panel in panels
        for arm in panel.arms
        for rate, mean in arm.series(measure)
    ]
    text = (
        f"{measure.title}. The line is the mean over seeds, the band its 95 % interval: Student's of the mean where "
        "there are several seeds (what training again would change, on these test images), the images' (Wilson) of "
        "one run."
    )
    more = _more(len(panels) - len(figures))
    return Section(
        "Figure 4: robust accuracy over the learning rate",
        (text, *more),
        figures=figures,
        data=(Data("figure4", ("network", "update", "lr", "mean", "ci95_low", "ci95_high"), rows),),
    )


def _more(rest: int) -> tuple[str, ...]:
    return (f"{rest} more networks are in the data.",) if rest > 0 else ()


def _rate_figure(panel: Panel, measure: Measure, name: str) -> Figure:
    drawn = []
    for turn, arm in enumerate(panel.arms):
        shown = arm.series(measure)
        ends = ((rate, arm.cells[rate].interval(measure)) for rate, _ in shown)
        band = tuple((rate, *pair) for rate, pair in ends if pair is not None)
        drawn.append(Line(arm.name, tuple(shown), band, dashed=not arm.is_deat, group=turn))

    def draw(key: str, width: int) -> Markup:
        said = "; ".join(
            f"{line.label}: {percent(line.points[0][1])} % at {line.points[0][0]:g} to "
            f"{percent(line.points[-1][1])} % at {line.points[-1][0]:g}"
            for line in drawn
            if line.points
        )
        return lines(
            drawn,
            Axis("Learning rate", log=True),
            Axis(measure.title, percent=True),
            key=key,
            title=f"{panel.title}: robust accuracy over the learning rate",
            description=said,
            width=width,
        )

    return Figure(name, panel.title, draw)


def training_section(panels: Sequence[Panel]) -> Section:
    """Figure 5: curves at the lowest and the highest shared rate, and the gap over all rates."""
    places = [(panel, rate) for panel in panels for rate in _chosen(panel)]
    names = slugs([f"{panel.title} lr {rate:g}" for panel, rate in places])
    curves = [
        _epoch_figure(panel, rate, f"figure5-{name}")
        for (panel, rate), name in zip(places[:MAX_FIGURES], names, strict=False)
    ]
    gap_names = slugs([panel.title for panel in panels])
    over = [
        _gap_figure(panel, f"gap-{name}")
        for panel, name in zip(panels[:MAX_FIGURES], gap_names, strict=False)
        if any(gaps(arm) for arm in panel.arms)
    ]
    text = (
        "After each epoch, robust accuracy under the training's own attack on images held out from training (solid) "
        "and on as many training images (dashed), means over seeds, at the lowest and the highest learning rate that "
        "all updates of a network share. Test images are for the end: “gap” is the robust accuracy of the last weights "
        "on training images minus that on as many test images, under the same attack."
    )
    tables = [table for panel in panels if (table := _gap_table(panel)) is not None]
    return Section(
        "Figure 5: training, and the gap that it leaves",
        (text, *_more(len(places) - len(curves))),
        figures=[*curves, *over],
        tables=tables,
        data=(_epoch_data(places), _gap_data(panels)),
    )


def _chosen(panel: Panel) -> list[float]:
    shared = sorted(set.intersection(*(set(arm.cells) for arm in panel.arms))) or panel.rates
    return list(dict.fromkeys((shared[0], shared[-1])))


def _curve(cell: Cell, name: str) -> list[tuple[float, float]]:
    """(epoch, mean over seeds) where every seed has a value."""
    columns = zip(*(getattr(run.epochs, name) for run in cell.runs), strict=False)
    return [(float(turn), statistics.fmean(values)) for turn, values in enumerate(columns, 1) if None not in values]


def _epoch_figure(panel: Panel, rate: float, name: str) -> Figure:
    drawn = []
    for turn, arm in enumerate(arm for arm in panel.arms if rate in arm.cells):
        for label, series, dashed in (
            (arm.name, "val_robust_acc", False),
            (f"{arm.name}, train", "subset_robust_acc", True),
        ):
            shown = _curve(arm.cells[rate], series)
            drawn.append(Line(label, tuple(shown), dashed=dashed, group=turn))
    title = f"{panel.title}, lr {rate:g}"

    def draw(key: str, width: int) -> Markup:
        said = "; ".join(f"{line.label} ends at {percent(line.points[-1][1])} %" for line in drawn if line.points)
        gap = Gap(1, 0, "") if len(drawn) == 2 else None
        return lines(
            drawn,
            Axis("Epoch", whole=True),
            Axis("Robust accuracy", percent=True),
            key=key,
            gap=gap,
            title=f"{title}: robust accuracy over the epochs",
            description=said,
            width=width,
        )

    return Figure(name, title, draw)


def _gap_figure(panel: Panel, name: str) -> Figure:
    drawn = [
        Line(arm.name, tuple(gaps(arm)), dashed=not arm.is_deat, group=turn) for turn, arm in enumerate(panel.arms)
    ]
    title = f"{panel.title}: gap over the learning rate"

    def draw(key: str, width: int) -> Markup:
        said = "; ".join(
            f"{line.label}: {100 * line.points[0][1]:.1f} to {100 * line.points[-1][1]:.1f} points"
            for line in drawn
            if line.points
        )
        return lines(
            drawn,
            Axis("Learning rate", log=True),
            Axis("Train minus test robust accuracy", percent=True),
            key=key,
            title=title,
            description=said,
            width=width,
        )

    return Figure(name, title, draw)


def _gap_table(panel: Panel) -> Table | None:
    rates = sorted({rate for arm in panel.arms for rate, _ in gaps(arm)})
    if not rates:
        return None
    rows = [entries(f"{rate:g}", *(_gap_entry(arm, rate) for arm in panel.arms)) for rate in rates]
    head = ("lr", *(arm.name for arm in panel.arms))
    return Table(
        f"{panel.title}: gap in points, below it robust accuracy in training and test, %",
        head,
        rows,
        frozenset(),
        folded=True,
    )


def _gap_entry(arm: Arm, rate: float) -> Entry:
    found = arm.cells[rate].gap("last") if rate in arm.cells else []
    if not found:
        return Entry(NOTHING)
    train, test = (statistics.fmean(side) for side in zip(*found, strict=True))
    spread = f" ±{100 * statistics.stdev(a - b for a, b in found):.1f}" if len(found) > 1 else ""
    return Entry(f"{100 * (train - test):.1f}{spread}".replace("-", "−"), f"{percent(train)}, {percent(test)}")


def _epoch_data(places: Iterable[tuple[Panel, float]]) -> Data:
    rows: list[tuple[Value, ...]] = []
    for panel, rate in places:
        for arm in (arm for arm in panel.arms if rate in arm.cells):
            for images, series in ((VALIDATION, "val_robust_acc"), (TRAIN, "subset_robust_acc")):
                rows += [
                    (panel.title, arm.name, rate, images, int(epoch), value)
                    for epoch, value in _curve(arm.cells[rate], series)
                ]
    return Data("figure5", ("network", "update", "lr", "images", "epoch", "robust_accuracy"), rows)


def _gap_data(panels: Sequence[Panel]) -> Data:
    rows: list[tuple[Value, ...]] = [
        (panel.title, arm.name, rate, run.run_id, *pair, pair[0] - pair[1])
        for panel in panels
        for arm in panel.arms
        for rate, cell in sorted(arm.cells.items())
        for run in cell.runs
        for pair in Cell(cell.settings, cell.label, (run,)).gap("last")
    ]
    return Data("gap", ("network", "update", "lr", "run", "train", "test", "gap"), rows)
