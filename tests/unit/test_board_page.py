"""A board's page, its document and its Markdown twin say what the board says, and nothing hostile comes through."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from hostile_texts import HOSTILE, PLAIN, filled
from markdown_it import MarkdownIt
from published_factory import published
from records_factory import evaluation, model_card, seeds, sha, training_info, training_record, with_images

from deatbench.records import EvaluationRecord, Flag, ModelCard, PublishedResult, Verification
from deatbench.report.board.charts import DRAWN, board_charts
from deatbench.report.board.columns import Accuracy, accuracy_text, band_text, columns_of
from deatbench.report.board.data import board_document
from deatbench.report.board.page import board_pages, index_pages, render_html
from deatbench.report.board.protocol import protocol
from deatbench.report.charts import DARK, LIGHT
from deatbench.report.comparison.page import run_key
from deatbench.report.escape import markdown, plain
from deatbench.report.inputs import Inputs
from deatbench.report.rendering import MARK, TEMPLATES
from deatbench.report.standings.boards import Board, boards_of
from deatbench.report.standings.rows import Section
from deatbench.report.wording import NOTHING, percent

FLAG = Flag(code="zero_gradient", message="31 of 100 images have an all-zero input gradient.")


def board(
    records: Sequence[EvaluationRecord], cards: Sequence[ModelCard] = (), results: Sequence[PublishedResult] = ()
) -> Board:
    (only,) = boards_of(Inputs(evaluations=tuple(records), cards=tuple(cards), published=tuple(results)))
    return only


def document(page: Board) -> dict[str, Any]:
    """The board's document, read back."""
    parsed: dict[str, Any] = json.loads(str(board_document(page, columns_of(page))))
    return parsed


def place(data: dict[str, Any], key: str) -> int:
    return next(at for at, column in enumerate(data["columns"]) if column["key"] == key)


def mixed() -> Board:
    records = [
        *seeds([0.50, 0.53, 0.57]),
        *seeds([0.48, 0.49], method="pgd-at"),
        evaluation("foreign", robust={"pgd-20": 0.7}),
        evaluation("masked", robust={"pgd-20": 0.9, "autoattack": 0.8}, flags=[FLAG]),
    ]
    return board(records, [model_card(0)], [published(), published("weak", autoattack_acc=None, pgd_acc=0.61)])


def text_of(page: Board, kind: str) -> str:
    return board_pages(page, Inputs())[f"{page.address}.{kind}"]


# The document


def test_rows_of_the_document_are_the_boards_rows_in_their_order() -> None:
    page = mixed()
    data = document(page)
    model, rank = place(data, "model"), place(data, "rank")
    assert [row[1][model] for row in data["rows"]] == [row.label for row in page.rows]
    assert [row[0] for row in data["rows"]] == [int(row.section) for row in page.rows]
    assert [row[1][rank] for row in data["rows"]] == [list(row.band) if row.band else 0 for row in page.rows]
    assert [column["key"] for column in data["columns"]] == [column.key for column in columns_of(page)]


def test_accuracies_are_millionths_with_bounds_n_and_spread_where_they_say_something() -> None:
    many = evaluation("many", n=10_000, clean=0.5, robust={"autoattack": 0.3645})
    page = board([*seeds([0.50, 0.53], n=100), evaluation("one", n=100, robust={"autoattack": 0.4}), many])
    data = document(page)
    at = place(data, "autoattack")
    cells = {row[1][place(data, "model")]: row[1][at] for row in data["rows"]}
    assert data["n"] == 100
    mean, low, high, n, spread = cells["vgg16-deat-abc123"]
    assert (mean, n, spread) == (515_000, 0, 21)
    summary = page.rows[0].summary("autoattack")
    assert summary is not None
    assert [f"{low / 10:.1f}", f"{high / 10:.1f}"] == [percent(end) for end in summary.ci95]
    assert cells["one"] == [400_000, 309, 498]
    assert cells["many"][3] == 10_000


@pytest.mark.parametrize("n", [100, 360, 512, 1000, 10_000])
def test_millionths_round_half_up_to_what_python_prints(n: int) -> None:
    shares = [k / n for k in range(n + 1)]
    results = [published(f"p{k}", name=str(k), clean_acc=share) for k, share in enumerate(shares)]
    data = document(board([], (), results))
    assert len(data["published"]) == n + 1
    for row in data["published"]:
        share = shares[int(row[2][place(data, "model")])]
        (millionths,) = row[2][place(data, "clean_acc")]
        tenths = (millionths + 500) // 1000
        assert f"{tenths // 10}.{tenths % 10}" == accuracy_text(Accuracy(share)) == percent(share)
        assert abs(millionths - 1e6 * share) <= 1.5


def test_words_are_sorted_and_shared() -> None:
    data = document(mixed())
    assert data["words"][0] == NOTHING
    assert data["words"][1:] == sorted(set(data["words"][1:]), key=lambda text: (text.casefold(), text))
    method = place(data, "method")
    assert [data["words"][row[1][method]] for row in data["rows"]] == ["deat", "pgd-at", NOTHING, NOTHING]


def test_runs_have_seed_metrics_page_command_and_a_key_to_compare_by() -> None:
    page = mixed()
    runs = document(page)["rows"][0][2]
    words = document(page)["words"]
    assert [run[0] for run in runs] == [run.model.name for run in page.rows[0].runs]
    assert [run[2] for run in runs] == [0, 1, 2]
    assert [run[1][0][0] for run in runs] == [500_000, 530_000, 570_000]
    assert words[runs[0][7]] == "Linf-8_255/\x01.html"
    assert runs[1][7] == 0
    assert words[runs[0][8][0]].replace("\x01", runs[0][0]) == page.rows[0].runs[0].evaluations[0].command
    assert [run[9] for run in runs] == [run_key(run) for run in page.rows[0].runs]


def test_a_single_run_is_not_said_twice() -> None:
    data = document(board([evaluation("digits-net")]))
    (run,) = data["rows"][0][2]
    assert run[:2] == [0, 0]
    assert data["prefix"] + data["rows"][0][1][place(data, "model")] == "digits-net"


def test_amounts_are_shown_in_pythons_words() -> None:
    trainings = [training_info(0, method=f"m{s}", run_id=f"r{s}", seconds=s) for s in (290.0, 99.96, 750.25)]
    page = board([evaluation(training.run_id, training=training) for training in trainings])
    data = document(page)
    column = data["columns"][place(data, "time")]
    assert {row[1][place(data, "time")] for row in data["rows"]} == {290, 100, 750.2}
    assert column["texts"] == {"100": "1.7 min", "290": "4.8 min", "750.2": "12.5 min"}
    assert all(f"| {text} |" in text_of(page, "md") for text in column["texts"].values())


def test_provisional_autoattack_stands_in_its_place_and_says_so() -> None:
    page = board([evaluation("a", robust={"pgd-20": 0.5, "autoattack-provisional": 0.41})])
    data = document(page)
    cell = data["rows"][0][1][place(data, "autoattack")]
    assert (cell[0], cell[-1], page.rows[0].section) == (410_000, 1, Section.NO_AUTOATTACK)
    assert "autoattack-provisional" not in [column["key"] for column in data["columns"]]
    assert "| ≤ 41.0 (" in text_of(page, "md")


def test_published_rows_stand_apart_ordered_with_pgd_alone_behind() -> None:
    results = [
        published("pgd-alone", autoattack_acc=None, pgd_acc=0.7, pgd_attack="pgd-10"),
        published("second"),
        published("first", autoattack_acc=0.6, best_known_acc=0.5),
        published("doubted", unreliable=True, autoattack_acc=0.3),
    ]
    page = board([evaluation("a")], (), results)
    data = document(page)
    rows = data["published"]
    assert [row[2][place(data, "model")].split()[0] for row in rows] == ["first", "second", "doubted", "pgd-alone"]
    assert [row[0] for row in rows] == [Section.RANKED, Section.RANKED, Section.FLAGGED, Section.NO_AUTOATTACK]
    assert [row[1] for row in rows] == [500_000, 432_100, 300_000, -300_000]
    assert rows[3][2][place(data, "pgd-10")] == [700_000]
    assert rows[0][2][place(data, "rank")] == 0
    assert data["words"][rows[0][2][place(data, "tier")]] == "published elsewhere"
    assert rows[0][4] == "https://example.org/paper"


def test_a_board_of_published_results_alone_has_a_page() -> None:
    page = board([], (), [published()])
    assert "1 row" not in text_of(page, "md")
    assert "wong2020 as published" in text_of(page, "md")
    assert document(page)["rows"] == []


def test_verification_tier_is_said() -> None:
    bare = evaluation("a")
    look = {"record": bare.id, "record_sha256": sha("x"), "created": "2026-11-22T10:00:00Z", "env": bare.env}
    proof = Verification(checks=({"name": "ball", "status": "PASS", "detail": ""},), **look)  # type: ignore[arg-type]
    for record, tier in ((with_images(bare), "proof verified"), (bare, "self-reported")):  # none stored, none proved
        (page,) = boards_of(Inputs(evaluations=(record,), verifications={record.id: proof}))
        data = document(page)
        assert data["words"][data["rows"][0][1][place(data, "tier")]] == tier


# The page and its twin


def test_page_is_one_file_with_its_document_a_row_a_line() -> None:
    page = mixed()
    html = text_of(page, "html")
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert inside is not None
    assert json.loads(inside[1]) == document(page)
    lines = inside[1].splitlines()
    start = lines.index('"rows":[')
    assert all(json.loads(line.rstrip(",")) for line in lines[start + 1 : start + 1 + len(page.rows)])
    assert "default-src 'none'; script-src 'sha256-" in html.replace("&#39;", "'")
    assert not re.search(r"(src|href)=\"?(https?:)?//", html)


def test_page_and_figures_share_their_colours() -> None:
    """In light, in dark, and in light again on paper."""
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    rules = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    for palette, rule in zip((LIGHT, DARK, LIGHT), rules, strict=True):
        assert palette.items() <= dict(re.findall(r"--(\w+): ([^;]+);", rule)).items()


def test_markdown_has_the_cells_of_every_column_that_it_shows() -> None:
    page = mixed()
    md = text_of(page, "md")
    for row in page.rows:
        for column in columns_of(page):
            if column.shown and column.kind in ("band", "name", "accuracy"):
                assert f"| {markdown(column.text(column.read(row)))} |" in md, column.key


def test_flags_and_training_notes_are_said_on_both() -> None:
    training = training_record(0, flags=(Flag(code="overfitted", message="Robust accuracy fell after epoch 20."),))
    page = board([*seeds([0.5]), evaluation("masked", flags=[FLAG])], [model_card(0, training)])
    assert page.rows[0].rank == 1
    data = document(page)
    said = [[data["words"][word] for word in doubt] for row in data["rows"] for doubt in row[4]]
    assert said == [
        ["in training: overfitted", "Robust accuracy fell after epoch 20."],
        ["zero gradient", FLAG.message],
    ]
    md = text_of(page, "md")
    assert "**in training: overfitted** (vgg16-deat-abc123-s0): Robust accuracy fell" in md
    assert "**zero gradient** (masked): 31 of 100" in md
    assert "](../../model_zoo/digits/Linf-8_255/digits-vgg16-deat-abc123-s0/README.md)" in md


def test_missing_autoattack_is_a_dash_and_said() -> None:
    page = board([evaluation("plain", robust={"pgd-20": 0.5})])
    data = document(page)
    assert (data["rows"][0][1][place(data, "autoattack")], data["rows"][0][0]) == (0, Section.NO_AUTOATTACK)
    assert "AutoAttack was not run" in data["sections"][Section.NO_AUTOATTACK]
    assert "AutoAttack was not run" in text_of(page, "md")


def test_protocol_says_images_settings_bands_tiers_and_how_best_was_chosen() -> None:
    terms = dict(protocol(mixed()))
    assert "first 100 of the test split" in terms["Test images"]
    assert "Settings: rel_step 0.1, steps 20." in terms["PGD-20"]
    assert "validation split" in terms["Best and last"]
    assert "Wilson" in terms["Intervals"]
    assert "8/255" in terms["Threat"]
    assert "McNemar" in terms["Rank bands"]
    assert "adversarial image" in terms["Verification"]
    assert "not measured here" in terms["Published elsewhere"]
    assert "Published elsewhere" not in dict(protocol(board([evaluation("a")])))


def test_settings_that_differ_are_counted() -> None:
    first, second = evaluation("a"), evaluation("b")
    attacks = tuple(a.model_copy(update={"params": {"steps": 7}}) for a in second.attacks)
    terms = dict(protocol(board([first, second.model_copy(update={"attacks": attacks})])))
    assert "rel_step 0.1, steps 20 (1×) or steps 7 (1×)" in terms["PGD-20"]


def test_two_figures_of_the_ranked_rows_come_along() -> None:
    page = mixed()
    pages = board_pages(page, Inputs())
    assert sorted(name.rpartition("/")[2] for name in pages) == [
        "Linf-8_255-clean.svg",
        "Linf-8_255-cost.svg",
        "Linf-8_255.html",
        "Linf-8_255.md",
    ]
    assert all(text.startswith(MARK) for name, text in pages.items() if name.endswith(".svg"))
    assert "](Linf-8_255-clean.svg)" in pages["digits/Linf-8_255.md"]
    assert "masked" not in pages["digits/Linf-8_255-clean.svg"]
    assert board_charts(board([evaluation("alone")])) == []


def test_figures_of_many_rows_say_how_many_they_draw() -> None:
    records = [evaluation(f"net-{i}", n=1000, robust={"autoattack": 0.2 + i / 1000}) for i in range(DRAWN + 1)]
    (chart,) = board_charts(board(records))
    assert f"The best {DRAWN} of {DRAWN + 1} ranked rows." in chart.sentence


def test_index_has_a_line_per_board_with_band_interval_and_sizes() -> None:
    page = mixed()
    pages = index_pages([page], Inputs())
    best = page.best
    assert best is not None
    assert best.band is not None
    worst = best.summary("worst_case_acc")
    assert worst is not None
    low, high = (percent(end) for end in worst.ci95)
    accuracy = f"{percent(worst.mean)} ±{percent(worst.spread or 0)}"
    for word in (best.label, band_text(best.band), accuracy, "2026-11-22"):
        assert all(word in text for text in pages.values())
    assert f"({low}–{high})" in pages["index.md"]


# Hostile text


def hostile_board(text: str) -> Board:
    """Every free text of an evaluation, of a card with its training, and of a published result is `text`."""
    kept = ("dataset.name", "threat.eps_text")
    training = training_info(0)
    trained = evaluation(training.run_id, training=training, flags=[FLAG], robust={text: 0.7, "autoattack": 0.5})
    foreign = evaluation("foreign", robust={"pgd-20": 0.6, text: 0.5})
    ours = filled(trained, text, keep=(*kept, "training.run_id"))
    card = filled(model_card(0, training_record(0, flags=(FLAG,))), text, keep=("dataset", "id", "training.id"))
    result = filled(published(pgd_acc=0.6, pgd_attack=text, venue=text), text, keep=("dataset", "threat.eps_text"))
    result = result.model_copy(update={"url": "https://example.org/paper"})
    return board([ours, filled(foreign, text, keep=kept)], [card], [result])


class Tags(HTMLParser):
    """Tags, attributes and links of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


def test_payloads_are_many_and_reach_every_free_text() -> None:
    assert len(set(HOSTILE)) >= 30
    text = HOSTILE[0]
    record = next(record for record in hostile_board(text).evaluations if record.flags)
    shown = json.loads(record.model_dump_json())
    for path in ("command", "created", "model.name", "model.arch", "model.source", "env.hardware", "env.torch"):
        value = shown
        for key in path.split("."):
            value = value[key]
        assert value == text, path
    assert shown["flags"][0] == {"code": text, "message": text}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_adds_no_tag_attribute_or_link_to_the_page(text: str) -> None:
    pages = [hostile_board(t) for t in (PLAIN, text)]
    harmless, hostile = (Tags(text_of(page, "html")) for page in pages)
    assert hostile.tags == harmless.tags
    assert hostile.attributes == harmless.attributes
    assert hostile.links == harmless.links
    data = document(pages[1])
    assert plain(text) in data["words"]
    assert "\n" not in "".join(data["words"])


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_adds_no_markup_to_markdown(text: str) -> None:
    def shape(page: str) -> list[tuple[str, str]]:
        """Everything but text: block and inline tokens with their link targets."""
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
        flat = [child for token in tokens for child in (token.children or [token])]
        marks = [t for t in flat if t.type not in ("text", "text_special") and t.content != "<!-- -->"]
        return [(t.type, str(t.attrs.get("href", t.attrs.get("src", "")))) for t in marks]

    harmless, hostile = (text_of(hostile_board(t), "md") for t in (PLAIN, text))
    assert shape(hostile) == shape(harmless)
    assert hostile.count("\n") == harmless.count("\n")
    assert not re.search(r"https?://|www\.", re.sub(r"`+.*?`+", "", hostile))


# Many rows


def synthetic(rows: int) -> Board:
    """A board of made-up rows, called synthetic, one run each."""
    methods, records = ("pgd-at", "trades", "mart", "deat", "awp", "fgsm-rs"), []
    for i in range(rows):
        value = 0.2 + 0.4 * (i * 7919 % rows) / rows
        seconds = 100 + (i * 37) % 5000 + 0.37
        method = methods[i % len(methods)]
        training = training_info(0, run_id=f"run-{i}", method=method, seconds=seconds, config={"i": i})
        robust = {"pgd-20": value + 0.05, "cw-20": value + 0.03, "autoattack": value}
        records.append(evaluation(f"digits-synthetic-{sha(str(i))[:6]}-s0", n=1000, robust=robust, training=training))
    return board(records)


@pytest.mark.parametrize("rows", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_rows_render_in_seconds_and_pack_well(rows: int) -> None:
    """The faster of two renderings, since other programs use the machine too. Run with -s for the figures."""
    page, seconds = synthetic(rows), []
    for _ in range(2):
        start = time.process_time()
        html = render_html(page, board_charts(page)).encode()
        seconds.append(time.process_time() - start)
    packed = len(gzip.compress(html))
    print(f"{rows} rows: rendered in {min(seconds):.2f} s, {len(html) / 1e6:.2f} MB, {packed / 1e6:.3f} MB gzipped")
    assert len(page.rows) == rows
    assert min(seconds) < 2
    assert len(html) < 0.3e6 + 270 * rows
    assert packed < 0.05e6 + 45 * rows
