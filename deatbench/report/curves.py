"""Training curves as a figure: a panel per quantity, a colour and a mark per curve, readable without colours too.

The same runs give the same bytes: no date, no random ids, no settings of the machine's matplotlib.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from deatbench.errors import ConfigError
from deatbench.report.histories import Curve, common_title
from deatbench.report.panels import Panel, series_of

# Okabe and Ito (2008), without yellow, which paper swallows; neighbours differ in lightness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#D55E00")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")
GREY = "#555555"
STAR: dict[str, Any] = {
    "linestyle": "",
    "marker": "*",
    "markersize": 8.5,
    "markeredgecolor": "black",
    "markeredgewidth": 0.6,
    "zorder": 5,
}
NO_DATE = {"svg": {"Date": None, "Creator": "deatbench"}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
STYLE: Any = {
    "font.size": 8.0,
    "text.parse_math": False,  # a name may hold a $
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.dashed_pattern": (3.2, 1.6),
    "savefig.dpi": 200,
    "svg.hashsalt": "deatbench",
    "pdf.fonttype": 42,
}


def draw(curves: Sequence[Curve], panels: Sequence[Panel], format: str) -> bytes:
    """The figure as "svg", "png" or "pdf". Raises ConfigError if one of the panels stays empty."""
    for panel in panels:
        if not any(series_of(curve, field).epochs for curve in curves for field in panel.fields):
            raise ConfigError(f"no run has measured {panel.field}", "choose other panels with --metric")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        buffer = io.BytesIO()
        figure_of(curves, panels).savefig(buffer, format=format, metadata=NO_DATE[format])
    return buffer.getvalue()


def figure_of(curves: Sequence[Curve], panels: Sequence[Panel]) -> Figure:
    """The figure: axes in the order of `panels`, up to three beside each other."""
    across = 3 if len(panels) in (3, 5, 6) else min(len(panels), 2)
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    heights = [1.0 if any(panel.share for panel in row) else 0.6 for row in rows]
    width = {1: 4.2, 2: 7.0, 3: 9.0}[across]
    figure = Figure(figsize=(width, 2.45 * sum(heights) + 0.75), layout="constrained")
    grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(index, across)])
        for turn, curve in enumerate(curves):
            _draw_curve(axes, curve, panel, turn, marked=len(curves) > 1)
        _dress(axes, panel, last=max(curve.common_epochs() for curve in curves), below=index + across >= len(panels))
    _legends(figure, curves, panels, across)
    return figure


def _draw_curve(axes: Axes, curve: Curve, panel: Panel, turn: int, *, marked: bool) -> None:
    colour, mark = COLOURS[turn % len(COLOURS)], MARKS[turn % len(MARKS)]
    for field in panel.fields:
        series = series_of(curve, field, 100.0 if panel.share else 1.0)
        training = field == panel.training
        count = len(series.epochs)
        gap = max(1, math.ceil(count / 8))
        axes.plot(
            series.epochs,
            series.means,
            color=colour,
            linestyle="--" if training else "-",
            linewidth=1.0 if training else 1.4,
            marker=mark if marked or count == 1 else "",
            markersize=3.6,
            markerfacecolor="white" if training else colour,
            markeredgewidth=0.9,
            markevery=((turn * gap // 3) % gap, gap),  # the marks of several curves stand apart
        )
        if len(curve.runs) > 1:
            low = [mean - spread for mean, spread in zip(series.means, series.spreads, strict=True)]
            high = [mean + spread for mean, spread in zip(series.means, series.spreads, strict=True)]
            axes.fill_between(series.epochs, low, high, color=colour, alpha=0.1 if training else 0.2, linewidth=0)
    for epoch, value in _best_points(curve, panel):
        axes.plot([epoch], [value], color=colour, **STAR)


def _best_points(curve: Curve, panel: Panel) -> list[tuple[int, float]]:
    """Each run's own best epoch and what it reached there on validation images."""
    best = [each for run in curve.runs for each in run.epochs if each.epoch == run.best_epoch]
    points = ((each.epoch, getattr(each, panel.field)) for each in best if panel.training is not None)
    return [(epoch, 100.0 * value) for epoch, value in points if value is not None]


def _dress(axes: Axes, panel: Panel, last: int, *, below: bool) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_xlim(0, max(1.02 * last, 2))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6 if panel.share else 4, steps=[1, 2, 5, 10]))
    if below:
        axes.set_xlabel("Epoch")
    low, high = axes.get_ylim()
    if panel.share:  # at least ten points high, so that noise does not look like a fall; never far beyond 0 to 100
        middle, half = (low + high) / 2, max((high - low) / 2, 5.0)
        axes.set_ylim(max(middle - half, -2.0), min(middle + half, 102.0))
    elif panel.field != "loss":
        axes.set_ylim(bottom=0)


def _legends(figure: Figure, curves: Sequence[Curve], panels: Sequence[Panel], across: int) -> None:
    """Above: what all share, and which curve is which. Below: what lines, marks and bands mean."""
    histories = [run for curve in curves for run in curve.runs]
    title = common_title(histories)
    if len(curves) == 1:
        title = " · ".join(filter(None, (title, _seeds(curves[0]))))
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
    else:
        handles = [
            Line2D([], [], color=COLOURS[turn % len(COLOURS)], marker=MARKS[turn % len(MARKS)], markersize=4)
            for turn in range(len(curves))
        ]
        labels = [curve.label for curve in curves]
        figure.legend(
            handles,
            labels,
            title=title,
            title_fontproperties={"size": 9, "weight": "bold"},
            alignment="left",
            loc="outside upper left",
            ncols=_columns(labels, across),
            handlelength=2.6,
        )
    keys = _keys(curves, panels)
    if keys:
        figure.legend(
            [handle for handle, _ in keys],
            [words for _, words in keys],
            loc="outside lower left",
            ncols=len(keys) if across > 1 else 2,
            handlelength=2.6,
            labelcolor=GREY,
        )


def _keys(curves: Sequence[Curve], panels: Sequence[Panel]) -> list[tuple[Line2D | Patch, str]]:
    keys: list[tuple[Line2D | Patch, str]] = []
    pairs = [panel for panel in panels if panel.training is not None]
    validated = any(series_of(curve, panel.field).epochs for curve in curves for panel in pairs)
    marked = len(curves) > 1 or curves[0].common_epochs() == 1
    dot: dict[str, Any] = {"color": GREY, "marker": MARKS[0] if marked else "", "markersize": 3.6}
    if validated:
        keys.append((Line2D([], [], **dot), "validation"))
    if pairs:
        keys.append((Line2D([], [], linestyle="--", linewidth=1.0, markerfacecolor="white", **dot), "training images"))
    if validated and any(run.best_epoch is not None for curve in curves for run in curve.runs):
        keys.append((Line2D([], [], color=GREY, **STAR), "best epoch"))
    if any(len(curve.runs) > 1 for curve in curves):
        keys.append((Patch(color=GREY, alpha=0.25, linewidth=0), "mean ± standard deviation over seeds"))
    return keys


def _columns(labels: Sequence[str], across: int) -> int:
    """As many legend columns as fit beside each other, at about 6 points a character."""
    longest = max(len(label) for label in labels) + 7
    return max(1, min(len(labels), {1: 50, 2: 90, 3: 120}[across] // longest))


def _seeds(curve: Curve) -> str:
    seeds = [str(run.config["seed"]) for run in curve.runs if isinstance(run.config.get("seed"), int)]
    if len(curve.runs) > 1:
        return f"{len(curve.runs)} seeds"
    return f"seed {seeds[0]}" if seeds else ""
