"""The colours of every figure, for light and for dark paper, and the little CSS that figures need."""

from __future__ import annotations

import re
from types import MappingProxyType

# The series colours are Okabe and Ito's (2008), moved in lightness until each has 3:1 against its paper.
LIGHT = MappingProxyType(
    {
        "paper": "#fff",
        "ink": "#1b1d20",
        "soft": "#5d636b",
        "line": "#e4e6e9",
        "wash": "#f5f6f7",
        "link": "#0a58a8",
        "warn": "#9c3d00",
        "c1": "#0072b2",
        "c2": "#d55e00",
        "c3": "#00935f",
        "c4": "#a1457a",
        "c5": "#664500",
        "c6": "#1b1d20",
    }
)
DARK = MappingProxyType(
    {
        "paper": "#141619",
        "ink": "#e4e6e8",
        "soft": "#9aa1a9",
        "line": "#2b2f34",
        "wash": "#1d2024",
        "link": "#7db6f2",
        "warn": "#f0a36b",
        "c1": "#4fa8e4",
        "c2": "#f0703a",
        "c3": "#2fd69a",
        "c4": "#cc6e9a",
        "c5": "#f0d24a",
        "c6": "#e4e6e8",
    }
)
SERIES = 6
MARGIN = 12  # px around a figure that stands alone


def _declared(palette: MappingProxyType[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in palette.items())


TOKENS_CSS = (
    f":root {{ color-scheme: light dark; {_declared(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_declared(DARK)} }} }}\n"
)
"""The palette as CSS variables: what a page, or a figure standing alone, declares once."""


def _of(name: str) -> str:
    return f"var(--{name}, {LIGHT[name]})"


FONT = 'system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif'
_SERIES_CSS = "\n".join(f".chart .c{turn} {{ --c: {_of(f'c{turn}')}; }}" for turn in range(1, SERIES + 1))

CHART_CSS = f"""
.chart {{ display: block; max-width: 100%; height: auto; overflow: visible; }}
.chart text {{ fill: {_of("ink")}; font: 12px {FONT}; font-variant-numeric: tabular-nums; }}
.chart .soft {{ fill: {_of("soft")}; }}
.chart .warn {{ fill: {_of("warn")}; }}
.chart .strong {{ font-weight: 600; }}
.chart .end {{ text-anchor: end; }}
.chart .middle {{ text-anchor: middle; }}
.chart .halo {{ paint-order: stroke; stroke: {_of("paper")}; stroke-width: 3px; stroke-linejoin: round; }}
.chart .grid {{ fill: none; stroke: {_of("line")}; stroke-width: 1px; }}
.chart .rule {{ fill: none; stroke: {_of("soft")}; stroke-width: 1px; }}
.chart .dotted {{ stroke-dasharray: 2 3; }}
.chart .thin {{ fill: none; stroke: var(--c); stroke-width: 1px; stroke-opacity: .5; }}
.chart .mark {{ fill: var(--c); stroke: {_of("paper")}; stroke-width: 1px; }}
.chart .crowd {{ fill-opacity: .6; stroke-width: .5px; }}
.chart .hollow {{ fill: {_of("paper")}; stroke: var(--c); stroke-width: 1.5px; }}
.chart .ring {{ fill: none; stroke: {_of("ink")}; stroke-width: 1.5px; }}
.chart .line {{ fill: none; stroke: var(--c); stroke-width: 1.8px; stroke-linejoin: round; }}
.chart .dashed {{ stroke-dasharray: 5 3; stroke-width: 1.4px; }}
.chart .area {{ fill: var(--c); fill-opacity: .15; }}
.chart .gap {{ fill: {_of("warn")}; fill-opacity: .12; }}
.chart .bar {{ fill: var(--c); }}
.chart .lost {{ fill: {_of("warn")}; fill-opacity: .3; }}
.chart .span {{ fill: none; stroke: {_of("ink")}; stroke-width: 1px; }}
.chart .cell {{ fill: {_of("c1")}; }}
.chart .right {{ fill: none; stroke: {_of("ink")}; stroke-width: 1px; }}
.chart a {{ cursor: pointer; }}
.chart a:hover text, .chart a:focus-visible text {{ text-decoration: underline; }}
.chart a:focus-visible {{ outline: 2px solid {_of("link")}; outline-offset: 2px; }}
{_SERIES_CSS}
.fitted {{ width: 100%; container-type: inline-size; }}
.fitted > .narrow {{ display: none; }}
@container (max-width: 519px) {{ .fitted > .wide {{ display: none; }} .fitted > .narrow {{ display: block; }} }}
"""
"""What pages put inline beside their own style sheet. It colours through variables and falls back to light paper."""


def standalone(svg: str) -> str:
    """A figure of this package as a file of its own: in the reader's colour scheme, on paper with a margin."""
    head, _, body = str(svg).partition(">")
    size = re.search(r'viewBox="0 0 (\d+) (\d+)" width="\d+" height="\d+"', head)
    assert size is not None, "a figure of this package has whole numbers for its size"
    wide, high = int(size[1]) + 2 * MARGIN, int(size[2]) + 2 * MARGIN
    around = f'viewBox="-{MARGIN} -{MARGIN} {wide} {high}" width="{wide}" height="{high}"'
    head = head.replace(size[0], f'xmlns="http://www.w3.org/2000/svg" {around}')
    return f"{head}><style>{TOKENS_CSS}{CHART_CSS}.chart {{ background: var(--paper); }}</style>{body}\n"
