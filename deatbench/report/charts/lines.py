"""Lines over one quantity: training curves, accuracy against ε; with bands, marked moments and a shaded gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deatbench.report.charts.axes import Axis, Frame
from deatbench.report.charts.marks import ROW, colour, legend, mark
from deatbench.report.charts.svg import (
    WIDE,
    element,
    extent,
    figure,
    group,
    identifier,
    joined,
    number,
    shortened,
    text,
)

FEW = 12  # points; up to it each has a mark
SPACING = 15.0  # px between labels at line ends


@dataclass(frozen=True)
class Line:
    """A named line.

    Args:
        points: (x, y), in any order of x; those without a finite value are left out.
        band: (x, low, high) of a band around it.
        dashed: drawn dashed, as what is measured on training images.
        group: which colour and mark; None takes the line's turn.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    dashed: bool = False
    group: int | None = None


@dataclass(frozen=True)
class Moment:
    """A value of x worth a vertical line, and why."""

    x: float
    label: str


@dataclass(frozen=True)
class Gap:
    """The area between two lines, by their indices, shaded where both are known."""

    first: int
    second: int
    label: str


def lines(
    series: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    key: str,
    title: str,
    description: str,
    moments: Sequence[Moment] = (),
    gap: Gap | None = None,
    width: int = WIDE,
    height: int | None = None,
) -> Markup:
    """The lines, named at their right ends where there is room and in a legend below elsewhere.

    `key` makes the ids: unique on a page. `title` and `description` are read to those who cannot see the figure.
    """
    height = height or round(width * (0.5 if width >= 480 else 0.9))
    drawing = _Drawing(series, x, y, moments, gap, width=width, height=height, key=identifier(key))
    below, more = legend(drawing.entries(), left=0, top=height + 4, width=width)
    height = round(height + more + (4 if more else 0))
    return figure(*drawing.parts(), below, key=key, title=title, description=description, width=width, height=height)


class _Drawing:
    """The lines of one figure in their frame."""

    def __init__(
        self,
        series: Sequence[Line],
        x: Axis,
        y: Axis,
        moments: Sequence[Moment],
        gap: Gap | None,
        *,
        width: int,
        height: int,
        key: str,
    ) -> None:
        self.series, self.gap, self.key = series, gap, key
        self.paths = [sorted(p for p in line.points if x.drawable(p[0]) and y.drawable(p[1])) for line in series]
        bands = [end for line in series for each in line.band for end in each[1:]]
        x = _tight(x, [point[0] for path in self.paths for point in path])
        y = y.over([*(point[1] for path in self.paths for point in path), *bands])
        longest = max((extent(line.label) for line in series), default=0.0) + 20
        rows = len(moments) * ROW
        self.direct = len(series) > 1 and longest < 0.3 * width and len(series) * SPACING < height - rows - 70
        right = longest if self.direct else 14.0
        self.frame = Frame.fit(x, y, width=width, height=height, top=26.0 + rows, right=right)
        self.moments = sorted((each for each in moments if self.frame.x.holds(each.x)), key=lambda each: each.x)

    def turn(self, index: int) -> int:
        own = self.series[index].group
        return index if own is None else own

    def entries(self) -> list[tuple[Markup, str]]:
        """The legend: lines that are not named at their ends, and the gap."""
        entries = []
        if not self.direct and len(self.series) > 1:
            entries = [(self._swatch(index), line.label) for index, line in enumerate(self.series)]
        if self.gap is not None and self.gap.label:
            entries.append((element("path", class_="gap", d="M-10-6h20v12h-20z"), self.gap.label))
        return entries

    def parts(self) -> Iterator[Markup]:
        """From back to front: grid, gap and bands, moments, lines, names."""
        frame = self.frame
        left, right, top, bottom = (number(edge) for edge in (frame.left, frame.right, frame.top, frame.bottom))
        field = f"M{left} {top}H{right}V{bottom}H{left}z"
        clip = element("clipPath", element("path", d=field), id=f"{self.key}-field")
        yield frame.drawn()
        yield clip
        yield group([*self._areas(), *self._strokes()], clip_path=f"url(#{self.key}-field)")
        yield from self._moments()
        yield from self._dots()
        if self.direct:
            yield from self._names()

    def _at(self, x: float, y: float) -> str:
        return f"{number(self.frame.x(x))} {number(self.frame.y(y))}"

    def _areas(self) -> Iterator[Markup]:
        if self.gap is not None:
            around = _between(self.paths[self.gap.first], self.paths[self.gap.second])
            if around:
                yield element("path", class_="gap", d="M" + "L".join(self._at(*point) for point in around) + "z")
        for index, line in enumerate(self.series):
            drawable = self.frame.x.axis.drawable, self.frame.y.axis.drawable
            band = sorted(each for each in line.band if drawable[0](each[0]) and all(map(drawable[1], each[1:])))
            around = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
            if around:
                path = "M" + "L".join(self._at(*point) for point in around) + "z"
                yield element("path", class_=f"area {colour(self.turn(index))}", d=path)

    def _strokes(self) -> Iterator[Markup]:
        for index, path in enumerate(self.paths):
            if len(path) > 1:
                yield element("path", class_=self._style(index), d="M" + "L".join(self._at(*point) for point in path))

    def _style(self, index: int) -> str:
        return f"line {colour(self.turn(index))}" + (" dashed" if self.series[index].dashed else "")

    def _dots(self) -> Iterator[Markup]:
        """A mark with its value at each point of a short line, at the last one of a long line."""
        frame = self.frame
        for index, path in enumerate(self.paths):
            kind = "hollow" if self.series[index].dashed else "mark"
            for x, y in path if len(path) <= FEW else path[-1:]:
                if frame.holds(x, y):
                    where = f"{frame.x.axis.title} {frame.x.axis.written(x)}"
                    words = f"{self.series[index].label} · {where} · {frame.y.axis.written(y)}"
                    yield element("g", element("title", words), mark(self.turn(index), frame.x(x), frame.y(y), kind))

    def _swatch(self, index: int) -> Markup:
        kind = "hollow" if self.series[index].dashed else "mark"
        return joined((element("path", class_=self._style(index), d="M-10 0H10"), mark(self.turn(index), 0, 0, kind)))

    def _moments(self) -> Iterator[Markup]:
        """Vertical lines, each named above the frame in a row of its own."""
        frame = self.frame
        for row, moment in enumerate(self.moments):
            x, y = frame.x(moment.x), frame.top - 8 - ROW * (len(self.moments) - 1 - row)
            yield element("path", class_="rule dotted", d=f"M{number(x)} {number(y - 8)}V{number(frame.bottom)}")
            after = frame.right - x >= x - frame.left or extent(moment.label) + 5 <= frame.right - x
            words = shortened(moment.label, (frame.right - x if after else x) - 5)
            yield text(x + (5 if after else -5), y, words, "halo" if after else "halo end")

    def _names(self) -> Iterator[Markup]:
        """Names right of the last points, pushed apart, with a thin line back where one had to move far."""
        frame = self.frame
        ends = [(path[-1], index) for index, path in enumerate(self.paths) if path]
        wanted = sorted((frame.y.held(y), frame.x.held(x), index) for (x, y), index in ends)
        places = spread([y for y, _, _ in wanted], SPACING, frame.top, frame.bottom)
        for (y, x, index), place in zip(wanted, places, strict=True):
            if abs(place - y) > 4 or frame.right - x > 8:
                lead = f"M{number(x + 6)} {number(y)}L{number(frame.right + 10)} {number(place)}"
                yield element("path", class_=f"thin {colour(self.turn(index))}", d=lead)
            yield text(frame.right + 12, place + 4, self.series[index].label, "halo")


def spread(wanted: Sequence[float], spacing: float, low: float, high: float) -> list[float]:
    """Ascending places near the wanted ones, at least `spacing` apart, between low and high if they fit there."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + spacing if places else low))
    limit = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - spacing
    return places


def _tight(axis: Axis, values: list[float]) -> Axis:
    """The axis with its open ends at the first and the last value, so that lines reach from side to side."""
    if len(set(values)) < 2:
        return axis.over(values)
    low, high = min(values) if axis.low is None else axis.low, max(values) if axis.high is None else axis.high
    return dataclasses.replace(axis, low=low, high=high).over(values)


def _between(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Around the area between two lines, from the later beginning to the earlier end."""
    if not first or not second:
        return []
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    there = [point for point in first if low <= point[0] <= high]
    back = [point for point in second if low <= point[0] <= high]
    return there + back[::-1] if len(there) > 1 and len(back) > 1 else []
