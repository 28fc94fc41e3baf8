"""What a pull request changes: every number that moves is told, nothing else, and no name is markup."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from markdown_it import MarkdownIt
from records_factory import ENV, evaluation, seeds, sha, with_images

from deatbench.records import CheckResult, EvaluationRecord, Flag, PublishedResult, Threat, Verification
from deatbench.report.audit.difference import Difference, RowChange, difference
from deatbench.report.audit.difference_page import MAX_CHARACTERS, as_json, as_markdown
from deatbench.report.inputs import Inputs
from deatbench.report.standings.rows import Summary


def between(old: list[EvaluationRecord], new: list[EvaluationRecord], **more: Any) -> Difference:
    return difference(Inputs(evaluations=tuple(old)), Inputs(evaluations=tuple(new), **more))


def rows(found: Difference) -> list[RowChange]:
    return [row for board in found.boards for row in board.rows]


def published(name: str, **changes: Any) -> PublishedResult:
    fields: dict[str, Any] = {
        "id": name, "name": name, "dataset": "digits", "threat": Threat(norm="Linf", eps=8 / 255, eps_text="8/255"),
        "arch": "x", "method": "m", "source": "s", "autoattack_acc": 0.5,
    }  # fmt: skip
    return PublishedResult(**(fields | changes))


def test_the_same_records_are_no_difference() -> None:
    records = [*seeds([0.5, 0.53]), evaluation("foreign")]
    found = between(records, list(reversed(records)))
    assert not found
    assert as_markdown(found) == "No difference: the records and the boards are the same.\n"
    assert as_json(found)["different"] is False


def test_a_new_row_is_told_with_its_numbers_and_those_that_it_moves_in_a_line() -> None:
    old = [evaluation("a", robust={"autoattack": 0.4}), evaluation("b", robust={"autoattack": 0.1})]
    found = between(old, [*old, evaluation("best", robust={"autoattack": 0.8})])
    kinds = {row.row: row.kind for row in rows(found)}
    assert kinds == {"best": "new", "a": "changed", "b": "changed"}
    text = as_markdown(found)
    assert "Rows on 1 board: 1 new, 2 moved by others." in text
    assert "- new: best\n  - Clean: 90.00 % (82.6–94.5, n = 100)\n  - AutoAttack: 80.00 %" in text
    assert "- moved by others: a 1 → 2, b 2 → 3" in text
    back = as_markdown(between([*old, evaluation("best", robust={"autoattack": 0.8})], old))
    assert "- gone: best\n  - Clean: 90.00 %" in back


def test_metrics_are_told_one_by_one_before_and_after() -> None:
    old, new = (seeds([value], id="same") for value in (0.50, 0.57))
    (row,) = rows(between(old, new))
    assert row.kind == "changed"
    moved = {change.name: (change.before, change.after) for change in row.changes if change.what == "metric"}
    assert set(moved) == {"pgd-20", "cw-20", "autoattack", "worst_case_acc"}
    before, after = moved["autoattack"]
    assert isinstance(before, Summary)
    assert isinstance(after, Summary)
    assert (before.mean, after.mean) == (0.50, 0.57)
    assert "  - AutoAttack: 50.00 % (40.4–59.6, n = 100) → 57.00 % (47.2–66.3, n = 100)\n" in as_markdown(
        between(old, new)
    )


def test_another_seed_changes_its_row() -> None:
    records = seeds([0.50, 0.53, 0.57])
    (row,) = rows(between(records[:2], records))
    assert {change.what for change in row.changes} == {"metric", "seeds"}
    assert "  - seeds: 0, 1 → 0, 1, 2\n" in as_markdown(between(records[:2], records))
    assert "51.50 ± 2.12 %" in as_markdown(between(records[:2], records))


def test_flags_tiers_and_sections_are_told() -> None:
    (plain,) = map(with_images, seeds([0.5]))
    flagged = plain.model_copy(update={"flags": (Flag(code="zero_gradient", message="31 of 100 have none."),)})
    text = as_markdown(between([plain], [flagged]))
    assert "  - place: 1 → not ranked, flagged\n" in text
    assert "  - flag zero_gradient raised: 31 of 100 have none.\n" in text
    assert "flag zero_gradient gone" in as_markdown(between([flagged], [plain]))
    look = Verification(
        record=plain.id, record_sha256=sha("x"), created="2026-11-22T10:00:00Z", env=ENV,
        checks=(CheckResult(name="model", status="PASS", detail=""),),
    )  # fmt: skip
    proven = as_markdown(between([plain], [plain], verifications={plain.id: look}))
    assert "verification: self-reported → proof verified" in proven
    assert "Records: verifications 1 new." in proven


def test_a_record_may_change_without_moving_a_row() -> None:
    (plain,) = seeds([0.5])
    found = between([plain], [plain.model_copy(update={"seconds": 1.0})])
    assert found
    assert as_markdown(found) == "Records: evaluations 1 changed.\n\nNo row of any board is different.\n"


def test_boards_come_and_go() -> None:
    old, new = [evaluation("a")], [evaluation("a", eps="0.031")]
    text = as_markdown(between(old, new))
    assert "## digits, L∞ ε = 0.031 (new board)" in text
    assert "## digits, L∞ ε = 8/255 (gone board)" in text


def test_results_of_others_are_told_by_name() -> None:
    old = Inputs(published=(published("kept"), published("gone"), published("moved")))
    new = Inputs(published=(published("kept"), published("moved", autoattack_acc=0.4), published("new")))
    text = as_markdown(difference(old, new))
    for word in ("new", "gone", "changed"):
        name = "moved" if word == "changed" else word
        assert f"- published elsewhere, {word}: {name}\n" in text


def test_the_order_of_records_changes_no_byte() -> None:
    old = [*seeds([0.5, 0.53]), *seeds([0.4], method="pgd-at"), evaluation("x"), evaluation("y", dataset="svhn")]
    new = [*seeds([0.5, 0.53, 0.6]), evaluation("x", n=200), evaluation("z", eps="0.031")]
    expected = as_markdown(between(old, new))
    for seed in range(5):
        random.Random(seed).shuffle(old)
        random.Random(seed).shuffle(new)
        assert as_markdown(between(old, new)) == expected


def test_json_holds_the_numbers() -> None:
    document = json.loads(json.dumps(as_json(between(seeds([0.50], id="same"), seeds([0.57], id="same")))))
    (board,) = document["boards"]
    (row,) = board["rows"]
    change = next(change for change in row["changes"] if change["name"] == "autoattack")
    assert (board["dataset"], board["norm"], board["eps"]) == ("digits", "Linf", "8/255")
    assert change["before"] == {"mean": 0.5, "spread": None, "n": 100, "ci95": [0.403832, 0.596168]}
    assert document["records"]["evaluations"] == {"new": [], "gone": [], "changed": ["same"]}


HOSTILE = [
    "<script>alert(1)</script>",
    "<!-- deatbench -->",
    "[click](https://evil.example) ![x](https://evil.example/x.png)",
    "https://evil.example www.evil.example me@evil.example @everyone",
    "a\n\n# heading\n- [ ] task\n| a | b |\n|---|---|",
    "`code` ``` ~~~ **bold** _em_ ~~gone~~ $x$ :smile:",
    "\u202egnp.exe\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_is_markup(text: str) -> None:
    flag = Flag(code=text, message=text)
    record = evaluation(text, arch=text, dataset=text, robust={"autoattack": 0.5, text: 0.4}, flags=[flag])
    page = as_markdown(difference(Inputs(), Inputs(evaluations=(record,), published=(published("p", dataset=text),))))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    kinds = {child.type for token in tokens for child in (token.children or [token])}
    assert not kinds & {"link_open", "image", "code_inline", "em_open", "strong_open", "s_open", "table_open", "fence"}
    html = [child.content for token in tokens for child in (token.children or [token]) if child.type.startswith("html")]
    assert set(html) <= {"<!-- -->"}
    assert sum(token.type == "heading_open" for token in tokens) == 1
    assert page.isascii() or "\u202e" not in page


def test_it_stays_short_enough_for_a_comment() -> None:
    records = [evaluation(f"net-{i:04}", robust={"autoattack": 0.5}) for i in range(400)]
    text = as_markdown(between([], records))
    assert MAX_CHARACTERS * 0.9 < len(text) < 65_536
    assert text.endswith("more lines are left out here; `deatbench leaderboard diff` has them.\n")
