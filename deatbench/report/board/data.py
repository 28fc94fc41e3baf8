"""A board as one JSON document: every number and text that the page's script puts into its table.

Rows are arrays, one a line, in the order of the board. Texts that repeat stand once in `words` and rows hold their
places (0: nothing). Accuracies are whole millionths, their bounds and spreads tenths of a percent.

    {"columns": …, "sections": …, "words": …, "n": …, "prefix": …,
     "rows":      [[section, [cell, …], [run, …], [fact, …], [[doubt, sentence], …]], …],
     "published": [[section, standing, [cell, …], [fact, …], url], …]}

    standing  millionths that a published row is ordered by, a million less where they are of PGD alone
    accuracy  [value, low, high, n, spread, provisional], cut after the last that says anything
    run       [name, [accuracy, …], seed, epoch, training time, date, tier, model page, [command, …], key to compare by]

A run's accuracies are 0 where they are the row's; so is its name where it is prefix + the row's name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from deatbench.records import PublishedResult
from deatbench.report.board.columns import Accuracy, Column, accuracy_of, to_tenth
from deatbench.report.board.facts import doubts, facts, published_facts
from deatbench.report.comparison.page import MAX_RUNS, run_key
from deatbench.report.escape import plain
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row, Section
from deatbench.report.standings.runs import WORST_CASE, Run
from deatbench.report.wording import NOTHING, duration, percent

SECTIONS = {
    Section.RANKED: "Ranked by worst-case accuracy",
    Section.NO_AUTOATTACK: "Not ranked: AutoAttack was not run, so these numbers are upper bounds",
    Section.FLAGGED: "Not ranked: flagged, the numbers may not be what they seem",
}
_KEY = re.compile(r"[^A-Za-z0-9._-]+")  # not in a column's key: attack names may hold anything
NAME = "\x01"  # stands for the run's name in commands and addresses; no text of ours can hold it
LONGEST_COMMAND = 2000


class _Word:
    """A text that stands in the document's list of words; its place is known when all words are."""

    __slots__ = ("place", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0


class _Words:
    """The words of a document, in alphabetical order, so that they can be sorted by place."""

    def __init__(self) -> None:
        self._known: dict[str, _Word] = {}

    def of(self, text: str, limit: int = 300, name: str | None = None) -> _Word:
        """The word for a text from a record, made one harmless line, in which `NAME` stands for `name`."""
        if name is not None:
            text = plain(text, limit).replace(name, NAME)
        if text not in self._known:
            self._known[text] = _Word(text if name is not None else plain(text, limit))
        return self._known[text]

    def listed(self) -> list[str]:
        """All words behind the sign for nothing; gives each its place."""
        texts = sorted({word.text for word in self._known.values()}, key=lambda text: (text.casefold(), text))
        places = {text: place for place, text in enumerate(texts, start=1)}
        for word in self._known.values():
            word.place = places[word.text]
        return [NOTHING, *texts]


def board_document(board: Board, columns: Sequence[Column]) -> Markup:
    """The document of a board as the text of a script element."""
    encoder = _Encoder(board, columns)
    comparable = _comparable(board)
    rows = [encoder.row(row, comparable=id(row) in comparable) for row in board.rows]
    published = [encoder.published(result) for result in sorted(board.published, key=published_order)]
    head = {
        "columns": [_column(column, rows, published, place) for place, column in enumerate(columns)],
        "sections": list(SECTIONS.values()),
        "words": encoder.words.listed(),
        "n": encoder.n,
        "prefix": encoder.prefix,
        "board": plain(f"{board.dataset} {board.threat.norm} {board.threat.eps_text}"),
    }
    lines = Markup(",\n").join(Markup("{}:{}").format(_json(key), _json(value)) for key, value in head.items())
    return Markup('{{{},\n"rows":[\n{}\n],\n"published":[\n{}\n]}}').format(lines, _lines(rows), _lines(published))


def _lines(rows: Sequence[list[Any]]) -> Markup:
    return Markup(",\n").join(_json(row) for row in rows)


_dumps = partial(
    json.dumps, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=lambda word: word.place
)
_json = partial(htmlsafe_json_dumps, dumps=_dumps)  # what `tojson` does, without its blanks


def usual_n(board: Board) -> int:
    """The number of test images behind most accuracies of the ranking, so that it need not be said in each row."""
    sizes = Counter(found.n for row in board.rows if (found := row.summary(WORST_CASE)))
    return min(sizes, key=lambda n: (-sizes[n], -n), default=0)


def _comparable(board: Board) -> set[int]:
    """Rows whose runs are on the compare page, by identity."""
    found, runs = set(), 0
    for row in board.rows:
        runs += len(row.runs)
        if runs <= MAX_RUNS and len(board.rows) > 1:
            found.add(id(row))
    return found


def _column(column: Column, rows: list[list[Any]], published: list[list[Any]], place: int) -> dict[str, Any]:
    about = {
        "key": _KEY.sub("-", column.key),
        "title": plain(column.title),
        "help": plain(column.help, 1000),
        "better": column.direction,
        "kind": column.kind,
        "under": column.under,
        "usual": column.usual,
        "shown": column.shown,
        "filters": column.filters,
    }
    if column.kind == "amount":
        values = {line[1][place] for line in rows} | {line[2][place] for line in published}
        about["texts"] = {_dumps(value): column.written(value) for value in sorted(values - {None})}
    if column.kind == "accuracy":
        cells = [cell for line in (*(row[1] for row in rows), *(row[2] for row in published)) if (cell := line[place])]
        bounded = [cell for cell in cells if len(cell) > 1]
        about["scale"] = [min(c[1] for c in bounded), max(c[2] for c in bounded)] if bounded else [0, 1000]
    return about


class _Encoder:
    """Rows of one board as arrays; texts that repeat go into its words."""

    def __init__(self, board: Board, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.words = _Words()
        self.n = usual_n(board)
        self.prefix = plain(f"{board.dataset}-")
        self._accuracies = [column.key for column in columns if column.kind == "accuracy"]

    def row(self, row: Row, *, comparable: bool) -> list[Any]:
        of = self.words.of
        return [
            int(row.section),
            [self._cell(column.read(row), column) for column in self.columns],
            [self._run(run, row, comparable=comparable) for run in row.runs],
            [of(fact) for fact in facts(row)],
            [[of(title), of(sentence, 1000)] for title, sentence in doubts(row)],
        ]

    def published(self, result: PublishedResult) -> list[Any]:
        attacked = result.best_known_acc is not None or result.autoattack_acc is not None
        section = Section.FLAGGED if result.unreliable else Section.RANKED if attacked else Section.NO_AUTOATTACK
        behind, value = published_order(result)
        return [
            int(section),
            _millionths(-value) - 1_000_000 * behind,
            [self._cell(column.quote(result), column) for column in self.columns],
            [self.words.of(fact) for fact in published_facts(result)],
            result.url or 0,
        ]

    def _cell(self, value: Any, column: Column) -> Any:
        if value is None:
            return None if column.kind == "amount" else 0
        if isinstance(value, Accuracy):
            return _accuracy(value, self.n)
        if column.kind == "word":
            return self.words.of(str(value))
        if column.kind == "words":
            return [self.words.of(text) for text in value]
        if column.kind == "amount":
            return to_tenth(value)
        return plain(value) if column.kind == "name" else value

    def _run(self, run: Run, row: Row, *, comparable: bool) -> list[Any]:
        name, training, of = plain(run.model.name), run.training, self.words.of
        found = [accuracy_of(run, key) for key in self._accuracies if len(row.runs) > 1]
        return [
            0 if name == self.prefix + plain(row.label) else name,
            [_accuracy(accuracy, self.n) if accuracy else 0 for accuracy in found] or 0,
            training.seed if training else None,
            training.checkpoint_epoch if training else None,
            of(duration(training.seconds)) if training else 0,
            of(run.evaluations[-1].created[:10]),
            of(run.tier.words),
            of(run.page, name=name) if run.page else 0,
            [of(record.command, LONGEST_COMMAND, name) for record in run.evaluations],
            *([run_key(run)] if comparable else []),
        ]


def published_order(result: PublishedResult) -> tuple[bool, float]:
    """Sort key of a published result: by the lowest accuracy known, those under PGD alone behind, as upper bounds."""
    known = [value for value in (result.best_known_acc, result.autoattack_acc) if value is not None]
    return not known, -min(known, default=result.pgd_acc or 0.0)


def _accuracy(value: Accuracy, n: int) -> list[int]:
    cell = [_millionths(value.mean)]
    if value.ci95:
        cell += [_tenths(value.ci95[0]), _tenths(value.ci95[1]), 0 if value.n == n else value.n]
        cell += [-1 if value.spread is None else _tenths(value.spread), int(value.provisional)]
    while len(cell) > 3 and cell[-1] == (-1 if len(cell) == 5 else 0):
        cell.pop()
    return cell


@lru_cache(maxsize=2**16)  # shares of the same images are the same again and again
def _tenths(share: float) -> int:
    """A share as printed, in tenths of a percent."""
    return int(percent(share).replace(".", ""))


def _millionths(share: float) -> int:
    """A share in whole millionths which, rounded half up to tenths of a percent, is what `percent` prints.

    Where binary fractions make `percent` round 36.45 the other way, this is one millionth off.
    """
    exact, tenths = round(1_000_000 * share), _tenths(share)
    return min(max(exact, 1000 * tenths - 500), 1000 * tenths + 499)
