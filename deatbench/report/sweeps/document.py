"""What a report is made of: sections with sentences, tables and figures, and the data behind them as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from markupsafe import Markup

from deatbench.report.charts import WIDE, fitted, standalone
from deatbench.report.escape import plain
from deatbench.report.rendering import MARK

MAX_ROWS = 200  # of a table on a page; the data has all
MAX_FIGURES = 12  # of a kind
Value = str | float | int | None


@dataclass(frozen=True)
class Data:
    """A CSV file: `name` is what its file is called behind the sweep's name."""

    name: str
    head: tuple[str, ...]
    rows: Sequence[tuple[Value, ...]]

    @property
    def text(self) -> str:
        """RFC 4180, but for LF; numbers to six digits behind the point. No cell is a formula to a spreadsheet."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_text(name) for name in self.head])
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return file.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.6f}".rstrip("0").rstrip(".") if 1e-4 <= abs(value) < 1e15 else f"{value:.6g}"


@lru_cache(maxsize=1 << 14)  # the same names stand in many rows
def _text(value: str) -> str:
    line = plain(value, 500) if value else ""
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line


class Entry(NamedTuple):
    """A cell of a table: its text, what stands small beside it, whether it is set in bold."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below a head; columns in `words` are text, the others numbers. A `folded` one is opened by the reader."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[Entry, ...]]
    words: frozenset[int] = frozenset({0})
    folded: bool = False

    @property
    def shown(self) -> Sequence[tuple[Entry, ...]]:
        """As many rows as a page takes."""
        return self.rows[:MAX_ROWS]

    @property
    def rest(self) -> int:
        """How many rows are in the data alone."""
        return len(self.rows) - len(self.shown)


@dataclass(frozen=True)
class Figure:
    """A drawing: `draw(key, width)`; `name` is what its file is called behind the sweep's name."""

    name: str
    title: str
    draw: Callable[[str, int], Markup]

    @property
    def inline(self) -> Markup:
        """For the page: wide and narrow."""
        return fitted(self.draw, self.name)

    @property
    def svg(self) -> str:
        """For a file."""
        return f"{MARK}\n{standalone(self.draw(self.name, WIDE))}"


@dataclass(frozen=True)
class Section:
    """A heading with sentences, then figures, tables and folded tables; `data` is what they were made from."""

    title: str
    text: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    data: Sequence[Data] = ()


class Claim(NamedTuple):
    """A line of the summary: what is claimed, what the paper says of it, what was measured, and in which runs."""

    claim: str
    paper: str
    here: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A whole page: the claims first, or sentences where nobody claimed anything."""

    claims: tuple[Claim, ...] = ()
    findings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())


def entries(*values: str | Entry) -> tuple[Entry, ...]:
    """A row from texts and entries."""
    return tuple(value if isinstance(value, Entry) else Entry(value) for value in values)


def slugs(titles: Sequence[str]) -> list[str]:
    """A file name's part for each title, each once."""
    made: list[str] = []
    for turn, title in enumerate(titles):
        words = re.sub(r"([^a-z0-9.]|\.(?!\d))+", "-", title.lower()).strip("-")[:60].strip("-") or "all"
        made.append(words if words not in made else f"{words}-{turn}")
    return made
