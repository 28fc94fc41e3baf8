"""The pages in a real browser, opened from disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from records_factory import evaluation, seeds

from deatbench.records import Flag
from deatbench.report import build_leaderboards
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
HOSTILE = "<script>window.pwned=1</script>"
ROWS = ".entry:not([hidden]) > tr:first-child > td:nth-child(2)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("home"))
    records = [
        *seeds([0.50, 0.53, 0.57]),
        *seeds([0.55], method="pgd-at", clean=0.8),
        evaluation("foreign", robust={"pgd-20": 0.45, "autoattack": 0.4}, clean=0.99),
        evaluation(HOSTILE, robust={"pgd-20": 0.7}),
        evaluation("masked", robust={"autoattack": 0.8}, flags=[Flag(code="zero_gradient", message="No gradient.")]),
    ]
    for record in records:
        write_record(home.evaluations / f"{record.id}.json", record)
    build_leaderboards(home)
    return home.leaderboards


class Visit:
    """A page, the requests it made and what its console said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: Path, anchor: str = "") -> Page:
        self.page.goto(path.as_uri() + anchor)
        return self.page

    def names(self) -> list[str]:
        return self.page.locator(ROWS).all_inner_texts()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Visit(context.new_page())
    context.close()


def test_opens_from_disk_with_nothing_from_elsewhere(visit: Visit, pages: Path) -> None:
    page = visit.open(pages / "index.html")
    page.get_by_role("link", name="digits").click()
    assert page.get_by_role("heading", level=1).inner_text() == "digits, L∞ ε = 8/255"
    assert visit.names() == ["vgg16-pgd-at-abc123-s0", "vgg16-deat-abc123", "foreign", HOSTILE, "masked"]
    first = page.locator(".entry").first
    assert first.is_visible()
    box = first.bounding_box()
    assert box is not None
    assert box["y"] < 200
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}
    assert visit.complaints == []


def test_hostile_name_stays_text(visit: Visit, pages: Path) -> None:
    page = visit.open(pages / "digits/Linf-8_255.html")
    assert page.evaluate("window.pwned") is None
    assert page.get_by_role("cell", name=HOSTILE, exact=True).count() == 1
    assert page.locator("script").count() == 1


def test_sort_reorders_marks_the_header_and_survives_a_reload(visit: Visit, pages: Path) -> None:
    page = visit.open(pages / "digits/Linf-8_255.html")
    clean = page.get_by_role("columnheader", name="Clean")
    assert page.get_by_role("columnheader", name="Rank").get_attribute("aria-sort") == "ascending"
    clean.get_by_role("button").click()
    assert clean.get_attribute("aria-sort") == "descending"
    assert page.locator("[aria-sort]").count() == 1
    down = ["foreign", "vgg16-deat-abc123", "vgg16-pgd-at-abc123-s0", HOSTILE, "masked"]
    assert visit.names() == down
    clean.get_by_role("button").press("Enter")
    assert clean.get_attribute("aria-sort") == "ascending"
    assert visit.names() == [*down[2::-1], HOSTILE, "masked"]
    assert page.url.endswith("#sort=clean_acc&dir=asc")
    page.reload()
    assert visit.names() == [*down[2::-1], HOSTILE, "masked"]


def test_search_filters_rows_and_sections_and_is_kept_in_the_address(visit: Visit, pages: Path) -> None:
    page = visit.open(pages / "digits/Linf-8_255.html")
    page.get_by_role("searchbox").fill("zero gradient")
    assert visit.names() == ["masked"]
    assert page.locator("#count").inner_text() == "1 of 5 rows"
    assert page.get_by_text("AutoAttack was not run").first.is_visible() is False
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert visit.names() == ["masked"]
    page.get_by_role("searchbox").fill("")
    assert len(visit.names()) == 5


def test_row_opens_to_its_runs_by_mouse_and_keyboard(visit: Visit, pages: Path) -> None:
    page = visit.open(pages / "digits/Linf-8_255.html")
    count = page.get_by_text("57/100").first
    assert not count.is_visible()
    toggle = page.locator("summary", has_text="Runs of vgg16-deat-abc123")
    toggle.click()
    assert count.is_visible()
    toggle.press("Enter")
    assert not count.is_visible()


@pytest.mark.parametrize("name", ["index.html", "digits/Linf-8_255.html"])
def test_phone_has_no_sideways_scroll_of_the_page(visit: Visit, pages: Path, name: str) -> None:
    visit.page.set_viewport_size({"width": 375, "height": 700})
    page = visit.open(pages / name)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    width = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(width) <= 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_paper(visit: Visit, pages: Path, scheme: Literal["light", "dark"]) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    page = visit.open(pages / "digits/Linf-8_255.html")
    contrast = """(names) => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const probe = document.body.appendChild(document.createElement("p"));
        probe.style.color = style.getPropertyValue(name);
        const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255);
        probe.remove();
        const [r, g, b] = parts.map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = [light("--paper"), light("--wash")];
      return names.flatMap((name) => paper.map((p) => {
        const [a, b] = [light(name), p].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      }));
    }"""
    assert min(page.evaluate(contrast, ["--ink", "--soft", "--link", "--warn"])) >= 4.5
