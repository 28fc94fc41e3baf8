"""`deatbench report`: the pages of a sweep, from its results alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import rich_click as click

from deatbench.cli import options


@click.command()
@click.argument("folder", metavar="SWEEP_DIR", type=click.Path(path_type=Path))
@options.home
@options.as_json
def report(folder: Path, home: Path, as_json: bool) -> None:
    """Write the report of a sweep: tables, figures, tests, what holds and what does not, in words.

    SWEEP_DIR is <home>/sweeps/<name>, or its results.jsonl; the sweep may still be running, or have failed in part:
    what is missing is named. Which report it is says the sweep's file (`report: table2`, k1k2, lr-batch, mechanism);
    without that it is a table per axis.

    Writes leaderboards/sweeps/<name>.html and .md with their figures (.svg) and the data behind each (.csv); prints
    their paths. The same results give the same bytes.

    \b
    Examples:
      deatbench report sweeps/deat-k1k2-digits
      deatbench report sweeps/mine --home ~/robustness
      deatbench report /scratch/me/sweeps/mine/results.jsonl --json
    """
    from deatbench.report.sweeps.page import report_pages
    from deatbench.report.sweeps.reading import read_sweep
    from deatbench.store import Home, atomic_write_text

    sweep = read_sweep(folder.expanduser().resolve())
    at = Home(home.expanduser()).leaderboards
    pages = {at / name: text for name, text in report_pages(sweep).items()}
    for path, text in pages.items():
        if not (path.is_file() and path.read_bytes() == text.encode()):
            atomic_write_text(path, text)
    if as_json:
        summary = {
            "sweep": sweep.name,
            "runs": len(sweep.results),
            "missing": sweep.missing,
            "failed": dict(sweep.failed),
        }
        print(json.dumps(summary | {"written": [str(path) for path in pages]}, indent=1))
        return
    for path in pages:
        print(path)
    if sweep.missing:
        print(f"note: {len(sweep.missing):,} of {len(sweep.planned):,} planned runs are missing", file=sys.stderr)
