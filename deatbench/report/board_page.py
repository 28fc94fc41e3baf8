"""A board as a page and its Markdown twin, and the list of all boards."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from deatbench.records import Metric
from deatbench.report.boards import Board
from deatbench.report.columns import COLUMNS, Cell
from deatbench.report.escape import markdown, plain
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import describe, place
from deatbench.report.protocol import protocol
from deatbench.report.rendering import render
from deatbench.report.rows import Row, Section
from deatbench.report.runs import AUTOATTACK, WORST_CASE, Run
from deatbench.report.wording import count, duration, interval, percent

SECTIONS = {
    Section.RANKED: "Ranked by worst-case accuracy",
    Section.NO_AUTOATTACK: "Not ranked: AutoAttack was not run, so these numbers are upper bounds",
    Section.FLAGGED: "Not ranked: flagged, the numbers may not be what they seem",
}


def board_pages(board: Board, inputs: Inputs) -> dict[str, str]:
    """The pages of one board, by path below leaderboards/."""
    return {f"{board.address}.{kind}": render_board(board, kind) for kind in ("html", "md")}


def index_pages(boards: list[Board], inputs: Inputs) -> dict[str, str]:
    """The list of all boards, by path below leaderboards/."""
    return {f"index.{kind}": render_index(boards, kind) for kind in ("html", "md")}


def render_board(board: Board, kind: str) -> str:
    """The page of one board as `html` or `md`."""
    names = sorted({name for run in board.runs for name in run.metrics}, key=place)
    entries = {section: [_entry(row, names) for row in board.section(section)] for section in Section}
    noted = {index for rows in entries.values() for row in rows for index, cell in enumerate(row.cells) if cell.note}
    return render(
        f"board.{kind}",
        scripts=("page.js",),
        board=board,
        columns=COLUMNS,
        metrics=[describe(name) for name in names],
        sections=[(section.name.lower(), SECTIONS[section], rows) for section, rows in entries.items() if rows],
        noted=[index in noted for index in range(len(COLUMNS))],
        protocol=protocol(board),
        facts=_facts,
        cell_text=_markdown_cell,
    )


def render_index(boards: list[Board], kind: str) -> str:
    """The list of all boards as `html` or `md`."""
    return render(f"index.{kind}", boards=boards, WORST_CASE=WORST_CASE, AUTOATTACK=AUTOATTACK)


class _Entry(NamedTuple):
    """A row as it is shown: its cells, and per run the link to the zoo and (percent, interval, count) per metric."""

    row: Row
    cells: list[Cell]
    runs: list[tuple[Run, str | None, list[tuple[str, str, str] | None]]]


def _entry(row: Row, names: list[str]) -> _Entry:
    runs = [(run, _zoo_link(run), [_detail(run.metrics.get(name)) for name in names]) for run in row.runs]
    return _Entry(row, [column.cell(row) for column in COLUMNS], runs)


def _detail(metric: Metric | None) -> tuple[str, str, str] | None:
    if metric is None:
        return None
    return percent(metric.value), interval(metric.ci95), f"{round(metric.value * metric.n)}/{metric.n}"


def _markdown_cell(cell: Cell) -> str:
    return markdown(f"{cell.text} {cell.note}".strip())


def _facts(row: Row) -> list[str]:
    """How a row's numbers came about, as short phrases."""
    training, phrases = row.training, [f"{count(row.model.n_params)} parameters"]
    if training:
        times = ", ".join(duration(run.training.seconds) for run in row.runs if run.training)
        phrases += [
            f"recipe {plain(training.recipe)} ({plain(training.digest)})",
            f"{training.n_train:,} training and {training.n_val:,} validation images",
            f"batch norm in {training.bn_mode} mode inside the training attack",
            f"trained on {plain(training.hardware)} in {times}",
        ]
    else:
        phrases.append(f"from {plain(row.model.source)}")
    environments = {
        f"evaluated on {plain(record.env.hardware)} ({plain(record.env.device)}, torch {plain(record.env.torch)})"
        for run in row.runs
        for record in run.evaluations
    }
    return [*phrases, *_gaps(row), *sorted(environments)]


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


def _zoo_link(run: Run) -> str | None:
    """Address of the run's card in the zoo, relative to a board's page; None if it has none."""
    if run.card is None:
        return None
    return "/".join(
        ["../..", "model_zoo", *(quote(p) for p in (run.card.dataset, run.card.threat.slug, run.card.id)), "card.json"]
    )
