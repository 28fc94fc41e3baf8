"""Figures: geometry, the frontier, hostile names, sizes, colours, and what assistive software makes of them."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from deatbench.report import charts
from deatbench.report.charts import DARK, LIGHT, Axis, BarRow, Gap, Line, Moment, Point, Step
from deatbench.report.charts.axes import Frame, Scale
from deatbench.report.charts.heatmap import READABLE
from deatbench.report.charts.labels import Label, Placer
from deatbench.report.charts.lines import spread
from deatbench.report.charts.marks import SHAPES
from deatbench.report.charts.scatter import Better
from deatbench.report.charts.svg import identifier, link
from deatbench.report.charts.ticks import log_ticks, ticks

CLEAN, ROBUST = Axis("Clean accuracy", percent=True), Axis("Robust accuracy", percent=True)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</title></svg><script>alert(1)</script>",
    "]]><b>x</b><![CDATA[",
    "<!--", "-->", "&lt;b&gt;&#60;", "&bogus;", "<?xml version='1.0'?>",
    "a\x00b\x1b\ud800\ufffe\u202ec\nd\u2028e",
    "{{ 7*7 }}", "url(javascript:alert(1))", "</style><style>*{display:none}",
)  # fmt: skip


def scatter(name: str = "a", key: str = "s", link: str | None = None, width: int = 640) -> Markup:
    points = [
        Point(0.9, 0.4, name, link, name, (0.89, 0.91), (0.38, 0.42)),
        Point(0.8, 0.5, "b", None, "two", emphasised=True),
        Point(0.7, 0.3, name, link, "two", eligible=False),
        Point(0.95, 0.39, name, link, "two"),
    ]
    x, y = Axis(name, percent=True), ROBUST
    return charts.scatter(points, x, y, key=key, title=name, description=name, width=width)


def lines(name: str = "a", key: str = "l", width: int = 640) -> Markup:
    curve = tuple((float(epoch), 0.5 - 0.1 / epoch) for epoch in range(1, 20))
    band = tuple((x, y - 0.02, y + 0.02) for x, y in curve)
    series = [Line(name, tuple((x, y + 0.2) for x, y in curve), dashed=True), Line("b", curve, band, group=3)]
    return charts.lines(
        series,
        Axis(name, whole=True),
        ROBUST,
        key=key,
        title=name,
        description=name,
        moments=[Moment(10, name)],
        gap=Gap(0, 1, name),
        width=width,
    )


def waterfall(name: str = "a", key: str = "w", width: int = 640) -> Markup:
    steps = [Step("clean", 0.842, (0.83, 0.85)), Step(name, 0.571), Step("square", 0.571)]
    return charts.waterfall(
        steps, [Step(name, 0.6)], key=key, title=name, description=name, alone_title=name, width=width
    )


def bars(name: str = "a", key: str = "b", width: int = 640) -> Markup:
    rows = [BarRow(name, (0.8, 0.4), ((0.7, 0.9), None)), BarRow("cat", (0.5, None))]
    return charts.bars(rows, (name, "robust"), key=key, title=name, description=name, width=width)


def heatmap(name: str = "a", key: str = "h", width: int = 640) -> Markup:
    return charts.heatmap(
        [[90, 10, 0], [25, 75, 0], [0, 0, 0]],
        [name, "cat", "dog"],
        key=key,
        title=name,
        description=name,
        rows_title=name,
        columns_title=name,
        width=width,
    )


FIGURES: dict[str, Callable[..., Markup]] = {
    "scatter": scatter,
    "lines": lines,
    "waterfall": waterfall,
    "bars": bars,
    "heatmap": heatmap,
}
each_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def words(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter("text")]


def with_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [node for node in root.iter() if name in node.get("class", "").split()]


# --- every figure -------------------------------------------------------------------------------------------------


@each_figure
@pytest.mark.parametrize("width", [charts.NARROW, charts.WIDE])
def test_a_figure_is_named_for_those_who_cannot_see_it(draw: Callable[..., Markup], width: int) -> None:
    root = parsed(draw("name", key="fig", width=width))
    assert root.get("role") == "img"
    title, description = (root.find(tag) for tag in ("title", "desc"))
    assert title is not None
    assert description is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}" == "fig-title fig-desc"
    assert title.text == description.text == "name"
    assert root.get("viewBox", "").startswith(f"0 0 {width} ")


@each_figure
@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_names_add_no_tag_and_no_attribute(draw: Callable[..., Markup], payload: str) -> None:
    root, twin = parsed(draw(payload)), parsed(draw("harmless"))
    assert {node.tag for node in root.iter()} <= {node.tag for node in twin.iter()}
    assert {key for node in root.iter() for key in node.attrib} <= {key for node in twin.iter() for key in node.attrib}
    assert root.find("title") is not None


@given(st.text(), st.sampled_from(sorted(FIGURES)))
def test_any_name_leaves_a_figure_well_formed(name: str, kind: str) -> None:
    parsed(FIGURES[kind](name, key=name))


def test_another_process_draws_the_same_bytes() -> None:
    program = "from test_charts import everything; print(everything(), end='')"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=Path(__file__).parent,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode() == everything() == everything()


def everything() -> str:
    return "".join([*(draw() for draw in FIGURES.values()), crowd(20), crowd(600)])


@each_figure
def test_a_figure_asks_nothing_of_any_host(draw: Callable[..., Markup]) -> None:
    alone = charts.standalone(draw())
    root = parsed(alone)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in alone
    assert re.findall(r"https?://[^\s\"]+", alone) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|<script|foreignObject|<image|<use|\son\w+=|style=", alone)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", alone))


def test_nothing_to_draw_is_drawn_as_nothing() -> None:
    names = {"title": "t", "description": "d"}
    for svg in (
        charts.scatter([], CLEAN, Axis("h", log=True), key="a", **names),
        charts.lines([Line("empty", ())], CLEAN, ROBUST, key="b", gap=Gap(0, 0, ""), **names),
        charts.waterfall([], key="c", **names),
        charts.bars([], key="d", **names),
        charts.heatmap([], [], key="e", **names),
    ):
        parsed(svg)


@example([(0.0, 0.0), (5e-324, 0.0)], False)
@example([(0.0, 0.0), (2.2250738585e-313, 0.0)], False)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=5), st.booleans())
def test_no_number_breaks_a_figure(values: list[tuple[float, float]], log: bool) -> None:
    names = {"key": "k", "title": "t", "description": "d"}
    points = [Point(x, y, "p", x_interval=(y, x), y_interval=(x, y)) for x, y in values]
    for svg in (
        charts.scatter(points, Axis("x", log=log), Axis("y", percent=True), **names),
        charts.lines([Line("l", tuple(values), tuple((x, y, y) for x, y in values))], Axis("x"), Axis("y"), **names),
    ):
        assert not re.search(r"(nan|inf)[ \"VHL]", svg.split("</desc>")[1].replace("nan %", ""))
        parsed(svg)


def test_both_widths_of_a_fitted_figure_have_ids_of_their_own() -> None:
    html = charts.fitted(lambda key, width: lines(key=key, width=width), "x")
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) == 6


@pytest.mark.parametrize("key", ["linf 8/255", "a b", "ε", "a_b", '"><x'])
def test_keys_become_ids(key: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]+", identifier(key))


# --- links --------------------------------------------------------------------------------------------------------

GOOD = ["m.html", "a/b.html?x=1:2#y", "../up.html", "https://arxiv.org/abs/1", "HTTP://x.org", "#row", "?sort=a"]
BAD = [
    "javascript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "JAVASCRIPT:x", "data:text/html,x",
    "//evil.org", "/\\evil.org", "\\\\evil.org", "https:\\\\evil.org", "vbscript:x", "file:///etc/passwd", "",
    "\x01javascript:x", "mailto:a@b.c", "a b",
]  # fmt: skip


def test_links_are_relative_or_web() -> None:
    assert [link(address) for address in GOOD] == GOOD
    assert [link(address) for address in BAD] == [None] * len(BAD)


def test_a_point_is_a_link_only_where_its_address_is_one() -> None:
    linked, refused = parsed(scatter(link="m.html")), parsed(scatter(link="javascript:alert(1)"))
    assert linked.get("role") == "group"  # an image would hide the links
    assert {node.get("href") for node in linked.iter("a")} == {"m.html"}
    assert all(node.get("aria-label") for node in linked.iter("a"))
    assert refused.get("role") == "img"
    assert not list(refused.iter("a"))


# --- axes ---------------------------------------------------------------------------------------------------------

ends = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(ends, st.integers(2, 12))
def test_ticks_are_round_even_and_inside(pair: tuple[float, float], count: int) -> None:
    low, high = pair
    values = ticks(low, high, count)
    assert 1 <= len(values) <= count
    slack = 1e-6 * (high - low)
    assert all(low - slack <= value <= high + slack for value in values)
    if len(values) > 1:
        step = (values[-1] - values[0]) / (len(values) - 1)
        assert all(b - a == pytest.approx(step) for a, b in itertools.pairwise(values))
        power = 10 ** math.floor(math.log10(step) + 1e-6)
        assert step / power == pytest.approx(round(step / power), abs=1e-4)
        assert round(step / power) in (1, 2, 5)
        turns = [value / (round(step / power) * power) for value in values]
        assert turns == pytest.approx([round(turn) for turn in turns], abs=1e-4)


@given(st.floats(-20, 20), st.floats(0.05, 30), st.integers(2, 12))
def test_log_ticks_are_inside_and_ascend(exponent: float, decades: float, count: int) -> None:
    low, high = 10**exponent, 10 ** (exponent + decades)
    values = log_ticks(low, high, count)
    assert len(values) <= count
    assert values == sorted(set(values))
    assert all(low * (1 - 1e-6) <= value <= high * (1 + 1e-6) for value in values)


def test_ticks_as_one_would_set_them() -> None:
    assert ticks(0, 1, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert log_ticks(0.1, 100, 6) == [0.1, 1, 10, 100]
    assert log_ticks(1, 60, 6) == [1, 2, 5, 10, 20, 50]
    assert Scale(Axis("", 0, 1, percent=True), 0, 100).marks(6)[-1] == (1.0, "100 %")
    assert Scale(Axis("x", -0.5, 0.5), 0, 100).marks(3)[0][1] == "−0.5"
    assert [name for _, name in Scale(Axis("x", 0, 4e6), 0, 100).marks(5)] == ["0", "1M", "2M", "3M", "4M"]
    assert [name for _, name in Scale(Axis("x", 1e6, 1e6 + 4), 0, 100).marks(3)] == ["1000000", "1000002", "1000004"]
    assert [name for _, name in Scale(Axis("x", 0, 3, whole=True), 0, 100).marks(9)] == ["0", "1", "2", "3"]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20), st.booleans())
def test_open_ends_embrace_the_data(values: list[float], log: bool) -> None:
    scale = Scale(Axis("x", log=log).over(values), 10, 110)
    assert all(scale.holds(value) and 10 <= scale(value) <= 110 for value in values)


@pytest.mark.parametrize("log", [False, True])
def test_ends_of_the_axes_land_on_the_frame(log: bool) -> None:
    frame = Frame.fit(Axis("x", 2, 50, log=log), Axis("y", 0, 1), width=640, height=400)
    assert (frame.x(2), frame.x(50)) == pytest.approx((frame.left, frame.right))
    assert (frame.y(0), frame.y(1)) == pytest.approx((frame.bottom, frame.top))
    assert frame.bottom > frame.top
    points = [Point(2, 0, "low"), Point(50, 1, "high")]
    axes = Axis("x", 2, 50, log=log), Axis("y", 0, 1)
    root = parsed(charts.scatter(points, *axes, key="k", title="t", description="d", width=640, height=400))
    starts = {re.match(r"M([\d.]+) ([\d.]+)", node.get("d", "")).groups() for node in with_class(root, "mark")}  # type: ignore[union-attr]
    assert {(float(x), float(y)) for x, y in starts} == {
        (round(frame.left, 1), round(frame.bottom, 1)),
        (round(frame.right, 1), round(frame.top, 1)),
    }


# --- scatter ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25),
    st.sampled_from(["left", "right"]),
    st.sampled_from(["up", "down"]),
)
def test_the_frontier_is_what_nothing_dominates(values: list[tuple[int, int]], across: str, along: str) -> None:
    sign = (1 if across == "right" else -1), (1 if along == "up" else -1)

    def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
        gains = [s * (p - q) for s, p, q in zip(sign, a, b, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    better: Better = (across, along)  # type: ignore[assignment]
    found = charts.frontier(values, better)
    assert set(found) == {i for i, value in enumerate(values) if not any(dominates(o, value) for o in values)}
    assert [values[i][0] for i in found] == sorted(values[i][0] for i in found)


def test_names_stand_at_the_frontier_and_at_emphasised_points_alone() -> None:
    points = [Point(0.9, 0.4, "good"), Point(0.8, 0.3, "beaten"), Point(0.7, 0.2, "ours", emphasised=True)]
    points.append(Point(0.95, 0.9, "unranked", eligible=False))
    root = parsed(charts.scatter(points, CLEAN, ROBUST, key="k", title="t", description="d"))
    assert {"good", "ours"} <= set(words(root))
    assert not {"beaten", "unranked"} & set(words(root))
    tips = [node.text or "" for node in root.iter("title")]
    assert any(tip == "beaten · Clean accuracy 80 % · Robust accuracy 30 %" for tip in tips)
    assert len(with_class(root, "hollow")) == 2  # the point and its entry in the legend


def test_the_frontier_runs_along_what_can_be_had() -> None:
    """With less time, less robustness: from the first model the line goes right, then up to the next."""
    points = [Point(1, 0.3, "fast"), Point(10, 0.5, "slow")]
    axes = Axis("hours", 1, 10), Axis("robust", 0, 1)
    kept = {"key": "k", "title": "t", "description": "d", "width": 640, "height": 400}
    root = parsed(charts.scatter(points, *axes, better=("left", "up"), **kept))  # type: ignore[arg-type]
    path = with_class(root, "frontier")[0].get("d", "")
    frame = Frame.fit(*axes, width=640, height=400)
    numbers = [float(each) for each in re.findall(r"[\d.]+", path)]
    expected = [frame.right, frame.y(0.5), frame.right, frame.y(0.3), frame.left, frame.bottom]
    assert numbers == pytest.approx(expected, abs=0.06)


def test_what_is_not_shown_is_counted() -> None:
    points = [Point(0.5, 0.5, "in"), Point(0.05, 0.5, "out"), Point(math.nan, 0.5, "unknown")]
    root = parsed(charts.scatter(points, Axis("x", 0.1, 1), ROBUST, key="k", title="t", description="d"))
    assert "2 not shown: outside the axes or without a value" in words(root)


def crowd(n: int) -> Markup:
    points = [
        Point(
            0.6 + (i * 7919 % 10007) / 40028,
            0.2 + (i * 104729 % 9973) / 29919,
            f"model {i}",
            f"m/{i}.html",
            f"family {i % 9}",
            (0.5, 0.6),
        )
        for i in range(n)
    ]
    return charts.scatter(points, CLEAN, ROBUST, key="crowd", title="t", description="d")


def test_ten_thousand_points_stay_small_and_named() -> None:
    svg = crowd(10_000)
    assert len(svg.encode()) < 300_000
    root = parsed(svg)
    assert any(label.startswith("model ") for label in words(root))
    assert len(list(root.iter("marker"))) == 9
    assert {node.get("href", "")[:2] for node in root.iter("a")} == {"m/"}


def test_three_hundred_points_keep_their_tooltips() -> None:
    svg = crowd(300)
    assert len(svg) < 150_000
    assert sum(1 for _ in parsed(svg).iter("a")) == 300


@given(st.lists(st.tuples(st.floats(0, 600), st.floats(0, 300)), max_size=30))
def test_names_never_cover_each_other(places: list[tuple[float, float]]) -> None:
    placer = Placer((0, 0, 600, 300), places)
    found = [placer.place(Label("model name", x, y)) for x, y in places]
    boxes = [place.box for place in found if place is not None]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_groups_differ_in_shape_and_colour() -> None:
    pairs = [(turn % len(SHAPES), turn % 6) for turn in range(42)]
    assert len(set(pairs)) == 42


# --- lines, bars, waterfall, heatmap -----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), max_size=6).map(sorted))
def test_labels_at_line_ends_stand_apart(wanted: list[float]) -> None:
    places = spread(wanted, 15.0, 0.0, 100.0)
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(places))
    assert all(-1e-9 <= place <= 100 for place in places)


def test_lines_are_named_beside_or_below() -> None:
    wide, narrow = parsed(lines("validation, clean")), parsed(lines("validation, clean", width=340))
    assert "b" in words(wide)
    assert "b" in words(narrow)
    assert len(with_class(wide, "dashed")) == 1
    assert len(with_class(narrow, "dashed")) == 2  # in the legend too
    assert len(with_class(wide, "gap")) == 2  # the area and its entry in the legend
    assert len(with_class(wide, "area")) == 1


def test_a_line_reaches_from_side_to_side() -> None:
    root = parsed(
        charts.lines([Line("l", ((1, 0.2), (9, 0.8)))], Axis("x"), ROBUST, key="k", title="t", description="d")
    )
    xs = [float(x) for x in re.findall(r"([\d.]+) [\d.]+", with_class(root, "line")[0].get("d", ""))]
    base = with_class(root, "rule")[0].get("d", "")
    assert re.fullmatch(rf"M{xs[0]:g} [\d.]+H{xs[1]:g}", base)


def test_custom_ticks_are_named_by_the_caller() -> None:
    radii = (0.0, 2 / 255, 8 / 255)
    x = Axis("ε", ticks=radii, names=("0", "2/255", "8/255"))
    series = [Line("autoattack", tuple((radius, 0.8 - 10 * radius) for radius in radii))]
    root = parsed(charts.lines(series, x, ROBUST, key="k", title="t", description="d"))
    assert {"0", "2/255", "8/255"} <= set(words(root))


def test_a_waterfall_says_what_each_step_took() -> None:
    root = parsed(waterfall("apgd-ce"))
    assert words(root).count("57.1 %") == 2
    assert {"84.2 %", "−27.1", "0.0", "60.0 %", "−24.2"} <= set(words(root))
    kept = [float(node.get("width", "0")) for node in with_class(root, "bar")]
    lost = [float(node.get("width", "0")) for node in with_class(root, "lost")]
    assert len(lost) == 2  # square took nothing
    assert kept[1] + lost[0] == pytest.approx(kept[0], abs=0.2)
    assert kept[1] / kept[0] == pytest.approx(0.571 / 0.842, abs=0.001)


def test_bars_are_as_long_as_their_values() -> None:
    root = parsed(bars("clean"))
    long, half, other = (float(node.get("width", "0")) for node in with_class(root, "bar") if node.get("width") != "8")
    assert half == pytest.approx(long / 2, abs=0.1)
    assert other == pytest.approx(long * 0.5 / 0.8, abs=0.1)
    assert {"80.0", "40.0", "50.0"} <= set(words(root))


def test_a_heatmap_shows_shares_of_rows() -> None:
    root = parsed(heatmap("bird"))
    assert [label for label in words(root) if label.isdigit()][:4] == ["90", "10", "25", "75"]
    tips = [node.text for node in root.iter("title")]
    assert "cat taken for bird · 25 of 100 (25.0 %)" in tips
    assert with_class(root, "right")[0].get("d", "").count("M") == 3


def test_a_hundred_classes_stay_small() -> None:
    counts = [[100 if true == taken else (true * taken) % 3 for taken in range(100)] for true in range(100)]
    names = [f"class {index}" for index in range(100)]
    svg = charts.heatmap(counts, names, key="k", title="t", description="d")
    assert len(svg) < 300_000
    tips = [node.text or "" for node in parsed(svg).iter("title")]
    assert any(tip.startswith("class 7 taken for: class 7 ") for tip in tips)


# --- colours ------------------------------------------------------------------------------------------------------

RGB = tuple[float, float, float]
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "trichromat": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanope": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranope": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanope": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def linear(colour: str) -> RGB:
    """sRGB as `#rgb` or `#rrggbb` to linear light."""
    digits = colour.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def luminance(colour: RGB) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def contrast(one: RGB, other: RGB) -> float:
    """WCAG 2.2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: RGB) -> RGB:
    """CIELAB under D65."""
    red, green, blue = colour
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in (x, luminance(colour), z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out_from_their_paper(palette: dict[str, str]) -> None:
    paper = linear(palette["paper"])
    for name in ("c1", "c2", "c3", "c4", "c5", "c6"):
        assert contrast(linear(palette[name]), paper) >= 3, name
    for name in ("ink", "soft", "link", "warn"):
        assert contrast(linear(palette[name]), paper) >= 4.5, name
        assert contrast(linear(palette[name]), linear(palette["wash"])) >= 4.5, name


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_series_differ_for_every_kind_of_colour_vision(palette: dict[str, str], vision: str) -> None:
    seen = []
    for turn in range(1, 7):
        colour = linear(palette[f"c{turn}"])
        red, green, blue = (
            min(1.0, max(0.0, sum(a * b for a, b in zip(row, colour, strict=True)))) for row in VISION[vision]
        )
        seen.append(lab((red, green, blue)))
    assert min(math.dist(a, b) for a, b in itertools.combinations(seen, 2)) > 12


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_in_the_fullest_cell_can_be_read(palette: dict[str, str]) -> None:
    def parts(colour: str) -> list[int]:
        digits = colour.removeprefix("#")
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        return [int(digits[at : at + 2], 16) for at in (0, 2, 4)]

    pairs = zip(parts(palette["c1"]), parts(palette["paper"]), strict=True)
    mixed = "#" + "".join(f"{round(READABLE * hue + (1 - READABLE) * paper):02x}" for hue, paper in pairs)
    assert contrast(linear(mixed), linear(palette["ink"])) >= 4.5


def test_pages_use_the_colours_of_the_figures() -> None:
    sheet = (Path(charts.__file__).parents[1] / "templates" / "page.css").read_text(encoding="utf-8")
    roots = re.findall(r":root\s*\{([^}]*)\}", sheet)
    for root, palette in zip(roots[:2], (LIGHT, DARK), strict=False):
        declared = dict(re.findall(r"--(\w+):\s*(#\w+)", root))
        assert {name: palette[name] for name in declared if name in palette} == {
            name: colour for name, colour in declared.items() if name in palette
        }


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no `chromium` on PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(scheme: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    drawn = [
        charts.fitted(lambda key, width, draw=draw: draw(key=key, width=width), kind) for kind, draw in FIGURES.items()
    ]
    figures = Markup("").join(drawn) + charts.fitted(
        lambda key, width: scatter(key=key, link="m.html", width=width), "linked"
    )
    styles = (
        f"<style>{charts.TOKENS_CSS}{charts.CHART_CSS} body {{ background: var(--paper); color: var(--ink) }}</style>"
    )
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    page_head = f'<!doctype html><html lang="en"><head><title>Figures</title>{policy}{styles}</head>'
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_context(color_scheme=scheme, bypass_csp=True).new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.set_content(f"{page_head}<body><main><h1>Figures</h1>{figures}</main></body></html>")
        found = axe.Axe().run(page).response["violations"]
        assert not [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        page.set_viewport_size({"width": 375, "height": 800})
        shown = page.locator("svg.chart").evaluate_all(
            "all => all.filter(svg => svg.getBoundingClientRect().width > 0).map(svg => svg.getAttribute('width'))"
        )
        assert shown == [str(charts.NARROW)] * 6
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert not complaints
        browser.close()
