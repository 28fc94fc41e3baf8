"""Reports of sweeps in a real browser, opened from disk: phone, dark, keyboard, downloads, accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from made_sweeps import DEAT, HEAVY, SGD, first, measured, papers_sweep, result, swept, table2_sweep

from deatbench.records import Flag
from deatbench.report.sweeps.page import report_pages
from deatbench.report.sweeps.reading import Swept

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
HOSTILE = "<script>window.pwned=1</script>"
NAMES = ["mine", "deat-table2", "k1k2", "lr-batch", "mechanism", "plain", "empty"]


def some(name: str, kind: str | None) -> Swept:
    """Runs that every kind can make something of, with texts that want to be code."""
    found = []
    for seed in (0, 1):
        for update, optimizer, share in (("deat", DEAT, 0.5), ("m=.9", HEAVY, 0.48), (HOSTILE, SGD, 0.4)):
            for turn, batch in enumerate((32, 64)):
                for k1 in (0.0, 1.0) if optimizer is DEAT else (0.0,):
                    robust = first(share + 0.02 * turn + 0.01 * k1)
                    made = {weights: measured({"pgd-20": robust, "autoattack": robust}) for weights in ("best", "last")}
                    made |= {"shifted": made["last"]} if optimizer is DEAT else {}
                    spec = optimizer | ({"k1": k1} if optimizer is DEAT else {}) | {"lr": 0.1 * (turn + 1)}
                    settings = {"update": update, "optimizer.lr": spec["lr"], "batch_size": batch}
                    settings |= {"optimizer.k1": k1} if optimizer is DEAT else {}
                    flags = [Flag(code=HOSTILE, message=HOSTILE)]
                    found.append(result(settings, spec, seed=seed, weights=made, batch_size=batch, flags=flags))
    return swept(name, found, kind=kind, about=HOSTILE, also={"gone-s0": (HOSTILE,)}, failed={"gone-s0": HOSTILE})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboards")
    sweeps = [
        table2_sweep(about="Does it help?"),
        papers_sweep(),
        some("plain", None),
        replace(some("empty", None), results=()),
    ]
    sweeps += [some(kind, kind) for kind in ("k1k2", "lr-batch", "mechanism")]
    for sweep in sweeps:
        for name, text in report_pages(sweep).items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder / "sweeps"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_opens_from_disk_with_nothing_from_elsewhere(page: Page, pages: Path, name: str) -> None:
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((pages / f"{name}.html").as_uri())
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert complaints == []
    assert page.locator("script").count() == 0
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("name", NAMES[:-1])
def test_what_was_found_begins_on_the_first_screen(page: Page, pages: Path, name: str) -> None:
    page.goto((pages / f"{name}.html").as_uri())
    box = page.locator("main .claims tbody tr, main > ul li").first.bounding_box()
    assert box is not None
    assert box["y"] < 300


@pytest.mark.parametrize("name", NAMES)
def test_phone_has_no_sideways_scroll_of_the_page(page: Page, pages: Path, name: str) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto((pages / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert max(page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")) <= 375


@pytest.mark.parametrize("width", [375, 1280])
def test_no_words_run_into_the_next_column(page: Page, pages: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((pages / "mine.html").as_uri())
    over = page.evaluate(
        "[...document.querySelectorAll('th, td')].filter(cell => cell.scrollWidth > cell.clientWidth + 1)"
        ".map(cell => cell.textContent)"
    )
    assert over == []


def test_further_tables_open_by_keyboard(page: Page, pages: Path) -> None:
    page.goto((pages / "mine.html").as_uri())
    summary = page.locator("summary").first
    table = page.locator("details table").first
    assert not table.is_visible()
    summary.focus()
    summary.press("Enter")
    assert table.is_visible()


def test_every_link_to_data_leads_to_a_file(page: Page, pages: Path) -> None:
    page.goto((pages / "mine.html").as_uri())
    links = page.locator("a[download]").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert len(links) >= 6
    assert all((pages / link).is_file() for link in links)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, pages: Path, name: str, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.emulate_media(color_scheme=scheme)
    page.goto((pages / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    response = axe.Axe().run(page).response
    assert response["passes"]
    assert [(each["id"], [node["html"] for node in each["nodes"][:3]]) for each in response["violations"]] == []


@pytest.mark.parametrize("name", ["mine", "k1k2"])
def test_axe_finds_nothing_on_a_phone(page: Page, pages: Path, name: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto((pages / f"{name}.html").as_uri())
    assert axe.Axe().run(page).response["violations"] == []


def test_dark_page_is_dark(page: Page, pages: Path) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto((pages / "mine.html").as_uri())
    colours = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")
    assert max(colours[:3]) < 64
