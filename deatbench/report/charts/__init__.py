"""Figures: plain data in, deterministic SVG out, coloured through CSS variables in light and dark."""

from deatbench.report.charts.axes import Axis
from deatbench.report.charts.bars import BarRow, bars
from deatbench.report.charts.heatmap import heatmap
from deatbench.report.charts.lines import Gap, Line, Moment, lines
from deatbench.report.charts.scatter import Point, frontier, scatter
from deatbench.report.charts.style import CHART_CSS, DARK, LIGHT, TOKENS_CSS, standalone
from deatbench.report.charts.svg import NARROW, WIDE, fitted
from deatbench.report.charts.waterfall import Step, waterfall

__all__ = [
    "CHART_CSS",
    "DARK",
    "LIGHT",
    "NARROW",
    "TOKENS_CSS",
    "WIDE",
    "Axis",
    "BarRow",
    "Gap",
    "Line",
    "Moment",
    "Point",
    "Step",
    "bars",
    "fitted",
    "frontier",
    "heatmap",
    "lines",
    "scatter",
    "standalone",
    "waterfall",
]
