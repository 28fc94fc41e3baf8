"""The report of the DEAT paper's experiment: its Tables 2 to 4 and Figures 4 and 5, ours beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence

from deatbench.report.deat.claim import Series
from deatbench.report.sweeps.arms import MATCHED, Contest, Panel, panels_of
from deatbench.report.sweeps.cells import Measure, cells_of, measures_of
from deatbench.report.sweeps.claims import claims_of
from deatbench.report.sweeps.contests import contest_section
from deatbench.report.sweeps.curves import rate_section, training_section
from deatbench.report.sweeps.document import Data, Entry, Report, Section, Table, Value, entries
from deatbench.report.sweeps.inference import Correlation, Ranks, ranks
from deatbench.report.sweeps.reading import Swept
from deatbench.report.sweeps.words import coefficient, mean_entry, runs_words, usual_runs
from deatbench.report.wording import NOTHING


def table2_report(sweep: Swept) -> Report:
    """All of it; needs at least one result."""
    cells, measures = cells_of(sweep.results), measures_of(sweep.results)
    panels = panels_of(cells)
    if not panels:
        return Report(findings=("No run has a learning rate and a robust accuracy: nothing can be compared.",))
    return Report(
        claims=claims_of(panels, measures),
        sections=(
            _table_section(panels, measures),
            rate_section(panels, measures[0]),
            training_section(panels),
            _rank_section(panels, measures),
            contest_section(panels, measures),
        ),
    )


def _table_section(panels: Sequence[Panel], measures: Sequence[Measure]) -> Section:
    usual = usual_runs(cell for panel in panels for cell in panel.cells)
    tables = [_table(panel, measures[0], usual, folded=False) for panel in panels]
    tables += [_table(panel, measure, usual, folded=True) for measure in measures[1:] for panel in panels]
    text = f"{measures[0].title}, in percent: mean ± standard deviation over seeds; {runs_words(usual)}"
    if any(_beside(panel) for panel in panels):
        text += (
            " Beside it what the paper reports for its network of the same family: CIFAR-10, full width, 110 epochs, "
            "PGD-10 of the last epoch, means of three runs."
        )
    return Section(
        "Table 2: robust accuracy by learning rate and update",
        (text,),
        tables=tables,
        data=(_table_data(panels, measures),),
    )


def _beside(panel: Panel) -> Series | None:
    """The paper's column, if it has any of the learning rates."""
    return panel.paper if panel.paper and set(panel.paper.rates) & set(panel.rates) else None


def _table(panel: Panel, measure: Measure, usual: int, *, folded: bool) -> Table:
    matched = [each for each in panel.contests if each.how == MATCHED]
    paper = None if folded else _beside(panel)
    head = ["lr", *(arm.name for arm in panel.arms), *(each.name for each in matched)]
    head += [f"{paper.title} in the paper: {name}" for name in ("DEAT", "PGD‑AT")] if paper else []
    rows = []
    for rate in panel.rates:
        row = [Entry(f"{rate:g}"), *(mean_entry(arm.cells.get(rate), measure, usual) for arm in panel.arms)]
        row += [_matched(each, rate, measure, usual) for each in matched]
        for values in (paper.deat, paper.pgd_at) if paper else ():
            row.append(Entry(f"{values[paper.rates.index(rate)]:.2f}" if paper and rate in paper.rates else NOTHING))
        rows.append(tuple(row))
    return Table(f"{panel.title}: {measure.title}", tuple(head), rows, frozenset(), folded)


def _matched(contest: Contest, rate: float, measure: Measure, usual: int) -> Entry:
    """The other update at the step that DEAT has at this rate, with its own rate."""
    if rate not in contest.pairs:
        return Entry(NOTHING)
    other = contest.pairs[rate][1]
    shown = mean_entry(other, measure, usual)
    return shown._replace(note=", ".join(filter(None, (f"lr {other.rate:.2g}", shown.note))))


def _table_data(panels: Sequence[Panel], measures: Sequence[Measure]) -> Data:
    rows: list[tuple[Value, ...]] = []
    for panel in panels:
        for arm in panel.arms:
            for rate, cell in sorted(arm.cells.items()):
                for measure in measures:
                    summary, ends = cell.summary(measure), cell.interval(measure)
                    if summary is not None and ends is not None:
                        rows.append(
                            (
                                panel.title,
                                arm.name,
                                rate,
                                *measure,
                                summary.mean,
                                summary.spread,
                                len(cell.metrics(measure)),
                                *ends,
                            )
                        )
        for name, values in (("DEAT", panel.paper.deat), ("PGD-AT", panel.paper.pgd_at)) if panel.paper else ():
            assert panel.paper is not None
            title = f"paper: {panel.paper.title}"
            rows += [
                (title, name, rate, "last", "pgd-10", value / 100, None, 3, None, None)
                for rate, value in zip(panel.paper.rates, values, strict=True)
            ]
    head = ("network", "update", "lr", "weights", "metric", "mean", "sd", "runs", "ci95_low", "ci95_high")
    return Data("table2", head, list(dict.fromkeys(rows)))


def _rank_section(panels: Sequence[Panel], measures: Sequence[Measure]) -> Section:
    text = (
        "How closely robust accuracy (means over seeds) follows the learning rate: Pearson's r, Spearman's ρ and "
        "Kendall's τ-b, each with its two-sided p, a point per rate. The p of r and ρ are Student's "
        "and mean little for five rates or fewer; that of τ is exact unless values tie. The paper's rows are computed "
        "from its Table 2."
    )
    chosen = [measures[0]] + [measure for measure in measures[1:] if measure.robust and measure.weights == "best"]
    found = [
        (panel, arm.name, measure, ranks(*_columns(arm.series(measure))))
        for measure in chosen
        for panel in panels
        for arm in panel.arms
    ]
    tables = [
        Table(
            measure.title,
            ("Network", "Update", "Rates", "Pearson", "Spearman", "Kendall"),
            [_rank_row(panel.title, name, each) for panel, name, of, each in found if of == measure]
            + (_paper_ranks(panels) if measure == measures[0] else []),
            frozenset({0, 1}),
            measure != measures[0],
        )
        for measure in chosen
    ]
    return Section(
        "Table 3: does accuracy rise with the learning rate?",
        (text,),
        tables=tables,
        data=(_rank_data(found),),
    )


def _rank_data(found: Sequence[tuple[Panel, str, Measure, Ranks]]) -> Data:
    rows: list[tuple[Value, ...]] = [
        (panel.title, name, *measure, each.n, *each.pearson, *each.spearman, *each.kendall)
        for panel, name, measure, each in found
    ]
    tests = [column for name in ("pearson", "spearman", "kendall") for column in (name, f"{name}_p")]
    return Data("table3", ("network", "update", "weights", "metric", "rates", *tests), rows)


def _columns(series: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [rate for rate, _ in series], [value for _, value in series]


def _rank_row(title: str, name: str, found: Ranks) -> tuple[Entry, ...]:
    if found.n < 2:
        return entries(title, name, str(found.n), NOTHING, NOTHING, NOTHING)
    each: tuple[Correlation, ...] = (found.pearson, found.spearman, found.kendall)
    return entries(title, name, str(found.n), *(coefficient(value) for value in each))


def _paper_ranks(panels: Sequence[Panel]) -> list[tuple[Entry, ...]]:
    series = list({panel.paper.arch: panel.paper for panel in panels if panel.paper}.values())
    return [
        _rank_row(f"paper: {each.title}", name, ranks(each.rates, values))
        for each in series
        for name, values in (("DEAT", each.deat), ("PGD-AT", each.pgd_at))
    ]
