"""The columns of a board as data. HTML and Markdown both read this table; a column is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from deatbench.report.escape import plain
from deatbench.report.metrics import Direction, describe
from deatbench.report.rows import Row, Summary
from deatbench.report.runs import AUTOATTACK, WORST_CASE
from deatbench.report.wording import NOTHING, count, duration, interval, percent


@dataclass(frozen=True)
class Cell:
    """What stands in one place of the table.

    `sort` is the value to sort by where the text alone does not do; `note` is set small behind the text;
    `span` is an interval in percent, drawn as a stroke with a dot at its third number.
    """

    text: str = NOTHING
    sort: str = ""
    note: str = ""
    span: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Column:
    """A column: its title, what it means, which way is better, how it is set, and how to read it off a row."""

    key: str
    title: str
    help: str
    direction: Direction
    format: Literal["accuracy", "number", "text", "span"]
    cell: Callable[[Row], Cell]


def flag_words(row: Row) -> str:
    """The flags of a row in words, with the number of runs they concern."""
    words = ", ".join(sorted({plain(flag.code.replace("_", " ")) for flag in row.flags}))
    flagged = sum(bool(run.flags) for run in row.runs)
    return f"{words} ({flagged} of {len(row.runs)} runs)" if flagged < len(row.runs) and flagged else words


def _accuracy(name: str) -> Column:
    metric = describe(name)

    def cell(row: Row) -> Cell:
        summary = row.summary(name)
        if summary is None:
            return Cell()
        notes = [] if summary.spread is None else [f"±{percent(summary.spread)}"]
        ranked_on = row.summary(AUTOATTACK)
        if ranked_on is not None and ranked_on.n != summary.n:  # other images: not to be read against AutoAttack
            notes.append(f"n={summary.n:,}")
        return Cell(percent(summary.mean), f"{100 * summary.mean:.4f}".rstrip("0").rstrip("."), " ".join(notes))

    return Column(name, metric.title, f"{metric.description} In percent.", metric.direction, "accuracy", cell)


def _of_autoattack(read: Callable[[Summary], Cell]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        summary = row.summary(AUTOATTACK)
        return read(summary) if summary else Cell()

    return cell


def _span(summary: Summary) -> Cell:
    low, high = summary.ci95
    return Cell(interval(summary.ci95), span=(100 * low, 100 * high, 100 * summary.mean))


def _text(read: Callable[[Row], str | None]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        text = read(row)
        return Cell(plain(text)) if text else Cell()

    return cell


def _flags(row: Row) -> Cell:
    codes = dict.fromkeys(note.code for note in row.notes)  # each once, though every seed has its own sentence
    words = [flag_words(row), *(f"in training: {plain(code.replace('_', ' '))}" for code in codes)]
    text = "; ".join(word for word in words if word)
    return Cell(text) if text else Cell()


def _rank(row: Row) -> Cell:
    return Cell(str(row.rank)) if row.rank else Cell()


def _width(row: Row) -> str:
    return str(row.model.params.get("width", ""))


def _epochs(row: Row) -> str:
    return str(row.training.epochs) if row.training else ""


def _seeds(row: Row) -> str:
    return ", ".join(str(run.training.seed) for run in row.runs if run.training)


def _time(row: Row) -> Cell:
    seconds = [run.training.seconds for run in row.runs if run.training]
    mean = sum(seconds) / len(seconds) if seconds else 0.0
    return Cell(duration(mean), f"{mean:.0f}") if seconds else Cell()


def _date(row: Row) -> str:
    return max(record.created for run in row.runs for record in run.evaluations)[:10]


def _training(field: str) -> Callable[[Row], Cell]:
    return _text(lambda row: str(getattr(row.training, field)) if row.training else None)


COLUMNS = (
    Column("rank", "Rank", "Place by worst-case accuracy; – where a row is not ranked.", "lower", "number", _rank),
    Column("model", "Model", "The network, one row per configuration.", "none", "text", _text(lambda r: r.label)),
    Column("method", "Method", "How it was trained; – for foreign models.", "none", "text", _training("method")),
    Column("checkpoint", "Ckpt", "best: chosen on the validation split; last: the final epoch.", "none", "text",
           _training("checkpoint")),
    _accuracy(WORST_CASE),
    _accuracy(AUTOATTACK),
    Column(
        "interval",
        "95 % interval",
        "Wilson interval of the AutoAttack accuracy at n images; of several seeds, that of their mean.",
        "none",
        "span",
        _of_autoattack(_span),
    ),
    Column("n", "n", "Test images under AutoAttack; an accuracy on another number says so.", "higher", "number",
           _of_autoattack(lambda summary: Cell(str(summary.n)))),
    _accuracy("cw-20"),
    _accuracy("pgd-20"),
    _accuracy("clean_acc"),
    Column("seeds", "Seeds", "Seeds of the runs behind the row; accuracies are mean ± standard deviation.", "none",
           "text", _text(_seeds)),
    Column("arch", "Arch", "Architecture.", "none", "text", _text(lambda r: r.model.arch)),
    Column("width", "Width", "Width multiplier of the architecture.", "none", "number", _text(_width)),
    Column("params", "Params", "Number of parameters.", "lower", "number",
           lambda r: Cell(count(r.model.n_params), str(r.model.n_params))),
    Column("epochs", "Epochs", "Epochs of training.", "lower", "number", _text(_epochs)),
    Column("optimizer", "Optimizer", "Optimizer of the training run.", "none", "text", _training("optimizer")),
    Column("time", "Training", "Wall-clock time of training, mean over seeds.", "lower", "number", _time),
    Column("hardware", "Hardware", "Machine that trained the model.", "none", "text", _training("hardware")),
    Column("date", "Date", "Day of the latest evaluation (UTC).", "higher", "text", _text(_date)),
    Column("flags", "Flags", "Reasons to doubt a number, and what training went through.", "none", "text", _flags),
)  # fmt: skip
