"""The pages of a sweep: which report it asks for, and that report as HTML, Markdown, figures and data."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from deatbench.errors import ConfigError
from deatbench.report.charts import CHART_CSS
from deatbench.report.rendering import render
from deatbench.report.sweeps.axes import axes_report
from deatbench.report.sweeps.coverage import in_a_line, measured_section, missing_section
from deatbench.report.sweeps.document import Report
from deatbench.report.sweeps.grids import grid_report
from deatbench.report.sweeps.ratios import ratio_report
from deatbench.report.sweeps.reading import Swept
from deatbench.report.sweeps.table2 import table2_report
from deatbench.report.sweeps.variants import variant_report

FOLDER = "sweeps"
KINDS: Mapping[str, Callable[[Swept], Report]] = {
    "table2": table2_report,
    "k1k2": grid_report,
    "lr-batch": ratio_report,
    "mechanism": variant_report,
}


def sweep_pages(sweeps: Iterable[Swept]) -> dict[str, str]:
    """The pages of all sweeps, by path below leaderboards/. Raises ConfigError if two would write one file."""
    pages: dict[str, str] = {}
    for sweep in sweeps:
        made = report_pages(sweep)
        if taken := sorted(pages.keys() & made.keys()):
            raise ConfigError(f"two sweeps make {taken[0]}", "rename the folder of one")
        pages |= made
    return pages


def report_pages(sweep: Swept) -> dict[str, str]:
    """`sweeps/<name>.html`, its Markdown twin, the figures of both and their data, by path below leaderboards/."""
    report = report_of(sweep)
    stem = f"{FOLDER}/{sweep.name}"
    context: dict[str, Any] = {
        "sweep": sweep,
        "title": title_of(sweep),
        "standing": in_a_line(sweep),
        "report": report,
        "commands": commands_of(sweep),
    }
    pages = {
        f"{stem}.html": render("sweep.html", styles=("sweep.css",), chart_style=Markup(CHART_CSS), **context),
        f"{stem}.md": render("sweep.md", **context),
    }
    for section in report.sections:
        pages |= {f"{stem}-{figure.name}.svg": figure.svg for figure in section.figures}
        pages |= {f"{stem}-{data.name}.csv": data.text for data in section.data}
    return pages


def report_of(sweep: Swept) -> Report:
    """The report that the sweep's file asks for, else a table per axis; at its end what is missing and the protocol."""
    report = _found(sweep)
    closing = (missing_section(sweep), measured_section(sweep)) if sweep.results else (missing_section(sweep),)
    findings = (*_partial(sweep), *_unknown(sweep), *report.findings)
    return replace(report, findings=findings, sections=(*report.sections, *closing))


def headline(sweep: Swept) -> str:
    """One sentence for a list of sweeps: the first claim with what came of it, or the first finding."""
    report = _found(sweep)
    partial = "Preliminary. " if _partial(sweep) else ""
    if report.claims:
        first = report.claims[0]
        return f"{partial}{first.claim}: {first.here[:1].lower()}{first.here[1:]}"
    return f"{partial}{report.findings[0]}" if report.findings else in_a_line(sweep)


def _found(sweep: Swept) -> Report:
    """What the sweep's own kind of report makes of its results."""
    if not sweep.results:
        return Report(findings=("No run is finished: there is nothing to report.",))
    return KINDS.get(sweep.kind or "", axes_report)(sweep)


def title_of(sweep: Swept) -> str:
    """What the page is called."""
    return f"Sweep {sweep.name}"


def commands_of(sweep: Swept) -> tuple[str, str]:
    """What makes the results and the page: a sweep that ships is named alone, another by its file."""
    ships = (files("deatbench") / "sweeps" / f"{sweep.name}.yaml").is_file()
    asked = sweep.name if ships else f"{sweep.name}.yaml"
    return f"deatbench sweep {shlex.quote(asked)}", f"deatbench report {shlex.quote(f'sweeps/{sweep.name}')}"


def _unknown(sweep: Swept) -> tuple[str, ...]:
    if sweep.kind is None or sweep.kind in KINDS:
        return ()
    return (f"The sweep asks for a report that deatbench does not know, {sweep.kind}: here is a table per axis.",)


def _partial(sweep: Swept) -> tuple[str, ...]:
    if not sweep.planned or not sweep.results or not sweep.missing:
        return ()
    return (f"Preliminary: {len(sweep.missing):,} of {len(sweep.planned):,} planned runs are missing (named below).",)
