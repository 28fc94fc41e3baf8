"""Points with their intervals, the Pareto frontier among them, and the names of those that stand on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from deatbench.report.charts.axes import Axis, Frame
from deatbench.report.charts.labels import Label, Placer
from deatbench.report.charts.marks import colour, legend, mark, shape
from deatbench.report.charts.svg import (
    WIDE,
    element,
    figure,
    group,
    identifier,
    joined,
    link,
    number,
    shortened,
    text,
)
from deatbench.report.escape import plain

Better = tuple[Literal["left", "right"], Literal["up", "down"]]
Interval = tuple[float, float]

DENSE = 400  # points; above it marks alone, without intervals, tooltips and links
CROWDED = 100  # points; above it only named ones show their interval
TABBED = 30  # points; above it the Tab key visits named ones alone


@dataclass(frozen=True)
class Point:
    """One mark.

    Args:
        x, y: where; a point with a value that is not finite, or not positive on a logarithmic axis, is left out.
        label: its name. link: an address, relative or http(s); others are not drawn as links.
        group: what gives its shape and colour; groups appear in the legend in order of appearance.
        x_interval, y_interval: low and high end of an interval around the value.
        emphasised: ringed, in bold and always named if there is room.
        eligible: may stand on the frontier; others (flagged, unranked) are drawn hollow.
    """

    x: float
    y: float
    label: str
    link: str | None = None
    group: str = ""
    x_interval: Interval | None = None
    y_interval: Interval | None = None
    emphasised: bool = False
    eligible: bool = True


def frontier(values: Sequence[tuple[float, float]], better: Better = ("right", "up")) -> list[int]:
    """Indices of the points that no other one dominates (at least as good in both, better in one), by ascending x.

    Equal points stand there together.
    """
    across, along = _signs(better)
    order = sorted(range(len(values)), key=lambda i: (-across * values[i][0], -along * values[i][1], i))
    kept: list[int] = []
    for index in order:
        x, y = values[index]
        best = values[kept[-1]] if kept else None
        if best is None or along * y > along * best[1] or (x, y) == best:
            kept.append(index)
    return sorted(kept, key=lambda i: (values[i][0], i))


def scatter(
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    *,
    key: str,
    title: str,
    description: str,
    better: Better = ("right", "up"),
    width: int = WIDE,
    height: int | None = None,
) -> Markup:
    """The points with their frontier as a step line. Axes without ends embrace all points; others cut.

    `key` makes the ids: unique on a page. `title` and `description` are read to those who cannot see the figure.
    """
    height = height or round(width * (0.62 if width >= 480 else 0.9))
    drawable = [point for point in points if x.drawable(point.x) and y.drawable(point.y)]
    xs = [value for point in drawable for value in (point.x, *(point.x_interval or ()))]
    ys = [value for point in drawable for value in (point.y, *(point.y_interval or ()))]
    frame = Frame.fit(x.over(xs), y.over(ys), width=width, height=height)
    shown = [point for point in drawable if frame.holds(point.x, point.y)]
    drawing = _Drawing(shown, frame, better, identifier(key))
    below, more = legend(drawing.entries(len(points) - len(shown)), left=0, top=height + 4, width=width)
    parts = joined((frame.drawn(), *drawing.parts(), below))
    linked = "<a " in parts
    return figure(
        parts, key=key, title=title, description=description, width=width, height=height + more + 4, linked=linked
    )


def _signs(better: Better) -> tuple[int, int]:
    return (1 if better[0] == "right" else -1), (1 if better[1] == "up" else -1)


class _Drawing:
    """The points of one figure in their frame."""

    def __init__(self, points: Sequence[Point], frame: Frame, better: Better, key: str) -> None:
        self.points, self.frame, self.better, self.key = points, frame, better, key
        self.groups = {name: turn for turn, name in enumerate(dict.fromkeys(point.group for point in points))}
        eligible = [point for point in points if point.eligible]
        self.front = [eligible[i] for i in frontier([(p.x, p.y) for p in eligible], better)]
        chosen = {id(point) for point in self.front}
        self.named = [p for p in points if p.emphasised] + [p for p in self.front if not p.emphasised]
        self.others = [p for p in points if id(p) not in chosen and not p.emphasised]

    def parts(self) -> Iterator[Markup]:
        """From back to front: the frontier, other points, named points, names."""
        yield self._steps()
        dense = len(self.points) > DENSE
        if dense:
            yield from self._crowd()
        else:
            tabbed = len(self.points) <= TABBED
            intervals = len(self.points) <= CROWDED
            yield group(self._point(point, intervals=intervals, tabbed=tabbed) for point in self.others)
        labels = self._labels()
        yield group(self._point(p, labels.get(id(p)), intervals=not dense, tabbed=True) for p in self.named)

    def entries(self, outside: int) -> list[tuple[Markup, str]]:
        """The legend: groups, the frontier, what hollow means, how many points are not in sight."""
        entries = [(mark(turn, 0, 0), name) for name, turn in self.groups.items() if name]
        if len(self.front) > 1:
            entries.append((element("path", class_="rule", d="M-10 4H2V-5H10"), "no model is better in both"))
        if not all(point.eligible for point in self.points):
            entries.append((mark(0, 0, 0, "hollow"), "hollow: not ranked"))
        if outside:
            entries.append((Markup(""), f"{outside} not shown: outside the axes or without a value"))
        return entries

    def _steps(self) -> Markup:
        """Along the edge of what is dominated, out to both worse sides."""
        if not self.front:
            return Markup("")
        frame, (across, along) = self.frame, _signs(self.better)
        stairs = self.front if across > 0 else self.front[::-1]
        side = frame.left if across > 0 else frame.right
        floor = frame.bottom if along > 0 else frame.top
        path = f"M{number(side)} {number(frame.y(stairs[0].y))}H{number(frame.x(stairs[0].x))}"
        for point in stairs[1:]:
            path += f"V{number(frame.y(point.y))}H{number(frame.x(point.x))}"
        return element("path", class_="rule frontier", d=f"{path}V{number(floor)}")

    def _crowd(self) -> Iterator[Markup]:
        """All unnamed points of a group as the corners of one invisible path that carries their mark."""
        for name, turn in self.groups.items():
            for eligible, kind in ((True, "mark"), (False, "hollow")):
                places = dict.fromkeys(
                    f"{number(self.frame.x(point.x))} {number(self.frame.y(point.y))}"
                    for point in self.others
                    if point.group == name and point.eligible == eligible
                )
                if not places:
                    continue
                stamp = f"{self.key}-{kind}-{turn}"
                drawn = element(
                    "path", class_=f"{kind} crowd {colour(turn)}", d=f"M0 0{shape(turn)}", transform="scale(.6)"
                )
                yield element("marker", drawn, id=stamp, markerUnits="userSpaceOnUse", overflow="visible")
                address = f"url(#{stamp})"
                yield element(
                    "path",
                    fill="none",
                    d="M" + " ".join(places),
                    marker_start=address,
                    marker_mid=address,
                    marker_end=address if len(places) > 1 else None,
                )

    def _point(self, point: Point, label: Markup | None = None, *, intervals: bool, tabbed: bool) -> Markup:
        x, y, turn = self.frame.x(point.x), self.frame.y(point.y), self.groups[point.group]
        words = self._tooltip(point)
        parts = [element("title", words)]
        if intervals:
            parts.append(self._interval(point, x, y, turn))
        if point.emphasised:
            parts.append(element("circle", class_="ring", cx=x, cy=y, r=8))
        parts += [mark(turn, x, y, "mark" if point.eligible else "hollow"), label or Markup("")]
        address = link(point.link)
        if address is None:
            return element("g", *parts)
        return element("a", *parts, href=address, aria_label=words, tabindex=None if tabbed else "-1")

    def _interval(self, point: Point, x: float, y: float, turn: int) -> Markup:
        frame, path = self.frame, ""
        if point.x_interval is not None and all(map(frame.x.axis.drawable, point.x_interval)):
            low, high = (number(frame.x.held(end)) for end in point.x_interval)
            path += f"M{low} {number(y)}H{high}"
        if point.y_interval is not None and all(map(frame.y.axis.drawable, point.y_interval)):
            low, high = (number(frame.y.held(end)) for end in point.y_interval)
            path += f"M{number(x)} {low}V{high}"
        return element("path", class_=f"thin {colour(turn)}", d=path) if path else Markup("")

    def _tooltip(self, point: Point) -> str:
        words = [plain(point.label)]
        for scale, value, ends in (
            (self.frame.x, point.x, point.x_interval),
            (self.frame.y, point.y, point.y_interval),
        ):
            axis = scale.axis
            span = f" ({axis.written(ends[0])} to {axis.written(ends[1])})" if ends else ""
            words.append(f"{axis.title} {axis.written(value)}{span}")
        return " · ".join(words)

    def _labels(self) -> dict[int, Markup]:
        """Names of the named points, where there is room for them."""
        frame = self.frame
        marks = dict.fromkeys((round(frame.x(p.x), 1), round(frame.y(p.y), 1)) for p in self.points)
        placer = Placer((frame.left, frame.top, frame.right, frame.bottom), marks, _signs(self.better))
        placed: dict[int, Markup] = {}
        for point in self.named:
            words = shortened(point.label, min(200.0, (frame.right - frame.left) * 0.6))
            x, y = round(frame.x(point.x), 1), round(frame.y(point.y), 1)
            label = placer.place(Label(words, x, y, bold=point.emphasised))
            if label is not None:
                weight = " strong" if point.emphasised else ""
                placed[id(point)] = text(label.x, label.y, words, f"halo{weight}{label.anchor}")
        return placed
