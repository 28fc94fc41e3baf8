"""Horizontal bars side by side per row: clean and robust accuracy per class, or two to four models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deatbench.report.charts.axes import Axis, Scale
from deatbench.report.charts.marks import colour, legend
from deatbench.report.charts.svg import WIDE, element, extent, figure, joined, number, shortened, text

THICK, COMPACT = 7.0, 4.0  # px of a bar; compact above MANY rows
MANY = 30


@dataclass(frozen=True)
class BarRow:
    """A row: a value per series (None: not measured), and perhaps (low, high) around each."""

    label: str
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...] = ()


def bars(
    rows: Sequence[BarRow],
    names: Sequence[str] = ("clean", "robust"),
    *,
    key: str,
    title: str,
    description: str,
    axis: Axis | None = None,
    width: int = WIDE,
) -> Markup:
    """A row of bars per BarRow, in the given order; the figures of each series stand in a column under its name.

    Args:
        names: the series; `rows[i].values` has one value for each.
        axis: None is a share from 0 to 100 %.
        key: makes the ids, unique on a page.
    """
    values = [value for row in rows for value in row.values if value is not None]
    drawing = _Drawing(rows, names, (axis or Axis("", 0.0, 1.0, percent=True)).over([0.0, *values]), width)
    return figure(
        *drawing.parts(), key=key, title=title, description=description, width=width, height=drawing.bottom + 24
    )


def _swatch(turn: int) -> Markup:
    return element("rect", class_=f"bar {colour(turn)}", x=-4, y=-4, width=8, height=8)


class _Drawing:
    """Rows of bars, and the figures at their right."""

    def __init__(self, rows: Sequence[BarRow], names: Sequence[str], axis: Axis, width: float) -> None:
        self.rows, self.axis, self.width = rows, axis, width
        self.thick = COMPACT if len(rows) > MANY else THICK
        self.row = max(len(names) * (self.thick + 1) + 6, 16.0)
        room = min(max((extent(row.label) for row in rows), default=0.0), width * 0.3)
        self.names = list(names)
        self.headed = sum(extent(name) + 30 for name in names) <= 0.4 * width
        self.columns = [max(extent(name) + 30, 52.0) if self.headed else 38.0 for name in names]
        above, high = legend([(_swatch(turn), name) for turn, name in enumerate(names)], left=0, top=0, width=width)
        self.above, self.top = (Markup(""), 22.0) if self.headed else (above, high + 18.0)
        self.scale = Scale(axis, room + 10, width - sum(self.columns) - 8)
        self.bottom = self.top + len(rows) * self.row

    def parts(self) -> Iterator[Markup]:
        marks = self.scale.marks(max(2, int((self.scale.end - self.scale.start) / 60)))
        top, bottom = number(self.top - 4), number(self.bottom)
        grid = "".join(f"M{number(self.scale(value))} {top}V{bottom}" for value, _ in marks)
        yield element("path", class_="grid", d=grid)
        for value, name in marks:
            yield text(self.scale(value), self.bottom + 16, name, "soft middle")
        yield self.above
        for turn, name in enumerate(self.names):
            head, end = self.top - 10, self._column(turn)
            shift = extent(name) if self.headed else 4.0
            yield element("g", _swatch(turn), transform=f"translate({number(end - shift - 8)} {number(head - 4)})")
            yield text(end, head, name if self.headed else "", "soft end")
        for index, row in enumerate(self.rows):
            yield element("g", *self._row(row, self.top + index * self.row))

    def _column(self, turn: int) -> float:
        """Right edge of a series' figures."""
        return self.width - sum(self.columns[turn + 1 :])

    def _row(self, row: BarRow, top: float) -> Iterator[Markup]:
        middle = top + self.row / 2
        yield text(self.scale.start - 10, middle + 4, shortened(row.label, self.scale.start - 10), "end")
        y = middle - len(row.values) * (self.thick + 1) / 2
        intervals = row.intervals or (None,) * len(row.values)
        for turn, (value, ends) in enumerate(zip(row.values, intervals, strict=True)):
            if value is not None and self.axis.drawable(value):
                digits = 1 if self.axis.percent else None
                figures = self.axis.written(value, digits).removesuffix(" %")
                yield text(self._column(turn), middle + 4, figures, "end")
                yield joined(self._bar(turn, value, ends, y))
            y += self.thick + 1

    def _bar(self, turn: int, value: float, ends: tuple[float, float] | None, y: float) -> Iterator[Markup]:
        scale = self.scale
        zero, end = scale.held(0.0), scale.held(value)
        left, wide = min(zero, end), abs(end - zero)
        yield element("rect", class_=f"bar {colour(turn)}", x=left, y=y, width=wide, height=self.thick)
        if ends is not None and all(map(self.axis.drawable, ends)):
            low, high = (number(scale.held(each)) for each in ends)
            yield element("path", class_="span", d=f"M{low} {number(y + self.thick / 2)}H{high}")
