"""A grid of values over two quantities, each in its cell, darker where larger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from deatbench.report.charts.axes import Axis
from deatbench.report.charts.heatmap import READABLE
from deatbench.report.charts.svg import WIDE, element, extent, figure, number, shortened, text

LEAST, HIGH, WIDEST = 0.04, 40.0, 92.0  # opacity of the smallest value; px of a cell


def grid(
    values: Mapping[tuple[int, int], float],
    rows: Sequence[str],
    columns: Sequence[str],
    axis: Axis,
    *,
    key: str,
    title: str,
    description: str,
    rows_title: str,
    columns_title: str,
    named: Mapping[tuple[int, int], tuple[str, str]] | None = None,
    digits: int = 1,
    width: int = WIDE,
) -> Markup:
    """Cell (row, column) shows its value; a cell without one stays empty.

    Args:
        axis: what the values are; only its title and whether they are shares matter.
        named: cells with a frame: a word below the value, and what it means (in the tooltip).
        key: makes the ids, unique on a page.
    """
    drawn = {place: value for place, value in values.items() if axis.drawable(value)}
    drawing = _Drawing(drawn, rows, columns, axis, (rows_title, columns_title), named or {}, digits, width)
    height = drawing.bottom + 30
    return figure(*drawing.parts(), key=key, title=title, description=description, width=width, height=height)


class _Drawing:
    def __init__(
        self,
        values: Mapping[tuple[int, int], float],
        rows: Sequence[str],
        columns: Sequence[str],
        axis: Axis,
        titles: tuple[str, str],
        named: Mapping[tuple[int, int], tuple[str, str]],
        digits: int,
        width: float,
    ) -> None:
        self.values, self.rows, self.columns, self.axis = values, rows, columns, axis
        self.titles, self.named, self.digits = titles, named, digits
        self.low, self.high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        self.left = min(max((extent(name) for name in rows), default=0.0), width * 0.3) + 10
        self.cell = min(WIDEST, (width - self.left) / max(1, len(columns)))
        self.top = 40.0
        self.bottom = self.top + HIGH * len(rows)

    def shade(self, value: float) -> str:
        """Opacity of a value, in step with it; all equal values are pale."""
        span = self.high - self.low
        return f"{LEAST + (READABLE - LEAST) * ((value - self.low) / span if span > 0 else 0.0):.3f}"

    def parts(self) -> Iterator[Markup]:
        yield text(0, 12, f"{self.titles[0]} ↓, {self.titles[1]} →", "soft")
        for column, name in enumerate(self.columns):
            x = self.left + (column + 0.5) * self.cell
            yield text(x, self.top - 8, shortened(name, self.cell - 2), "soft middle")
        for row, name in enumerate(self.rows):
            y = self.top + (row + 0.5) * HIGH
            yield text(self.left - 8, y + 4, shortened(name, self.left - 10), "soft end")
        for (row, column), value in sorted(self.values.items()):
            yield element("g", *self._cell(row, column, value))
        yield from self._frames()
        yield from self._key()

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        return self.left + column * self.cell, self.top + row * HIGH

    def _cell(self, row: int, column: int, value: float) -> Iterator[Markup]:
        x, y = self._corner(row, column)
        words = f"{self.titles[0]} {self.rows[row]} · {self.titles[1]} {self.columns[column]}"
        words += f" · {self.axis.title} {self.axis.written(value, self.digits)}"
        tag, meaning = self.named.get((row, column), ("", ""))
        words += f" · {meaning}" if meaning else ""
        yield element("title", words)
        yield element("rect", class_="cell", x=x, y=y, width=self.cell, height=HIGH, fill_opacity=self.shade(value))
        figures = self.axis.written(value, self.digits).removesuffix(" %")
        below = bool(tag) and extent(tag) <= self.cell
        if extent(figures) <= self.cell:
            yield text(x + self.cell / 2, y + HIGH / 2 + (-4 if below else 4), figures, "middle")
        if below:
            yield text(x + self.cell / 2, y + HIGH / 2 + 12, tag, "middle")

    def _frames(self) -> Iterator[Markup]:
        for row, column in sorted(self.named):
            x, y = self._corner(row, column)
            wide, high = number(self.cell - 2), number(HIGH - 2)
            yield element("path", class_="right", d=f"M{number(x + 1)} {number(y + 1)}h{wide}v{high}h-{wide}z")

    def _key(self) -> Iterator[Markup]:
        """What the palest and the darkest cell stand for."""
        if not self.values:
            return
        x, y = self.left, self.bottom + 10
        for value in dict.fromkeys((self.low, self.high)):
            yield element("rect", class_="cell", x=x, y=y, width=12, height=12, fill_opacity=self.shade(value))
            words = self.axis.written(value, self.digits)
            yield text(x + 16, y + 10, words, "soft")
            x += 16 + extent(words) + 16
        yield text(x, y + 10, shortened(self.axis.title, self.left + self.cell * len(self.columns) + 60 - x), "soft")
