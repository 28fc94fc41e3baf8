"""A difference as text for a pull request: Markdown that also reads well as plain text, and JSON.

Names and messages come from strangers' records: nothing in them is markup. The text stays short enough for a comment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from deatbench.report.audit.difference import BoardChange, Change, Difference, Names, RowChange
from deatbench.report.escape import markdown
from deatbench.report.metrics import describe
from deatbench.report.standings.rows import Summary
from deatbench.report.wording import NORMS, interval

MAX_CHARACTERS = 60_000  # a comment on GitHub may have 65,536
MAX_NAMES = 20


def as_markdown(found: Difference) -> str:
    """The difference in Markdown; one sentence if there is none."""
    if not found:
        return "No difference: the records and the boards are the same.\n"
    lines = [f"Records: {_records(found)}.", "", _summary(found)]
    for board in found.boards:
        lines += ["", *_board(board)]
    text, length = [], 0
    for place, line in enumerate(lines):
        length += len(line) + 1
        if length > MAX_CHARACTERS:
            text += ["", f"{len(lines) - place:,} more lines are left out here; `deatbench leaderboard diff` has them."]
            break
        text.append(line)
    return "\n".join(text) + "\n"


def as_json(found: Difference) -> dict[str, Any]:
    """The difference as plain data; accuracies are shares in [0, 1]."""
    return {"different": bool(found), **asdict(found)}


def _records(found: Difference) -> str:
    parts = [f"{kind} {_counts(names)}" for kind, names in found.records.items() if names]
    return "; ".join(parts) if parts else "the same"


def _counts(names: Names) -> str:
    counts = (("new", names.new), ("gone", names.gone), ("changed", names.changed))
    return ", ".join(f"{len(some):,} {word}" for word, some in counts if some)


def _summary(found: Difference) -> str:
    if not found.boards:
        return "No row of any board is different."
    rows = [row for board in found.boards for row in board.rows]
    counts = [
        (sum(row.kind == "new" for row in rows), "new"),
        (sum(row.kind == "changed" and not row.moved_only for row in rows), "changed"),
        (sum(row.moved_only for row in rows), "moved by others"),
        (sum(row.kind == "gone" for row in rows), "gone"),
    ]
    words = ", ".join(f"{n:,} {word}" for n, word in counts if n) or "none different"
    return f"Rows on {len(found.boards)} board{'s' * (len(found.boards) > 1)}: {words}."


def _board(board: BoardChange) -> Iterator[str]:
    yield f"## {markdown(board.dataset)}, {NORMS[board.norm]} ε = {markdown(board.eps)}" + (
        "" if board.kind == "changed" else f" ({board.kind} board)"
    )
    yield ""
    for row in board.rows:
        if not row.moved_only:
            yield from _row(row)
    moved = [f"{markdown(row.row)} {_before_after(row.changes[0])}" for row in board.rows if row.moved_only]
    if moved:
        yield f"- moved by others: {_listed(moved)}"
    published = board.published
    for word, names in (("new", published.new), ("gone", published.gone), ("changed", published.changed)):
        if names:
            yield f"- published elsewhere, {word}: {_listed([markdown(name) for name in names])}"


def _row(row: RowChange) -> Iterator[str]:
    yield f"- {row.kind}: {markdown(row.row)}"
    for change in row.changes:
        if change.what in ("flag", "note"):
            word = "changed" if change.before and change.after else "raised" if change.after else "gone"
            yield f"  - {change.what} {markdown(change.name)} {word}: {_text(change.after or change.before)}"
        else:
            title = describe(change.name).title if change.what == "metric" else change.what
            yield f"  - {markdown(title)}: {_before_after(change)}"


def _before_after(change: Change) -> str:
    """`before → after`; of what is new or gone, that alone."""
    if change.before is None or change.after is None:
        return _text(change.after if change.before is None else change.before)
    return f"{_text(change.before)} → {_text(change.after)}"


def _text(value: Summary | str | None) -> str:
    if isinstance(value, Summary):
        spread = "" if value.spread is None else f" ± {100 * value.spread:.2f}"
        return f"{100 * value.mean:.2f}{spread} % ({interval(value.ci95)}, n = {value.n:,})"
    return markdown(value) if value else "nothing"


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")
