"""Axes: their ends, scales from values to pixels, the light grid behind a figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from deatbench.report.charts.svg import element, extent, joined, number, shortened, text
from deatbench.report.charts.ticks import log_ticks, short, tick_labels, ticks

CLOSEST = 1e-9  # relative; values closer to each other are drawn as one
SMALLEST = 1e-30  # values that all lie closer to zero are drawn as zeros
LARGEST = 1e100  # beyond it differences of two numbers may overflow: such values are not drawn


@dataclass(frozen=True)
class Axis:
    """What a direction of a figure means.

    Args:
        title: the quantity with its unit.
        low, high: ends of the axis; None takes them from the data, rounded outwards.
        log: logarithmic; only positive values can be drawn.
        ticks: values to mark; None chooses round ones.
        names: what stands at `ticks` instead of their values ("8/255").
        percent: values are shares from 0 to 1, written in percent.
        whole: only whole ticks (epochs).
    """

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    ticks: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    percent: bool = False
    whole: bool = False

    @property
    def heading(self) -> str:
        """The title with the unit of the ticks."""
        return f"{self.title}, %" if self.percent and self.names is None else self.title

    def drawable(self, value: float) -> bool:
        """Whether a value has a place in this direction at all."""
        return math.isfinite(value) and abs(value) < LARGEST and (value > 1 / LARGEST or not self.log)

    def over(self, values: Iterable[float]) -> Axis:
        """This axis with both ends set, so that open ends embrace the values."""
        known = sorted(value for value in values if self.drawable(value)) or [1.0 if self.log else 0.0]
        low, high = _log_ends(known) if self.log else _ends(known[0], known[-1], percent=self.percent)
        low, high = self._given(self.low, low), self._given(self.high, high)
        if high - low <= max(CLOSEST * max(abs(low), abs(high)), 1 / LARGEST):
            low, high = (high / 10, high) if self.log else (high - max(1.0, abs(high)), high)
        return dataclasses.replace(self, low=low, high=high)

    def _given(self, end: float | None, otherwise: float) -> float:
        return otherwise if end is None or not self.drawable(end) else end

    def written(self, value: float, digits: int | None = None) -> str:
        """A value as text, in percent where the axis is; `digits` behind the point, None for as many as it needs."""
        value = 100 * value if self.percent else value
        figures = f"{value:.{digits}f}" if digits is not None else short(value)
        return figures.replace("-", "−") + (" %" if self.percent else "")


@dataclass(frozen=True)
class Scale:
    """An axis with both ends set, laid from pixel `start` (its low end) to pixel `end`."""

    axis: Axis
    start: float
    end: float

    @property
    def low(self) -> float:
        assert self.axis.low is not None
        return self.axis.low

    @property
    def high(self) -> float:
        assert self.axis.high is not None
        return self.axis.high

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.axis.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether the value lies between the ends."""
        return self.axis.drawable(value) and self.low <= value <= self.high

    def held(self, value: float) -> float:
        """The pixel of the value or of the nearer end."""
        return self(min(max(value, self.low), self.high))

    def marks(self, count: int) -> list[tuple[float, str]]:
        """Ticks and what is written at them, `count` at most unless the axis gives its own.

        The sign of percent stands in the title, or at the last tick of an axis that has none.
        """
        axis = self.axis
        if axis.ticks is not None:
            names = axis.names or tuple(axis.written(tick).removesuffix(" %") for tick in axis.ticks)
            shown = [pair for pair in zip(axis.ticks, names, strict=True) if self.holds(pair[0])]
        else:
            values = log_ticks(self.low, self.high, count) if axis.log else ticks(self.low, self.high, count)
            values = [value for value in values if not axis.whole or value == int(value)]
            shown = list(zip(values, tick_labels([100 * v if axis.percent else v for v in values]), strict=True))
        if axis.percent and axis.names is None and not axis.title and shown:
            shown[-1] = (shown[-1][0], shown[-1][1] + " %")
        return shown


@dataclass(frozen=True)
class Frame:
    """The field of a figure: two scales and its grid, y title above on the left, x title below on the right."""

    x: Scale
    y: Scale
    x_marks: tuple[tuple[float, str], ...]
    y_marks: tuple[tuple[float, str], ...]

    @classmethod
    def fit(cls, x: Axis, y: Axis, *, width: float, height: float, top: float = 26.0, right: float = 14.0) -> Frame:
        """The frame that leaves room for tick labels and titles inside width × height; both axes have their ends."""
        bottom = height - (42.0 if x.title else 24.0)
        y_scale = Scale(y, bottom, top)
        y_marks = tuple(y_scale.marks(max(3, int((bottom - top) / 32))))
        left = 10.0 + max((extent(name) for _, name in y_marks), default=0.0)
        x_scale = Scale(x, left, width - right)
        names = [extent(name) for _, name in x_scale.marks(8)]
        room, right = max(names, default=0.0) + 18, max(right, names[-1] / 2 if names else 0.0)
        x_scale = Scale(x, left, width - right)
        x_marks = x_scale.marks(max(2, min(8, int((width - right - left) / room))))
        return cls(x_scale, y_scale, tuple(_apart(x_scale, x_marks)), y_marks)

    @property
    def left(self) -> float:
        return self.x.start

    @property
    def right(self) -> float:
        return self.x.end

    @property
    def top(self) -> float:
        return self.y.end

    @property
    def bottom(self) -> float:
        return self.y.start

    def holds(self, x: float, y: float) -> bool:
        return self.x.holds(x) and self.y.holds(y)

    def drawn(self) -> Markup:
        """Grid, tick labels and titles."""
        return joined(self._parts())

    def _parts(self) -> Iterator[Markup]:
        left, right, top, bottom = (number(edge) for edge in (self.left, self.right, self.top, self.bottom))
        across = "".join(f"M{left} {number(self.y(value))}H{right}" for value, _ in self.y_marks)
        along = "".join(f"M{number(self.x(value))} {top}V{bottom}" for value, _ in self.x_marks)
        yield element("path", class_="grid", d=across + along)
        yield element("path", class_="rule", d=f"M{left} {bottom}H{right}")
        for value, name in self.y_marks:
            yield text(self.left - 8, self.y(value) + 4, name, "soft end")
        for value, name in self.x_marks:
            yield text(self.x(value), self.bottom + 17, name, "soft middle")
        if self.y.axis.title:
            yield text(0, 12, shortened(self.y.axis.heading, self.right), "soft")
        if self.x.axis.title:
            yield text(self.right, self.bottom + 36, shortened(self.x.axis.heading, self.right), "soft end")


def _apart(scale: Scale, marks: list[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """The marks whose names do not run into the name before them."""
    edge = -math.inf
    for value, name in marks:
        half = extent(name) / 2
        if scale(value) - half >= edge:
            edge = scale(value) + half + 4
            yield value, name


def _ends(low: float, high: float, *, percent: bool) -> tuple[float, float]:
    """The data's ends, a twentieth further, rounded outwards to half a tick; shares stay between 0 and 1."""
    span, size = high - low, max(abs(low), abs(high))
    if span <= CLOSEST * size or size < SMALLEST:
        span = 0.1 if percent and size <= 1 else size if size > SMALLEST else 1.0
    wide = ticks(low - 0.05 * span, high + 0.05 * span, 6)
    step = (wide[1] - wide[0]) / 2
    ends = math.floor((low - 0.02 * span) / step) * step, math.ceil((high + 0.02 * span) / step) * step
    if low >= 0 > ends[0]:
        ends = 0.0, ends[1]
    return (ends[0], min(ends[1], 1.0)) if percent and high <= 1.0 else ends


def _log_ends(known: list[float]) -> tuple[float, float]:
    margin = max(1.15, (known[-1] / known[0]) ** 0.04)
    return known[0] / margin, known[-1] * margin
