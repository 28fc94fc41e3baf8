"""Pages follow from records: same bytes, right numbers, nothing hostile comes through, no torch."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from records_factory import evaluation, model_card, seeds, sha, training_info, training_record

from deatbench.errors import ConfigError, MissingError
from deatbench.records import EvaluationRecord, Flag, wilson_interval
from deatbench.report import build_leaderboards, serve
from deatbench.report.boards import Board, Section, boards_of
from deatbench.report.columns import COLUMNS, count, duration
from deatbench.report.escape import code, markdown, plain
from deatbench.report.pages import MARK, render_board, render_index
from deatbench.report.serve import server
from deatbench.store import Home, write_record

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "</script></style><svg onload=alert(1)>",
    "' autofocus onfocus='alert(1)",
    "{{ 7*7 }}{% raw %}",
    "a|b `c` *d* _e_ [f](https://evil.example) ![g](x) <b>h</b> https://evil.example www.evil.example me@evil.example",
    "| - | - |\n|---|---|\n# heading",
    "\u202e",
    "\u202egnp.exe\x00\x1b[31m",
    "--> <!-- -->",
    "``` ~~~ $x$ :smile: \\",
    "&lt;script&gt; &amp;",
]


class Tags(HTMLParser):
    """Counts tags and attributes and keeps the text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def board(records: list[EvaluationRecord], **kwargs: object) -> Board:
    (only,) = boards_of(records, kwargs.get("cards", []))  # type: ignore[arg-type]
    return only


def home_with(path: Path, records: list[EvaluationRecord]) -> Home:
    home = Home(path)
    for record in records:
        write_record(home.evaluations / f"{record.id}.json", record)
    return home


def mixed() -> list[EvaluationRecord]:
    flag = Flag(code="zero_gradient", message="31 of 100 images have an all-zero input gradient.")
    return [
        *seeds([0.50, 0.53, 0.57]),
        *seeds([0.48, 0.49], method="pgd-at"),
        evaluation("foreign", robust={"pgd-20": 0.7}),
        evaluation("masked", robust={"pgd-20": 0.9, "autoattack": 0.8}, flags=[flag]),
        evaluation("elsewhere", eps="0.031"),
        evaluation("other-data", dataset="cifar10"),
    ]


# What stands on which board


def test_boards_are_apart_by_dataset_norm_and_eps_as_written() -> None:
    records = [
        evaluation("a", eps="8/255"),
        evaluation("a", eps="0.031"),
        evaluation("a", eps="16/510"),
        evaluation("a", norm="L2", eps="0.5"),
        evaluation("a", dataset="cifar10"),
    ]
    assert [(b.dataset, b.threat.slug) for b in boards_of(records, [])] == [
        ("cifar10", "Linf-8_255"),
        ("digits", "L2-0.5"),
        ("digits", "Linf-0.031"),
        ("digits", "Linf-16_510"),
        ("digits", "Linf-8_255"),
    ]


def test_seeds_of_one_configuration_are_one_row_with_mean_and_spread() -> None:
    values = [0.50, 0.53, 0.57]
    (row,) = board(seeds(values)).rows
    summary = row.summary("autoattack")
    assert summary is not None
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.spread == pytest.approx(statistics.stdev(values))
    assert summary.n == 100
    assert summary.ci95 == wilson_interval(53, 100)
    assert row.label == "vgg16-deat-abc123"
    assert [run.training.seed for run in row.runs if run.training] == [0, 1, 2]
    page = render_board(board(seeds(values)), "html")
    assert "53.3<small>±3.5</small>" in page
    assert all(f"{round(100 * value)}/100</small>" in page for value in values)


def test_an_accuracy_on_other_images_than_autoattack_says_so() -> None:
    many = evaluation("net", n=10_000, robust={"pgd-20": 0.24}, clean=0.32)
    few = evaluation("net", n=512, robust={"autoattack": 0.27}, clean=0.36)
    page = render_board(board([many, few]), "html")
    assert "24.0<small>n=10,000</small>" in page
    assert "27.0<small>" not in page


@pytest.mark.parametrize(
    "change",
    [{"method": "trades"}, {"epochs": 31}, {"checkpoint": "last"}, {"recipe": "paper"}, {"config": {"k1": 0.5}}],
)
def test_any_other_difference_is_another_row(change: dict[str, object]) -> None:
    first = evaluation("a", training=training_info(0))
    second = evaluation("b", training=training_info(1, **change))
    assert len(board([first, second]).rows) == 2
    assert len(board([first, evaluation("b", training=training_info(1))]).rows) == 1


def test_other_architecture_width_or_images_are_another_row() -> None:
    for change in ({"arch": "vgg19"}, {"params": {"width": 0.5}}):
        records = [evaluation("a", training=training_info(0)), evaluation("b", training=training_info(1), **change)]
        assert len(board(records).rows) == 2
    assert len(board([evaluation("foreign"), evaluation("stranger")]).rows) == 2


def test_evaluations_of_the_same_weights_are_one_run_and_repeats_cannot_raise_a_number() -> None:
    training = training_info(0)
    records = [
        evaluation("a", n=1000, robust={"pgd-20": 0.5, "cw-20": 0.48}, training=training),
        evaluation("a", n=100, robust={"pgd-20": 0.52, "autoattack": 0.45}, training=training),
        evaluation("a", n=100, robust={"pgd-20": 0.52, "autoattack": 0.47}, training=training),
    ]
    (row,) = board(records).rows
    (run,) = row.runs
    assert (run.metrics["pgd-20"].n, run.metrics["pgd-20"].value) == (1000, 0.5)
    assert (run.metrics["autoattack"].n, run.metrics["autoattack"].value) == (100, 0.45)
    assert run.metrics["worst_case_acc"] == run.metrics["autoattack"]


def test_ranking_flagged_and_unattacked_rows_stand_apart_without_rank() -> None:
    (first,) = [b for b in boards_of(mixed(), []) if (b.dataset, b.threat.eps_text) == ("digits", "8/255")]
    assert [(row.label, row.rank, row.section) for row in first.rows] == [
        ("vgg16-deat-abc123", 1, Section.RANKED),
        ("vgg16-pgd-at-abc123", 2, Section.RANKED),
        ("foreign", None, Section.NO_AUTOATTACK),
        ("masked", None, Section.FLAGGED),
    ]
    html, md = render_board(first, "html"), render_board(first, "md")
    assert "zero gradient</b> 31 of 100 images" in html
    assert "**zero gradient** (masked)" in md
    assert html.index("Not ranked: flagged") < html.index("<td>–<td>masked")
    assert first.best is first.rows[0]


def test_equal_worst_cases_share_a_rank() -> None:
    ranks = [
        row.rank for row in board([evaluation("a"), evaluation("b"), evaluation("c", robust={"autoattack": 0.1})]).rows
    ]
    assert ranks == [1, 1, 3]


def test_one_flagged_seed_flags_the_row_and_says_how_many() -> None:
    records = seeds([0.5, 0.6])
    records[1] = records[1].model_copy(update={"flags": (Flag(code="silent_success", message="m"),)})
    (row,) = board(records).rows
    assert row.section is Section.FLAGGED
    assert next(c for c in COLUMNS if c.key == "flags").cell(row).text == "silent success (1 of 2 runs)"


def test_card_gives_zoo_link_and_training_notes_without_taking_the_rank() -> None:
    training = training_record(0, flags=(Flag(code="overfitted", message="Robust accuracy fell after epoch 20."),))
    page = board(seeds([0.5]), cards=[model_card(0, training)])
    assert page.rows[0].rank == 1
    html = render_board(page, "html")
    assert 'href="../../model_zoo/digits/Linf-8_255/digits-vgg16-deat-abc123-s0/card.json"' in html
    assert "In training: overfitted</b> Robust accuracy fell" in html


def test_missing_autoattack_is_a_dash_in_both() -> None:
    page = board([evaluation("plain", robust={"pgd-20": 0.5})])
    cells = {column.key: column.cell(page.rows[0]).text for column in COLUMNS}
    assert (cells["autoattack"], cells["n"], cells["interval"], cells["worst_case_acc"]) == ("–", "–", "–", "50.0")
    assert "AutoAttack was not run" in render_board(page, "html")
    assert "AutoAttack was not run" in render_board(page, "md")


# Files


def test_same_records_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = mixed()
    first = {
        p.relative_to(tmp_path / "a"): p.read_bytes() for p in build_leaderboards(home_with(tmp_path / "a", records))
    }
    again = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in build_leaderboards(Home(tmp_path / "a"))}
    assert first == again
    shuffled = random.Random(0).sample(records, len(records))
    for kind in ("html", "md"):
        assert render_index(boards_of(records, []), kind) == render_index(boards_of(shuffled, []), kind)
        for one, other in zip(boards_of(records, []), boards_of(shuffled, []), strict=True):
            assert render_board(one, kind) == render_board(other, kind)


def test_pages_written_are_those_returned_and_the_index_reaches_them(tmp_path: Path) -> None:
    paths = build_leaderboards(home_with(tmp_path, mixed()))
    on_disk = sorted(path for path in (tmp_path / "leaderboards").rglob("*") if path.is_file())
    assert paths == on_disk
    assert len(paths) == 2 + 2 * 3
    links = Tags((tmp_path / "leaderboards/index.html").read_text(encoding="utf-8")).links
    reached = {(tmp_path / "leaderboards" / link).resolve() for link in links if link.endswith(".html")}
    assert reached == {
        path.resolve() for path in paths if path.suffix == ".html" and path.parent.name != "leaderboards"
    }


def test_own_pages_of_boards_that_are_gone_are_removed_and_others_left(tmp_path: Path) -> None:
    home = home_with(tmp_path, [evaluation("a")])
    stale, foreign = home.leaderboards / "digits/Linf-0.5.html", home.leaderboards / "digits/notes.md"
    stale.parent.mkdir(parents=True)
    stale.write_text(f"<!doctype html>\n{MARK}\n", encoding="utf-8")
    foreign.write_text("mine", encoding="utf-8")
    build_leaderboards(home)
    assert not stale.exists()
    assert foreign.read_text(encoding="utf-8") == "mine"


def test_no_records_still_give_an_index_that_says_what_to_do(tmp_path: Path) -> None:
    paths = build_leaderboards(Home(tmp_path))
    assert [path.name for path in paths] == ["index.html", "index.md"]
    assert all("deatbench run --arch vgg16 --method deat" in path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "a\nb", "x" * 300])
def test_dataset_that_is_no_file_name_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a page"):
        build_leaderboards(home_with(tmp_path, [evaluation("a", dataset=name)]))
    assert not (tmp_path / "leaderboards").exists()


# Hostile text


def hostile_board(text: str) -> Board:
    training = training_info(0, method=text, recipe=text, hardware=text, optimizer=text, digest=text, run_id=text)
    flag = Flag(code=text, message=text)
    return board(
        [
            evaluation(text, arch=text, params={"width": text}, training=training, flags=[flag], command=text),
            evaluation(f"{text} foreign", arch=text, command=text, created=text),
        ]
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_tag_attribute_or_link_to_html(text: str) -> None:
    harmless, hostile = (Tags(render_board(hostile_board(t), "html")) for t in ("harmless", text))
    assert hostile.tags == harmless.tags
    assert hostile.attributes == harmless.attributes
    assert hostile.links == harmless.links
    assert plain(text) in "".join(hostile.words)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_markup_to_markdown(text: str) -> None:
    def shape(page: str) -> list[tuple[str, str]]:
        """Everything but text: block and inline tokens with their link targets."""
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
        flat = [child for token in tokens for child in (token.children or [token])]
        marks = [t for t in flat if t.type not in ("text", "text_special") and t.content != "<!-- -->"]
        return [(t.type, str(t.attrs.get("href", ""))) for t in marks]

    pages = [render_board(hostile_board(t), "md") for t in ("harmless", text)]
    assert shape(pages[1]) == shape(pages[0])
    assert pages[1].count("\n") == pages[0].count("\n")
    assert not re.search(r"https?://|www\.", re.sub(r"`+.*?`+", "", pages[1]))


def test_markdown_text_keeps_what_is_harmless() -> None:
    assert markdown("preact_resnet18-deat 43.0 ±1.4 zoo:ID") == "preact_resnet18-deat 43.0 ±1.4 zoo:ID"
    assert markdown("a|b `c` <d> _e_") == "a&#124;b \\`c\\` &lt;d&gt; \\_e\\_"
    assert code("a `b` | c") == "`` a `b` \\| c ``"


def test_html_asks_no_other_host_and_forbids_it() -> None:
    page = render_board(board(mixed()[:3]), "html")
    assert {link.split(":")[0] for link in Tags(page).links if not link.startswith("../")} == {"data"}
    assert "default-src 'none'; script-src 'sha256-" in page.replace("&#39;", "'")


# Words and numbers


def test_units() -> None:
    assert [duration(s) for s in (3.2, 99.0, 750.0, 12_240.0)] == ["3 s", "99 s", "12.5 min", "3.4 h"]
    assert [count(n) for n in (312, 27_200, 11_173_962)] == ["312", "27.2 k", "11.2 M"]


def test_both_kinds_show_the_same_cells() -> None:
    page = board(seeds([0.5, 0.53]))
    html, md = "".join(Tags(render_board(page, "html")).words), render_board(page, "md")
    for column in COLUMNS:
        cell = column.cell(page.rows[0])
        assert f"{cell.text}{cell.note}" in html
        assert f"| {markdown(f'{cell.text} {cell.note}'.strip())} |" in md


def test_protocol_says_images_settings_and_how_best_was_chosen() -> None:
    md = render_board(board(seeds([0.5, 0.53])), "md")
    for phrase in (
        "first 100 of the test split",
        "pgd-20: rel_step 0.1, steps 20",
        "validation split",
        "Wilson",
        "8/255",
    ):
        assert phrase in md


# Without torch, over HTTP, and many rows


def test_renders_where_torch_is_not_installed(tmp_path: Path) -> None:
    home_with(tmp_path, seeds([0.5, 0.53]))
    program = """
import sys, pathlib
for name in ("torch", "torchvision", "timm"):
    sys.modules[name] = None
from deatbench.report import build_leaderboards
from deatbench.store import Home
print(len(build_leaderboards(Home(pathlib.Path(sys.argv[1])))))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_serve_shows_the_pages_on_this_machine_only(tmp_path: Path) -> None:
    home = home_with(tmp_path, [evaluation("a")])
    with pytest.raises(MissingError, match="leaderboard build"):
        server(home, 0)
    build_leaderboards(home)
    with server(home, 0) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            assert web.server_address[0] == "127.0.0.1"
            with urllib.request.urlopen(f"http://127.0.0.1:{web.server_port}/digits/Linf-8_255.html") as answer:
                assert b"deatbench" in answer.read()
            with pytest.raises(ConfigError, match="cannot listen"), contextlib.redirect_stdout(io.StringIO()):
                serve(home, web.server_port)
        finally:
            web.shutdown()
            thread.join()


@pytest.mark.slow
def test_ten_thousand_rows_render_in_seconds_and_pack_well() -> None:
    """A guard against quadratic work and bloat; run with -s for the figures."""
    records = []
    for i in range(10_000):
        value = 0.2 + 0.4 * (i * 7919 % 10_000) / 10_000
        training = training_info(0, run_id=f"run-{i}", config={"i": i})
        robust = {"pgd-20": value + 0.05, "cw-20": value + 0.03, "autoattack": value}
        records.append(evaluation(f"synthetic-{sha(str(i))[:6]}-s0", robust=robust, training=training))
    start = time.process_time()
    page = board(records)
    grouped = time.process_time() - start
    html = render_board(page, "html").encode()
    seconds, packed = time.process_time() - start, len(gzip.compress(html))
    print(
        f"grouped in {grouped:.2f} s, all in {seconds:.2f} s, {len(html) / 1e6:.2f} MB, {packed / 1e6:.2f} MB gzipped"
    )
    assert len(page.rows) == 10_000
    assert seconds < 15
    assert packed < 0.5e6
