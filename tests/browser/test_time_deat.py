"""The pages of times and of DEAT in a real browser, opened from disk: phone, dark, keyboard, accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from made_trainings import DEAT, PLAIN_SGD, inputs, made

from deatbench.records import Flag
from deatbench.report.deat.page import deat_pages
from deatbench.report.inputs import Inputs
from deatbench.report.time.page import time_pages

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
NAMES = ["time.html", "deat.html", "empty/time.html", "empty/deat.html"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboards")
    flag = Flag(code=HOSTILE, message=HOSTILE)
    rising = [0.1 + 0.02 * turn for turn in range(30)]
    records = inputs(
        *(made("deat", seed=seed, accuracies=rising, seconds=40.0 + seed) for seed in (0, 1, 2)),
        *(made("pgd-at", seed=seed, accuracies=[*rising[:-1], 0.7], seconds=30.0) for seed in (0, 1)),
        made("pgd-at", PLAIN_SGD, accuracies=rising, flags=[flag]),
        *(
            made(name, accuracies=rising, seconds=20.0, hardware="GPU")
            for name in ("trades", "mart", "awp", "free", HOSTILE)
        ),
        made("deat", DEAT | {"lr": 0.1}, dataset="cifar10", arch="preact_resnet18_with_a_long_name", width=1.0),
    )
    for below, given in (("", records), ("empty", Inputs())):
        for name, text in (time_pages(given) | deat_pages(given)).items():
            path = folder / below / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


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
    page.goto((pages / name).as_uri())
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert complaints == []
    assert page.locator("script").count() == 0
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("name", ["time.html", "deat.html"])
def test_results_begin_on_the_first_screen(page: Page, pages: Path, name: str) -> None:
    page.goto((pages / name).as_uri())
    box = page.locator("table tbody tr").first.bounding_box()
    assert box is not None
    assert box["y"] < 300


@pytest.mark.parametrize("name", NAMES)
def test_phone_has_no_sideways_scroll_of_the_page(page: Page, pages: Path, name: str) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto((pages / name).as_uri())
    assert max(page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")) <= 375


def test_phone_shows_what_was_measured_without_scrolling_the_table(page: Page, pages: Path) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto((pages / "deat.html").as_uri())
    box = page.locator(".claims tbody tr").first.locator("td").last.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 375


@pytest.mark.parametrize("name", ["time.html", "deat.html"])
def test_wide_tables_scroll_by_keyboard(page: Page, pages: Path, name: str) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto((pages / name).as_uri())
    table = page.locator(".scroll").nth(0 if name == "time.html" else 1)
    table.focus()
    table.press("ArrowRight")
    page.wait_for_function("(element) => element.scrollLeft > 0", arg=table.element_handle())


def test_figures_fit_the_phone_and_name_their_lines(page: Page, pages: Path) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto((pages / "deat.html").as_uri())
    figure = page.locator("figure svg:visible")
    assert figure.count() == 1
    assert "SENet-18 DEAT" in (figure.text_content() or "")
    box = figure.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 375


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, pages: Path, name: str, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.emulate_media(color_scheme=scheme)
    page.goto((pages / name).as_uri())
    response = axe.Axe().run(page).response
    assert response["passes"]
    assert [(each["id"], [node["html"] for node in each["nodes"][:3]]) for each in response["violations"]] == []


def test_dark_page_is_dark(page: Page, pages: Path) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto((pages / "time.html").as_uri())
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")[
        :3
    ]
    assert max(red, green, blue) < 64
