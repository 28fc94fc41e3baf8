"""What a change of records does to the boards: rows that come, go, or stand elsewhere, number by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from deatbench.records import PublishedResult
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import place
from deatbench.report.standings.boards import Board, boards_of
from deatbench.report.standings.rows import Row, Section, Summary

Kind = Literal["new", "gone", "changed"]
Aspect = Literal["metric", "place", "verification", "seeds", "flag", "note"]
Facts = dict[tuple[Aspect, str], Summary | str]
_SECTIONS = {
    Section.RANKED: "ranked",
    Section.NO_AUTOATTACK: "not ranked, no AutoAttack",
    Section.FLAGGED: "not ranked, flagged",
}


@dataclass(frozen=True)
class Change:
    """One thing about a row, before and after; None where there was nothing. Metrics, flags and notes have a name."""

    what: Aspect
    name: str
    before: Summary | str | None
    after: Summary | str | None


@dataclass(frozen=True)
class RowChange:
    """A row that is new, gone or changed."""

    row: str
    kind: Kind
    changes: tuple[Change, ...]

    @property
    def moved_only(self) -> bool:
        """Whether others made it stand elsewhere, and nothing about it has changed."""
        return self.kind == "changed" and all(change.what == "place" for change in self.changes)


@dataclass(frozen=True)
class Names:
    """Names of things that came, went, or are no longer the same, each list sorted."""

    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @classmethod
    def between(cls, old: Mapping[str, Any], new: Mapping[str, Any]) -> Names:
        """What happened on the way from `old` to `new`."""
        return cls(
            tuple(sorted(new.keys() - old.keys())),
            tuple(sorted(old.keys() - new.keys())),
            tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
        )

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.changed)


@dataclass(frozen=True)
class BoardChange:
    """A board on which something is different: its measured rows, and what others published."""

    dataset: str
    norm: str
    eps: str
    kind: Kind
    rows: tuple[RowChange, ...]
    published: Names


@dataclass(frozen=True)
class Difference:
    """What is different. `records` are by kind: a record may change without moving a board."""

    boards: tuple[BoardChange, ...]
    records: Mapping[str, Names]

    def __bool__(self) -> bool:
        return bool(self.boards or any(self.records.values()))


def difference(old: Inputs, new: Inputs) -> Difference:
    """What differs between the boards, and between the records, of two working folders."""
    before, after = ({_key(board): board for board in boards_of(inputs)} for inputs in (old, new))
    changes = (_board_change(before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys()))
    records = {
        field.name: Names.between(_by_id(getattr(old, field.name)), _by_id(getattr(new, field.name)))
        for field in fields(Inputs)
    }
    return Difference(tuple(change for change in changes if change), records)


def _by_id(records: Any) -> Mapping[str, Any]:
    return records if isinstance(records, Mapping) else {record.id: record for record in records}


def _key(board: Board) -> tuple[str, str, float, str]:
    return board.dataset, board.threat.norm, board.threat.eps, board.threat.eps_text


def _board_change(old: Board | None, new: Board | None) -> BoardChange | None:
    board = new or old
    assert board is not None
    rows = tuple(_row_changes(old.rows if old else [], new.rows if new else []))
    published = Names.between(*(_published(one.published if one else ()) for one in (old, new)))
    if old and new and not rows and not published:
        return None
    kind: Kind = "changed" if old and new else "new" if new else "gone"
    return BoardChange(board.dataset, board.threat.norm, board.threat.eps_text, kind, rows, published)


def _published(results: Sequence[PublishedResult]) -> dict[str, PublishedResult]:
    return {result.id: result for result in results}


def _row_changes(old: list[Row], new: list[Row]) -> Iterator[RowChange]:
    """New and changed rows in the order of the new board, then those that are gone."""
    holds = {weights: place for place, row in reversed(list(enumerate(old))) for weights in _weights(row)}
    left = dict(enumerate(old))
    for row in new:
        shared = Counter(place for weights in _weights(row) if (place := holds.get(weights, -1)) in left)
        if not shared:
            yield RowChange(row.label, "new", tuple(_changes({}, _facts(row))))
            continue
        known = min(shared, key=lambda place: (-shared[place], place))
        changes = tuple(_changes(_facts(left.pop(known)), _facts(row)))
        if changes:
            yield RowChange(row.label, "changed", changes)
    for row in left.values():
        yield RowChange(row.label, "gone", tuple(_changes(_facts(row), {})))


def _weights(row: Row) -> set[tuple[str, ...]]:
    """What makes a row the same one as before: a run of it, by name; foreign weights by their hash."""
    return {(run.training.run_id, run.training.checkpoint) if run.training else (run.model.sha256,) for run in row.runs}


def _facts(row: Row) -> Facts:
    """All about a row that the boards are read for."""
    names = sorted({name for run in row.runs for name in run.metrics}, key=place)
    facts: Facts = {("metric", name): summary for name in names if (summary := row.summary(name))}
    facts["place", ""] = _place(row)
    facts["verification", ""] = row.tier.words
    facts["seeds", ""] = ", ".join(str(run.training.seed) for run in row.runs if run.training) or "none"
    facts |= {("flag", flag.code): flag.message for flag in row.flags}
    facts |= {("note", note.code): note.message for note in row.notes}
    return facts


def _place(row: Row) -> str:
    if row.band is None:
        return _SECTIONS[row.section]
    first, last = row.band
    return str(first) if first == last else f"{first}–{last}"


def _changes(before: Facts, after: Facts) -> Iterator[Change]:
    for key in dict.fromkeys((*after, *before)):
        if before.get(key) != after.get(key):
            yield Change(*key, before.get(key), after.get(key))
