"""The two figures of a board: what robustness costs in clean accuracy, and in training time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from deatbench.report.charts import WIDE, Axis, Point, fitted, scatter
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row, Section
from deatbench.report.standings.runs import CLEAN, WORST_CASE
from deatbench.report.wording import NORMS

DRAWN = 150  # rows; of more, the best ranked
FEWEST = 2
SERIES = 6


class Chart(NamedTuple):
    """A figure: what its file is called, its title, one sentence, its drawing alone and for columns of any width."""

    key: str
    title: str
    sentence: str
    svg: Markup
    fitted: Markup


def board_charts(board: Board) -> list[Chart]:
    """Robust against clean accuracy, and against training time; each only where two ranked rows have both."""
    rows = board.section(Section.RANKED)
    timed = [row for row in rows if _seconds(row)]
    charts = []
    if len(rows) >= FEWEST:
        charts.append(_clean(board, rows[:DRAWN], _note(len(rows))))
    if len(timed) >= FEWEST:
        charts.append(_cost(board, timed[:DRAWN], _note(len(timed))))
    return charts


def _note(n: int) -> str:
    return f" The best {DRAWN} of {n:,} ranked rows." if n > DRAWN else ""


def _clean(board: Board, rows: Sequence[Row], note: str) -> Chart:
    of = _grouping(rows)
    points = [_point(row, _mean(row, CLEAN), of(row), _interval(row, CLEAN)) for row in rows]
    sentence = "Each mark is a ranked row with the 95 % intervals of both accuracies." + note
    return _chart(
        board, "clean", "Robust against clean accuracy", sentence, points, Axis("Clean", percent=True), "right"
    )


def _cost(board: Board, rows: Sequence[Row], note: str) -> Chart:
    seconds = [_seconds(row) for row in rows]
    size, unit = (
        (3600, "hours") if max(seconds) >= 2 * 3600 else (60, "minutes") if max(seconds) >= 120 else (1, "seconds")
    )
    points = [
        _point(row, value / size, row.training.hardware if row.training else "")
        for row, value in zip(rows, seconds, strict=True)
    ]
    sentence = "Times compare only on the same hardware." + note
    axis = Axis(f"Training time, {unit}", log=True)
    return _chart(board, "cost", "Robust accuracy against training time", sentence, points, axis, "left")


def _chart(board: Board, key: str, title: str, sentence: str, points: Sequence[Point], x: Axis, better: str) -> Chart:
    threat = f"{board.dataset}, {NORMS[board.threat.norm]} ε = {board.threat.eps_text}"

    def draw(name: str, width: int) -> Markup:
        return scatter(
            points,
            x,
            Axis("Worst case", percent=True),
            key=name,
            title=f"{title}: {threat}",
            description=sentence,
            better=("right" if better == "right" else "left", "up"),
            width=width,
        )

    return Chart(key, title, sentence, draw(key, WIDE), fitted(draw, key))


def _point(row: Row, x: float, group: str, x_interval: tuple[float, float] | None = None) -> Point:
    return Point(
        x,
        _mean(row, WORST_CASE),
        row.label,
        link=next((run.page for run in row.runs if run.page), None),
        group=group,
        x_interval=x_interval,
        y_interval=_interval(row, WORST_CASE),
    )


def _grouping(rows: Sequence[Row]) -> Callable[[Row], str]:
    """By method; by family where there are more methods than colours; not at all where there are more of both."""
    by: tuple[Callable[[Row], str], ...] = (
        lambda row: row.training.method if row.training else "other",
        lambda row: row.family,
    )
    return next((of for of in by if len({of(row) for row in rows}) <= SERIES), lambda row: "")


def _mean(row: Row, name: str) -> float:
    summary = row.summary(name)
    return summary.mean if summary else 0.0


def _interval(row: Row, name: str) -> tuple[float, float] | None:
    summary = row.summary(name)
    return summary.ci95 if summary else None


def _seconds(row: Row) -> float:
    seconds = [run.training.seconds for run in row.runs if run.training]
    return sum(seconds) / len(seconds) if seconds else 0.0
