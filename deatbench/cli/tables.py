"""Results as tables on stdout: drawn on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deatbench.records import unpack_bits

if TYPE_CHECKING:
    from deatbench.records import EvaluationRecord, Metric, TrainingRecord
    from deatbench.report.model.zoo import ZooModel

PIPE_WIDTH = 10_000  # nobody reads a pipe at 80 columns: never wrap or cut there
TITLES = {"clean_acc": "clean", "worst_case_acc": "worst case"}


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text under their column names."""
    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not terminal)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else PIPE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def print_evaluations(records: Sequence[EvaluationRecord]) -> None:
    """Accuracies in percent with 95 % intervals: in a pipe a line per record, on a terminal a table per model."""
    names = list(dict.fromkeys(name for record in records for name in record.metrics if name != "worst_case_acc"))
    names += ["worst_case_acc"] if any("worst_case_acc" in record.metrics for record in records) else []
    titles = [TITLES.get(name, name) for name in names]
    if sys.stdout.isatty():
        for subject in dict.fromkeys(_subject(record) for record in records):
            print(" · ".join(subject))
            rows = [_row(record, names, "\n") for record in records if _subject(record) == subject]
            print_table(["weights", *titles], rows)
    else:
        rows = [[*_subject(record), *_row(record, names, " ")] for record in records]
        print_table(["model", "threat", "images", "weights", *titles], rows)
    for record in records:
        if record.curve:
            print(f"{record.threat.norm} curve of {record.id}: {curve(record)}")
        for flag in record.flags:
            print(f"flag {flag.code} on {record.id}: {flag.message}")


def curve(record: EvaluationRecord) -> str:
    """Accuracy under the worst attack at each radius, in percent: `2/255 71.3, 4/255 60.0`."""
    shares = ((point.eps_text, unpack_bits(point.robust, record.samples.n).mean()) for point in record.curve)
    return ", ".join(f"{eps} {100 * share:.1f} %" for eps, share in shares)


def _subject(record: EvaluationRecord) -> tuple[str, str, str]:
    threat, n = record.threat, record.dataset.n
    return record.model.name, f"{threat.norm} {threat.eps_text}", f"{n} images" if sys.stdout.isatty() else str(n)


def _row(record: EvaluationRecord, names: Sequence[str], between: str) -> list[str]:
    weights = record.training.checkpoint if record.training else "-"
    return [weights, *(accuracy(record.metrics.get(name), between) for name in names)]


def accuracy(metric: Metric | None, between: str = " ") -> str:
    """`61.1 % [56.0, 66.0]`, or a dash where nothing was measured."""
    if metric is None:
        return "-"
    low, high = (100 * end for end in metric.ci95)
    return f"{100 * metric.value:.1f} %{between}[{low:.1f}, {high:.1f}]"


def print_trainings(records: Sequence[TrainingRecord]) -> None:
    """One line per run and kept checkpoint: accuracy on the validation images."""
    rows = []
    for record in records:
        for kept, at in (("best", record.best), ("last", record.final)):
            measured = share(at.val_clean_acc), share(at.val_robust_acc)
            rows.append([record.id, kept, str(at.epoch), f"{at.loss:.3f}", *measured])
        for kept in record.weights.keys() - {"best", "last"}:
            average = record.validation.get(kept)
            measured = (share(average.clean_acc), share(average.robust_acc)) if average else ("-", "-")
            rows.append([record.id, kept, str(record.final.epoch), "-", *measured])
    print_table(["run", "weights", "epoch", "loss", "val clean", "val robust"], rows)


def print_models(models: Sequence[ZooModel]) -> None:
    """One line per model of the zoo: what its kept weights withstand, and how large they are."""
    from deatbench.report.escape import plain
    from deatbench.report.standings.runs import AUTOATTACK, CLEAN, WORST_CASE

    rows = [
        [
            model.card.id,
            plain(model.card.dataset),
            f"{model.card.threat.norm} {model.card.threat.eps_text}",
            *(accuracy(model.metrics.get(name)) for name in (WORST_CASE, AUTOATTACK, CLEAN)),
            f"{model.card.training.n_params:,}",
            f"{model.card.weights_bytes / 2**20:.1f} MiB" + ("" if model.has_weights else ", not here"),
        ]
        for model in models
    ]
    print_table(["id", "data set", "threat", "worst case", AUTOATTACK, "clean", "parameters", "weights"], rows)


def share(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"
