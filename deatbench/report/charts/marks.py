"""Marks that differ in shape and colour, so that groups are told apart by either; and the legend of a figure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from deatbench.report.charts.style import SERIES
from deatbench.report.charts.svg import element, extent, joined, number, shortened, text

# Around a point that the pen stands on; about equal in area. Seven shapes × six colours: 42 groups before one returns.
SHAPES = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-3.6-3.6h7.2v7.2h-7.2z",
    "m0-5.2l5.2 5.2-5.2 5.2-5.2-5.2z",
    "m0-5l4.8 8.4h-9.6z",
    "m0 5l4.8-8.4h-9.6z",
    "m-1.6-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "m-4.8-2.4h9.6v4.8h-9.6z",
)
ROW = 19.0


def colour(turn: int) -> str:
    """The class of the group's colour."""
    return f"c{turn % SERIES + 1}"


def shape(turn: int) -> str:
    """The outline of the group's mark, for behind `M x y` in a path."""
    return SHAPES[turn % len(SHAPES)]


def mark(turn: int, x: float, y: float, kind: str = "mark") -> Markup:
    """The group's mark at a point; `kind` "hollow" draws its outline alone."""
    return element("path", class_=f"{kind} {colour(turn)}", d=f"M{number(x)} {number(y)}{shape(turn)}")


def legend(entries: Sequence[tuple[Markup, str]], *, left: float, top: float, width: float) -> tuple[Markup, float]:
    """Swatches (drawn around (0, 0), 20 px wide) and their words in rows; and how high they are together."""
    parts: list[Markup] = []
    x, y = left, top
    for swatch, words in entries:
        words = shortened(words, width - 40)
        step = 30 + extent(words) + 14
        if x > left and x + step - 14 > left + width:
            x, y = left, y + ROW
        parts.append(element("g", swatch, transform=f"translate({number(x + 10)} {number(y + 10)})"))
        parts.append(text(x + 26, y + 14, words, "soft"))
        x += step
    return joined(parts), (y + ROW - top if entries else 0.0)
