"""A model's page in a real browser, opened from disk: whole, bare, and with hostile records."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from diagnostics_factory import diagnostics, epochs, png
from records_factory import evaluation, model_card, training_info, training_record

from deatbench.records import Flag
from deatbench.report.inputs import Inputs
from deatbench.report.model.page import model_pages
from deatbench.report.standings.boards import boards_of

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
NAME = "digits-vgg16-deat-abc123-s0"
HOSTILE = "=<script>window.pwned=1</script><img src=x onerror=window.pwned=2>" + "w" * 80
KINDS = ("whole", "bare", "hostile", "colour")


def given(kind: str) -> Inputs:
    """Records of one model: all there is, the card and an evaluation alone, or texts that would like to be markup."""
    history = epochs(np.linspace(0.1, 0.8, 40), [*np.linspace(0.1, 0.5, 20), *np.linspace(0.5, 0.3, 20)])
    card, found = model_card(training=training_record(n_val=1000, best_epoch=20)), diagnostics(NAME)
    flags = (Flag(code="zero_gradient", message="On 9 of 64 images."),)
    last = evaluation(NAME, training=training_info(checkpoint="last"), robust={"pgd-20": 0.5}, flags=flags)
    if kind == "bare":
        return Inputs(evaluations=(evaluation(NAME, training=training_info()),), cards=(card,))
    if kind == "hostile":
        config = {"method": {"name": HOSTILE, HOSTILE: HOSTILE}, HOSTILE: HOSTILE, "epochs": 10**400}
        flags = (Flag(code=HOSTILE, message=HOSTILE),)
        card = model_card(training=training_record(config=config, command=HOSTILE, hardware=HOSTILE, flags=flags))
        found = diagnostics(NAME, class_names=[f"{HOSTILE}{turn}" for turn in range(10)])
    if kind == "colour":
        gallery = tuple(
            exhibit.model_copy(
                update={name: png(turn, channels=3, size=32) for name in ("clean_png", "adversarial_png")}
            )
            for turn, exhibit in enumerate(found.gallery)
        )
        found = diagnostics(NAME, gallery=gallery, class_names=[f"kind of thing {turn}" for turn in range(10)])
    best = evaluation(NAME, training=training_info())
    return Inputs(evaluations=(best, last), cards=(card,), histories={NAME: history}, diagnostics={NAME: found})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, paths = tmp_path_factory.mktemp("pages"), {}
    for kind in KINDS:
        inputs = given(kind)
        (board,) = boards_of(inputs)
        ((name, text),) = model_pages(board, inputs).items()
        paths[kind] = folder / kind / name
        paths[kind].parent.mkdir(parents=True)
        paths[kind].write_text(text, encoding="utf-8")
    return paths


class Visit:
    """A page, the requests it made and what its console said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def open_details(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Visit(context.new_page())
    context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_opens_from_disk_and_asks_nobody(visit: Visit, pages: dict[str, Path], kind: str) -> None:
    page = visit.open(pages[kind])
    assert page.get_by_role("heading", level=1).inner_text() == NAME
    box = page.get_by_role("region", name="Evaluations").bounding_box()
    assert box is not None
    assert box["y"] < 250
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}
    assert visit.complaints == []
    assert page.evaluate("window.pwned") is None
    assert page.locator("script").count() == 1


def test_figures_and_pictures_are_seen_and_told(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit.open(pages["whole"])
    assert page.get_by_role("img", name="Training curves").is_visible()
    assert page.locator("svg[role=img]").count() == 5
    assert page.locator("p", has_text="Robust overfitting from epoch").is_visible()
    pictures = page.locator(".gallery img")
    assert pictures.count() == 24
    seen = pictures.evaluate_all(
        "all => all.map((i) => [i.naturalWidth, i.clientWidth, getComputedStyle(i).imageRendering, i.alt])"
    )
    assert {tuple(each[:3]) for each in seen} == {(8, 64, "pixelated")}
    assert all(each[3] for each in seen)


def test_pictures_keep_their_own_size_on_a_page_of_larger_ones(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit.open(pages["colour"])
    widths = page.locator(".gallery img").evaluate_all("all => all.map((image) => image.naturalWidth)")
    assert set(widths) == {8, 32}


def test_the_data_of_a_figure_is_saved_as_csv(visit: Visit, pages: dict[str, Path], tmp_path: Path) -> None:
    page = visit.open(pages["hostile"])
    visit.open_details()
    section = page.locator("section", has=page.get_by_role("heading", name="By class"))
    with page.expect_download() as download:
        section.get_by_role("button", name="Save as CSV").click()
    assert download.value.suggested_filename == f"{NAME}-classes.csv"
    download.value.save_as(tmp_path / "classes.csv")
    rows = list(csv.reader((tmp_path / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["class", "images", "clean", "robust"]
    assert rows[1][0].startswith("'=<script>")  # no formula
    assert rows[1][1:] == ["10", "9", "6"]
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data", "blob"}


@pytest.mark.parametrize(
    ("kind", "width"), [("whole", 375), ("whole", 1280), ("bare", 375), ("hostile", 375), ("hostile", 768)]
)
def test_the_page_does_not_scroll_sideways(visit: Visit, pages: dict[str, Path], kind: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 700})
    page = visit.open(pages[kind])
    visit.open_details()
    widths = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(widths) <= width


@pytest.mark.parametrize(
    ("kind", "scheme"), [("whole", "light"), ("whole", "dark"), ("bare", "dark"), ("hostile", "light")]
)
def test_axe_finds_nothing(visit: Visit, pages: dict[str, Path], kind: str, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    visit.page.emulate_media(color_scheme=scheme)
    page = visit.open(pages[kind])
    visit.open_details()
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 22, 25)")


def test_the_keyboard_opens_the_data(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit.open(pages["whole"])
    summary = page.locator("summary").first
    summary.press("Enter")
    assert page.locator("table.data").first.is_visible()
    assert summary.evaluate("element => document.activeElement === element")
