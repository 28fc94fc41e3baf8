"""What is left of accuracy after each attack in order, and what each took; attacks alone below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deatbench.report.charts.axes import Axis, Scale
from deatbench.report.charts.marks import colour
from deatbench.report.charts.svg import WIDE, element, extent, figure, joined, number, shortened, text

ROW, BAR = 24.0, 12.0
LOSS, LEFT_OVER = 58.0, 62.0  # px for the figures at the right


@dataclass(frozen=True)
class Step:
    """Accuracy (0 to 1) once an attack has done its work; the first step of a waterfall is before all attacks."""

    label: str
    accuracy: float
    interval: tuple[float, float] | None = None


def waterfall(
    steps: Sequence[Step],
    alone: Sequence[Step] = (),
    *,
    key: str,
    title: str,
    description: str,
    alone_title: str = "Each attack alone",
    width: int = WIDE,
) -> Markup:
    """A bar per step: full for what is left, pale for what was lost since the step before (alone: since the first).

    `key` makes the ids: unique on a page. `title` and `description` are read to those who cannot see the figure.
    """
    rows = [*steps, *alone]
    names = min(max((extent(step.label) for step in rows), default=0.0), width * 0.34)
    axis = Axis("", 0.0, 1.0, percent=True, ticks=(0.0, 0.25, 0.5, 0.75, 1.0))
    scale = Scale(axis, names + 10, width - LOSS - LEFT_OVER)
    drawing = _Drawing(scale, width)
    body = [*drawing.rows(steps, [None, *steps])]
    if alone:
        drawing.y += 8
        body.append(text(0, drawing.y + 15, alone_title, "soft"))
        drawing.y += ROW
        body += drawing.rows(alone, [steps[0] if steps else None] * len(alone))
    height = drawing.y + 22
    return figure(drawing.ruler(), *body, key=key, title=title, description=description, width=width, height=height)


class _Drawing:
    """Rows one below another."""

    def __init__(self, scale: Scale, width: float) -> None:
        self.scale, self.width, self.y = scale, width, 20.0

    def rows(self, steps: Sequence[Step], before: Sequence[Step | None]) -> list[Markup]:
        """A row per step; `before` is what each is compared with."""
        parts = []
        for step, other in zip(steps, before, strict=False):
            parts.append(element("g", *self._row(step, other)))
            self.y += ROW
        return parts

    def _row(self, step: Step, before: Step | None) -> Iterator[Markup]:
        scale, middle = self.scale, self.y + ROW / 2
        written = scale.axis.written(step.accuracy, 1)
        lost = None if before is None else before.accuracy - step.accuracy
        words = f"{step.label} · {written}"
        if step.interval is not None:
            words += f" ({scale.axis.written(step.interval[0], 1)} to {scale.axis.written(step.interval[1], 1)})"
        yield element("title", words)
        yield text(scale.start - 10, middle + 4, shortened(step.label, scale.start - 10), "end")
        yield self._bar(0.0, step.accuracy, middle, f"bar {colour(0)}")
        if before is not None and lost is not None and lost > 0:
            yield self._bar(step.accuracy, before.accuracy, middle, "lost")
        if step.interval is not None:
            low, high = (number(scale.held(end)) for end in step.interval)
            yield element("path", class_="span", d=f"M{low} {number(middle)}H{high}")
        yield text(self.width - LOSS, middle + 4, written, "end")
        if lost is not None:
            change = f"{-100 * lost:+.1f}".replace("-", "−")
            yield text(self.width, middle + 4, "0.0" if change in ("−0.0", "+0.0") else change, "end soft")

    def _bar(self, low: float, high: float, middle: float, class_: str) -> Markup:
        start, end = self.scale.held(low), self.scale.held(high)
        return element("rect", class_=class_, x=start, y=middle - BAR / 2, width=max(end - start, 0.0), height=BAR)

    def ruler(self) -> Markup:
        """Grid, ticks below, and what the figures at the right are."""
        marks = self.scale.marks(5)
        grid = "".join(f"M{number(self.scale(value))} 18V{number(self.y)}" for value, _ in marks)
        return joined(
            (
                element("path", class_="grid", d=grid),
                *(text(self.scale(value), self.y + 16, name, "soft middle") for value, name in marks),
                text(self.width - LOSS, 12, "accuracy", "soft end"),
                text(self.width, 12, "change", "soft end"),
            )
        )
