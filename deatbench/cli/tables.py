"""Results as tables on stdout: drawn on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from deatbench.records import EvaluationRecord, Metric

PIPE_WIDTH = 10_000  # nobody reads a pipe at 80 columns: never wrap or cut there
TITLES = {"clean_acc": "clean", "worst_case_acc": "worst case"}


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print rows of text under their column names."""
    terminal = sys.stdout.isatty()
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not terminal)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else PIPE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def print_evaluations(records: Sequence[EvaluationRecord]) -> None:
    """One line per evaluation: accuracies in percent with their 95 % intervals."""
    names = list(dict.fromkeys(name for record in records for name in record.metrics if name != "worst_case_acc"))
    names += ["worst_case_acc"] if any("worst_case_acc" in record.metrics for record in records) else []
    columns = ["model", "weights", "threat", "images", *(TITLES.get(name, name) for name in names)]
    rows = [
        [
            record.model.name,
            record.training.checkpoint if record.training else "-",
            f"{record.threat.norm} {record.threat.eps_text}",
            str(record.dataset.n),
            *(accuracy(record.metrics.get(name)) for name in names),
        ]
        for record in records
    ]
    print_table(columns, rows)
    for record in records:
        for flag in record.flags:
            sys.stdout.write(f"flag: {record.id}: {flag.code}: {flag.message}\n")


def accuracy(metric: Metric | None) -> str:
    """`61.1 % [56.0, 66.0]`, or a dash where nothing was measured."""
    if metric is None:
        return "-"
    low, high = (100 * end for end in metric.ci95)
    return f"{100 * metric.value:.1f} % [{low:.1f}, {high:.1f}]"
