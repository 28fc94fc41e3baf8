"""Where names can stand beside their points without covering each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deatbench.report.charts.svg import SIZE, extent

MOST_COVERED = 2  # marks under a name that need not be there
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Label:
    """Words that belong to the point (x, y)."""

    words: str
    x: float
    y: float
    bold: bool = False


@dataclass(frozen=True)
class Place:
    """Where words go: the pen's place on their base line, and the class of their anchor (with a space before it)."""

    x: float
    y: float
    anchor: str
    box: Box


class Placer:
    """Greedy: each label takes the best free place of eight around its point, or none.

    Other labels must not be touched and the frame not be left; marks are better not covered, and more than two only
    by a bold label. Among equal places the one towards `better` is preferred, where a frontier has nothing beyond it.
    """

    def __init__(self, frame: Box, marks: Iterable[tuple[float, float]], better: tuple[int, int] = (1, 1)) -> None:
        left, top, right, bottom = frame
        self.frame: Box = (left, top - SIZE, right + SIZE, bottom)
        self.marks = sorted(marks)
        self.better = better
        self.taken: list[Box] = []

    def place(self, label: Label) -> Place | None:
        """The place with the fewest marks under it, in order of preference among equals."""
        free = [
            each
            for each in _around(label, *self.better)
            if self._inside(each.box) and not any(_meet(each.box, t) for t in self.taken)
        ]
        covered = [self._covered(each.box, label) for each in free]
        if not free or (min(covered) > MOST_COVERED and not label.bold):
            return None
        best = free[covered.index(min(covered))]
        self.taken.append(best.box)
        return best

    def _inside(self, box: Box) -> bool:
        left, top, right, bottom = self.frame
        return box[0] >= left and box[1] >= top and box[2] <= right and box[3] <= bottom

    def _covered(self, box: Box, label: Label) -> int:
        left, top, right, bottom = box
        own = (label.x, label.y)
        first, last = bisect_left(self.marks, (left - 4, 0.0)), bisect_right(self.marks, (right + 4, bottom))
        return sum(top - 4 < y < bottom + 4 and (x, y) != own for x, y in self.marks[first:last])


def _around(label: Label, right: int, up: int) -> Iterator[Place]:
    wide = extent(label.words) * (1.08 if label.bold else 1.0)
    gap = 11.0 if label.bold else 8.0
    corners = ((right, -up), (-right, -up), (right, 0), (-right, 0), (right, up), (-right, up), (0, -up), (0, up))
    for dx, dy in corners:
        x = label.x + dx * (gap if dy == 0 else gap - 2)
        base = label.y + 4 + dy * (10 if dx else 14)
        left = x - wide * (1 - dx) / 2
        anchor = {1: "", -1: " end", 0: " middle"}[dx]
        yield Place(x, base, anchor, (left, base - SIZE + 2, left + wide, base + 3))


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
