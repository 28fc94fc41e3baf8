"""A board as a page and its Markdown twin with two figures, and the list of all boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from deatbench.records import Metric
from deatbench.report.board.charts import Chart, board_charts
from deatbench.report.board.columns import Accuracy, Column, accuracy_of, accuracy_text, band_text, columns_of
from deatbench.report.board.data import SECTIONS, board_document, published_order, usual_n
from deatbench.report.board.facts import doubts
from deatbench.report.board.protocol import protocol
from deatbench.report.charts import CHART_CSS, standalone
from deatbench.report.escape import markdown
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import describe, place
from deatbench.report.rendering import MARK, render
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row, Section
from deatbench.report.standings.runs import AUTOATTACK, CLEAN, WORST_CASE, Run
from deatbench.report.sweeps.page import headline
from deatbench.report.wording import NOTHING, interval, percent

SCRIPTS = ("board_data.js", "board_table.js", "board_rows.js", "board_copy.js", "board.js", "board_dialogs.js")
INDEX_TITLES = (
    "Best row",
    "Method",
    "Rank",
    "Worst case",
    "AutoAttack",
    "Clean",
    "Rows",
    "Weights",
    "Published",
    "Latest",
)
IN_MARKDOWN = ("method", "checkpoint", "params", "time", "tier", "flags")  # beside rank, model and the accuracies shown


def board_pages(board: Board, inputs: Inputs) -> dict[str, str]:
    """The pages of one board, by path below leaderboards/."""
    charts = board_charts(board)
    figures = {f"{board.address}-{chart.key}.svg": f"{MARK}\n{standalone(chart.svg)}" for chart in charts}
    pages = {f"{board.address}.html": render_html(board, charts), f"{board.address}.md": render_markdown(board, charts)}
    return pages | figures


def index_pages(boards: list[Board], inputs: Inputs) -> dict[str, str]:
    """The list of all boards, by path below leaderboards/."""
    found: dict[str, Any] = {
        "lines": [_line(board) for board in boards],
        "titles": INDEX_TITLES,
        "sweeps": [(sweep.name, headline(sweep)) for sweep in inputs.sweeps],
    }
    return {f"index.{kind}": render(f"index.{kind}", styles=("index.css",), **found) for kind in ("html", "md")}


def _line(board: Board) -> tuple[Board, list[tuple[str, str]]]:
    """What the index says of a board, each with what stands small beneath: its best row, its size, its latest day."""
    best = board.best
    said = [(NOTHING, "")] * 6
    if best:
        found = [accuracy_of(best, name) for name in (WORST_CASE, AUTOATTACK, CLEAN)]
        method = best.training.method if best.training else NOTHING
        said = [(best.label, ""), (method, ""), (band_text(best.band or (1, 1)), "")]
        said += [_value(accuracy) if accuracy else (NOTHING, "") for accuracy in found]
    latest = max((record.created for record in board.evaluations), default=NOTHING)[:10]
    sizes = (f"{size:,}" for size in (len(board.rows), board.n_models, len(board.published)))
    return board, [*said, *((size, "") for size in sizes), (latest, "")]


def _value(accuracy: Accuracy) -> tuple[str, str]:
    value = accuracy_text(replace(accuracy, ci95=None))
    return value, interval(accuracy.ci95) if accuracy.ci95 else ""


def render_html(board: Board, charts: Sequence[Chart]) -> str:
    """The page of one board: its document, and the script that makes the table of it."""
    return render(
        "board.html",
        styles=("board.css",),
        scripts=SCRIPTS,
        chart_css=Markup(CHART_CSS),
        board=board,
        n=usual_n(board),
        document=board_document(board, columns_of(board)),
        charts=charts,
        protocol=protocol(board),
    )


def render_markdown(board: Board, charts: Sequence[Chart]) -> str:
    """The page of one board for places that run no script."""
    columns = [
        c for c in columns_of(board) if (c.shown and c.kind in ("band", "name", "accuracy")) or c.key in IN_MARKDOWN
    ]
    names = sorted({name for run in board.runs for name in run.metrics}, key=place)
    sections = {section: board.section(section) for section in Section}
    return render(
        "board.md",
        board=board,
        columns=columns,
        metrics=[describe(name) for name in names],
        sections=[
            (SECTIONS[section], [_cells(row, columns) for row in rows]) for section, rows in sections.items() if rows
        ],
        published=[
            [markdown(c.text(c.quote(result))) for c in columns]
            for result in sorted(board.published, key=published_order)
        ],
        runs=[(run, _zoo_link(run), [_detail(run.metrics.get(n)) for n in names]) for run in board.runs],
        doubts=[(row.label, title, sentence) for row in board.rows for title, sentence in doubts(row)],
        charts=charts,
        protocol=protocol(board),
    )


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    return [markdown(column.text(column.read(row))) for column in columns]


def _detail(metric: Metric | None) -> str:
    if metric is None:
        return NOTHING
    return f"{percent(metric.value)} ({interval(metric.ci95)}; {round(metric.value * metric.n)}/{metric.n})"


def _zoo_link(run: Run) -> str | None:
    """Address of the run's card in the zoo, relative to a board's page; None if it has none."""
    card = run.card
    return f"../../model_zoo/{card.dataset}/{card.threat.slug}/{card.id}/README.md" if card else None
