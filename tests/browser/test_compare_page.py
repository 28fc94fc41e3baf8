"""The compare page in a real browser: its numbers are the command's, its address is the choice, names stay text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from cli_runs import call
from records_factory import model_card, training_info, training_record
from scipy.stats import binomtest
from verdict_records import diagnosis, drawn, judged

from deatbench.records import Flag
from deatbench.report.comparison.page import compare_pages, run_key
from deatbench.report.inputs import read_inputs
from deatbench.report.standings.boards import boards_of
from deatbench.store import Home, write_record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on PATH")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAYLOADS = (
    "<script>window.pwned=1</script>",
    "</script><img src=x onerror=window.pwned=1>",
    "\"'><svg onload=window.pwned=1>",
    "javascript:window.pwned=1",
    "{{ 7*7 }}${7*7}\u2028\u202e<!--",
)
CLASSES = ("one", "two</script><script>window.pwned=1</script>", "three")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Five runs on 200 images, one on the first 120, one on a listed choice, one under PGD alone; hostile names."""
    home = Home(tmp_path_factory.mktemp("home"))
    rng = np.random.default_rng(9)
    chosen = rng.permutation(200)[:150]
    pgd_N = rng.random(200) < 0.5
    records = [
        *(drawn(training_info(s).run_id, s, robust=0.5 + 0.03 * s, training=training_info(s)) for s in range(3)),
        drawn("foreign", 3, robust=0.3),
        drawn("short", 4, n=120),
        drawn("listed", 5, n=150, indices=tuple(int(i) for i in chosen)),
        judged("plain", np.ones(200, dtype=bool), {"pgd-20": pgd_N}, flags=(Flag(code="x", message=PAYLOADS[1]),)),
        *(drawn(name, 10 + i) for i, name in enumerate(PAYLOADS)),
    ]
    for record in records:
        write_record(home.evaluations / f"{record.id}.json", record)
    card = model_card(0, training_record(0))
    entry = home.zoo / card.dataset / card.threat.slug / card.id
    write_record(entry / "card.json", card)
    write_record(entry / "diagnostics.json", diagnosis(rng.integers(0, 3, 180), CLASSES))
    return home


@pytest.fixture(scope="module")
def keys(home: Home) -> dict[str, str]:
    """What the page calls each model, by its name."""
    (board,) = boards_of(read_inputs(home))
    return {run.model.name: run_key(run) for run in board.runs}


@pytest.fixture(scope="module")
def address(home: Home) -> Path:
    inputs = read_inputs(home)
    (board,) = boards_of(inputs)
    ((name, text),) = compare_pages(board, inputs).items()
    assert name == "digits/Linf-8_255-compare.html"
    assert compare_pages(board, inputs) == {name: text}
    path = home.leaderboards / name
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


class Visit:
    """A page, the requests it made and what its console said."""

    def __init__(self, page: Page, address: Path) -> None:
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, *keys: str) -> Page:
        self.page.goto("about:blank")
        self.page.goto(self.address.as_uri() + (f"#models={','.join(keys)}" if keys else ""))
        return self.page

    def differences(self) -> list[dict[str, dict[str, Any]]]:
        """Per pair and metric what its row holds: exact values, texts."""
        rows: list[dict[str, dict[str, Any]]] = self.page.evaluate(
            """() => [...document.querySelectorAll(".pair")].map((pair) => Object.fromEntries(
              [...pair.querySelectorAll("tbody tr")].map((row) => [row.dataset.metric,
                [...row.cells].map((cell) => cell.dataset.v ?? cell.textContent)])))"""
        )
        names = ("title", "accuracy_a", "accuracy_b", "difference", "ci95", "p_value")
        names += ("bar", "both", "only_a", "only_b", "neither")
        return [{m: dict(zip(names, cells, strict=True)) for m, cells in pair.items()} for pair in rows]


@pytest.fixture
def visit(browser: Browser, address: Path) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Visit(context.new_page(), address)
    context.close()


@pytest.mark.parametrize(
    "names",
    [
        ("digits-vgg16-deat-abc123-s0", "foreign"),
        ("foreign", "short", "digits-vgg16-deat-abc123-s2", "listed"),
        ("plain", "listed", PAYLOADS[0]),
    ],
)
def test_the_page_says_what_the_command_says(
    visit: Visit, home: Home, keys: dict[str, str], capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    page = visit.open(*(keys[name] for name in names))
    asked = page.locator("#command").inner_text().split()
    assert asked[:2] == ["deatbench", "compare"]
    done = call(capsys, *asked[1:], "--json", "--home", home.path)
    document = json.loads(done.out)
    assert [model["name"] for model in document["models"]] == list(names)
    shown = visit.differences()
    assert len(shown) == len(document["pairs"])
    in_words = call(capsys, *asked[1:], "--home", home.path).out
    for pair, on_page in zip(document["pairs"], shown, strict=True):
        for expected in pair["differences"]:
            if expected["metric"] != "pgd-20":
                cells = on_page.pop(expected["metric"])
                for key in ("accuracy_a", "accuracy_b", "difference", "p_value"):
                    assert float(cells[key]) == pytest.approx(expected[key], rel=1e-9)
                assert [float(end) for end in cells["ci95"].split()] == pytest.approx(expected["ci95"], abs=2e-6)
                assert [int(cells[k]) for k in ("both", "only_a", "only_b", "neither")] == [
                    expected[k] for k in ("both", "only_a", "only_b", "neither")
                ]
        assert on_page == {}
    for sentence in page.locator(".words").all_inner_texts():
        title, _, words = sentence.replace("−", "-").partition(": ")
        assert f"{title.lower()}: {words.removesuffix('.')}\n" in in_words
    classes = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".class")].map((section) => [section.dataset.metric,
          [...section.querySelectorAll("tbody tr")].map((row) =>
            [...row.cells].map((cell) => cell.dataset.v ?? cell.textContent))]))"""
    )
    assert classes.keys() == {table["metric"] for table in document["per_class"]}
    for table in document["per_class"]:
        for row, cells in zip(table["classes"], classes[table["metric"]], strict=True):
            assert (cells[0], int(cells[1])) == (row["name"], row["n"])
            assert [float(cell) for cell in cells[2 : 2 + len(names)]] == pytest.approx(row["accuracies"])
    notes = page.locator("#notes li").all_inner_texts()
    assert notes == [" ".join(note.split()) for note in document["notes"]]
    assert visit.complaints == []


def test_p_values_are_those_of_scipy(visit: Visit) -> None:
    rng = np.random.default_rng(0)
    total = np.concatenate([np.arange(60), rng.integers(1, 10_000, 300)])
    counts = [(int(rng.binomial(d, share)), int(d)) for d, share in zip(total, rng.uniform(0.3, 0.7, 360), strict=True)]
    found = visit.open().evaluate("(pairs) => pairs.map(([a, d]) => statistics.mcnemar(a, d - a))", counts)
    expected = [binomtest(a, d).pvalue if d else 1.0 for a, d in counts]
    kept = [i for i, p in enumerate(expected) if p > 1e-290]
    assert len(kept) > 200
    assert [found[i] for i in kept] == pytest.approx([expected[i] for i in kept], rel=1e-9)
    assert max(found) <= 1


def test_the_address_is_the_choice(visit: Visit, keys: dict[str, str]) -> None:
    page = visit.open()
    first = page.locator("#model-A").input_value()
    assert first
    assert page.locator("#model-B").input_value() not in ("", first)
    page.select_option("#model-A", keys["foreign"])
    page.select_option("#model-B", keys["short"])
    page.select_option("#model-C", keys["listed"])
    assert page.url.endswith(f"#models={keys['foreign']},{keys['short']},{keys['listed']}")
    assert page.locator(".pair").count() == 3
    assert page.locator("#status").inner_text() == "3 models"
    shown = visit.differences()
    page.reload()
    assert visit.differences() == shown
    page.select_option("#model-B", "")
    assert page.url.endswith(f"#models={keys['foreign']},{keys['listed']}")
    assert [page.locator(f"#model-{x}").input_value() for x in "ABC"] == [keys["foreign"], keys["listed"], ""]
    page.select_option("#model-B", "")
    assert page.locator("#status").inner_text() == "Choose two to four models."
    assert page.locator(".pair").count() == 0


def test_an_address_with_models_that_are_not_here(visit: Visit, keys: dict[str, str]) -> None:
    page = visit.open(keys["foreign"], "000000000000", "%3Cscript%3E", keys["short"], keys["foreign"])
    assert [page.locator(f"#model-{x}").input_value() for x in "AB"] == [keys["foreign"], keys["short"]]
    assert "2 of the models in the address are not on this page." in page.locator("#notes").inner_text()


def test_by_keyboard(visit: Visit, keys: dict[str, str]) -> None:
    page = visit.open(keys["foreign"], keys["short"])
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "model-A"
    page.keyboard.type("listed")
    assert page.url.endswith(f"#models={keys['listed']},{keys['short']}")
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Differences of A and B"


def test_hostile_names_stay_text(visit: Visit, keys: dict[str, str]) -> None:
    page = visit.open(*(keys[name] for name in PAYLOADS[:3]), keys["plain"])
    assert page.evaluate("window.pwned") is None
    assert page.locator("script").count() == 3
    assert page.locator("img, svg").count() == 0
    assert page.locator(".class th", has_text=CLASSES[1]).count() == 2
    assert page.locator("#model-A option:checked").inner_text() == PAYLOADS[0]
    assert f"D is flagged: {PAYLOADS[1]}" in page.locator("#notes").inner_text()
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data", "about"}
    assert all(
        link.startswith("../") or "/" not in link
        for link in page.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    )


def test_phone_has_no_sideways_scroll_of_the_page(visit: Visit, keys: dict[str, str]) -> None:
    visit.page.set_viewport_size({"width": 375, "height": 700})
    page = visit.open(*list(keys.values())[:4])
    assert page.locator(".pair").count() == 6
    assert max(page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")) <= 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit: Visit, keys: dict[str, str], scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    visit.page.emulate_media(color_scheme=scheme)
    page = visit.open(keys["foreign"], keys["short"], keys["plain"])
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_large_board_leaves_out_its_end_and_says_so(
    browser: Browser, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deatbench.report.comparison.page.MAX_VERDICTS", 3 * 3 * 36)
    inputs = read_inputs(home)
    (board,) = boards_of(inputs)
    path = tmp_path / "compare.html"
    path.write_text(compare_pages(board, inputs)["digits/Linf-8_255-compare.html"], encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    shown = page.locator("#model-A option").count() - 1
    assert 2 <= shown < len(board.runs)
    left = len(board.runs) - shown
    assert f"{left} runs at the end of the board are not on this page" in page.locator("#notes").inner_text()
    context.close()
