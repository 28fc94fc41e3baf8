"""A confusion matrix: what each class is taken for, as shares of its row in one hue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from deatbench.report.charts.svg import WIDE, element, extent, figure, number, shortened, text

NUMBERED = 20  # classes; above it neither numbers nor names
LEVELS = 12
READABLE = 0.58  # opacity of a share of 1 under numbers: ink stays readable on it, on light and on dark paper


def heatmap(
    counts: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    key: str,
    title: str,
    description: str,
    rows_title: str = "true class",
    columns_title: str = "taken for",
    width: int = WIDE,
) -> Markup:
    """Cell (i, j) shows the share of class i's images that were taken for class j; outlined where i = j.

    Args:
        counts: K × K images, rows are true classes.
        names: the K classes.
        key: makes the ids, unique on a page.
    """
    drawing = _Drawing(counts, names, width, (rows_title, columns_title))
    return figure(
        *drawing.parts(), key=key, title=title, description=description, width=width, height=drawing.bottom + 34
    )


class _Drawing:
    def __init__(
        self, counts: Sequence[Sequence[int]], names: Sequence[str], width: float, titles: tuple[str, str]
    ) -> None:
        self.counts, self.names, self.titles = counts, names, titles
        size = max(len(names), 1)
        self.named = size <= NUMBERED
        self.fullest = READABLE if self.named else 1.0
        longest = min(max((extent(name) for name in names), default=0.0), width * 0.28) if self.named else 24.0
        self.left = longest + 10
        self.cell = min((width - self.left) / size, 46.0 if self.named else 5.4)
        self.upright = self.named and max((extent(name) for name in names), default=0.0) > self.cell - 4
        self.top = 22 + (longest if self.upright else 14.0) + 4
        self.longest = longest
        self.right, self.bottom = self.left + self.cell * size, self.top + self.cell * size

    def shade(self, share: float) -> str:
        """Opacity of a share: by its root, so that one image in a hundred is seen."""
        return f"{self.fullest * share**0.5:.3f}"

    def parts(self) -> Iterator[Markup]:
        yield text(0, 12, f"{self.titles[0]} ↓, {self.titles[1]} →", "soft")
        yield from self._names() if self.named else self._numbers()
        for true, row in enumerate(self.counts):
            yield element("g", *(self._cells(true, row) if self.named else self._stripe(true, row)))
        edges = (
            f"M{number(self.left)} {number(self.top)}H{number(self.right)}V{number(self.bottom)}H{number(self.left)}z"
        )
        yield element("path", class_="grid", d=edges)
        yield self._diagonal()
        yield from self._key()

    def _names(self) -> Iterator[Markup]:
        for index, name in enumerate(self.names):
            middle = (index + 0.5) * self.cell
            words = shortened(name, self.longest)
            yield text(self.left - 8, self.top + middle + 4, words, "end")
            x, y = self.left + middle, self.top - 6
            if self.upright:
                yield text(x + 4, y, words, transform=f"rotate(-90 {number(x + 4)} {number(y)})")
            else:
                yield text(x, y, words, "middle")

    def _numbers(self) -> Iterator[Markup]:
        """Of many classes, only every tenth number."""
        for index in range(0, len(self.names), 10):
            middle = (index + 0.5) * self.cell
            yield text(self.left - 6, self.top + middle + 4, str(index), "soft end")
            yield text(self.left + middle, self.top - 6, str(index), "soft middle")

    def _cells(self, true: int, row: Sequence[int]) -> Iterator[Markup]:
        """A tooltip and, where there is room, a rounded percentage per cell."""
        total, y = sum(row), self.top + true * self.cell
        for taken, count in enumerate(row):
            if not count:
                continue
            share, x = count / total, self.left + taken * self.cell
            words = f"{self.names[true]} taken for {self.names[taken]} · {count} of {total} ({100 * share:.1f} %)"
            parts = [element("title", words), self._square(x, y, share)]
            if self.cell >= 19 and share >= 0.005:
                parts.append(text(x + self.cell / 2, y + self.cell / 2 + 4, f"{100 * share:.0f}", "middle"))
            yield element("g", *parts)

    def _square(self, x: float, y: float, share: float) -> Markup:
        opacity = self.shade(share)
        return element("rect", class_="cell", x=x, y=y, width=self.cell, height=self.cell, fill_opacity=opacity)

    def _stripe(self, true: int, row: Sequence[int]) -> Iterator[Markup]:
        """A row of many small cells: one tooltip for all, cells of about the same share in one path."""
        total, y = sum(row), number(self.top + true * self.cell)
        side = number(self.cell)
        levels: dict[int, str] = {}
        for taken, count in enumerate(row):
            if count:
                level = max(1, round(LEVELS * (count / total) ** 0.5))
                path = f"M{number(self.left + taken * self.cell)} {y}h{side}v{side}h-{side}z"
                levels[level] = levels.get(level, "") + path
        yield element("title", self._summary(true, row, total))
        across = f"M{number(self.left)} {y}H{number(self.right)}v{side}H{number(self.left)}z"
        yield element("path", d=across, fill="none", pointer_events="all")
        for level, path in sorted(levels.items()):
            yield element("path", class_="cell", d=path, fill_opacity=self.shade((level / LEVELS) ** 2))

    def _summary(self, true: int, row: Sequence[int], total: int) -> str:
        often = sorted((-count, taken) for taken, count in enumerate(row) if count)[:4]
        shares = ", ".join(
            f"{shortened(self.names[taken], 150)} {-100 * count / total:.1f} %" for count, taken in often
        )
        return f"{shortened(self.names[true], 200)} taken for: {shares or 'no image'}"

    def _diagonal(self) -> Markup:
        """Around the cells of the right class, or one line along them where they are small."""
        if not self.named:
            x, y, right, bottom = (number(each) for each in (self.left, self.top, self.right, self.bottom))
            return element("path", class_="rule dotted", d=f"M{x} {y}L{right} {bottom}")
        inside = number(self.cell - 1)
        corners = (
            f"M{number(self.left + along)} {number(self.top + along)}h{inside}v{inside}h-{inside}z"
            for along in (turn * self.cell + 0.5 for turn in range(len(self.names)))
        )
        return element("path", class_="right", d="".join(corners))

    def _key(self) -> Iterator[Markup]:
        """What the shades mean."""
        y, step = self.bottom + 8, min(44.0, (self.right - self.left - 120) / 4)
        for turn, share in enumerate((0.01, 0.05, 0.2, 0.5, 1.0)):
            x = self.left + turn * step
            yield element("rect", class_="cell", x=x, y=y, width=12, height=12, fill_opacity=self.shade(share))
            words = f"{100 * share:.0f}" + (" % of the row" if share == 1.0 else "")
            yield text(x + 16, y + 10, words, "soft")
