"""The columns of a board as data: what each means and how it is read off a row. Page and Markdown both read this table.

A column is added here and nowhere else. Columns of accuracies follow from the metrics that a board has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deatbench.records import PublishedResult
from deatbench.report.metrics import Direction, describe, place
from deatbench.report.setups import in_short
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row, Summary
from deatbench.report.standings.runs import AUTOATTACK, CLEAN, PROVISIONAL, WORST_CASE, Run, Tier
from deatbench.report.wording import NOTHING, count, duration, interval, percent

Kind = Literal["band", "name", "accuracy", "amount", "word", "words"]


@dataclass(frozen=True)
class Accuracy:
    """An accuracy as a board shows it; a published one has no interval, no n. `provisional`: an upper bound."""

    mean: float
    ci95: tuple[float, float] | None = None
    n: int = 0
    spread: float | None = None
    provisional: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its title, what it means, which way is better, what kind of value it holds, and where that stands.

    `read` and `quote` give the value in a row and in a published result, None for nothing: "band" a pair of ranks,
    "name" and "word" a text, "words" a list of texts, "accuracy" an Accuracy, "amount" a number that `written` puts
    into words.
    `under`: columns whose texts stand small beneath its own; `usual`: a text that is nothing special; `shown`: without
    being asked for; `filters`: rows can be chosen by it.
    """

    key: str
    title: str
    help: str
    direction: Direction
    kind: Kind
    read: Callable[[Row], Any]
    quote: Callable[[PublishedResult], Any] = lambda result: None
    written: Callable[[float], str] = str
    under: tuple[str, ...] = ()
    usual: str = ""
    shown: bool = False
    filters: bool = False

    def text(self, value: Any) -> str:
        """A value as one line for the Markdown twin."""
        if value is None:
            return NOTHING
        if isinstance(value, Accuracy):
            return accuracy_text(value)
        if self.kind == "band":
            return band_text(value)
        if self.kind == "words":
            return "; ".join(value)
        return str(value) if self.kind in ("name", "word") else self.written(to_tenth(value))


def to_tenth(amount: float) -> float:
    """An amount to a tenth, whole where it is whole: as pages hold it, so that both write the same words."""
    short = round(amount, 1)
    return round(short) if short == round(short) else short


def band_text(band: tuple[int, int]) -> str:
    """Ranks that are not ruled out: `3` or `1–3`."""
    return str(band[0]) if band[0] == band[1] else f"{band[0]}–{band[1]}"


def accuracy_text(accuracy: Accuracy) -> str:
    """`57.1 ±1.2 (52.0–62.1)`, as much of it as is known."""
    parts = [f"≤ {percent(accuracy.mean)}" if accuracy.provisional else percent(accuracy.mean)]
    parts += [] if accuracy.spread is None else [f"±{percent(accuracy.spread)}"]
    parts += [] if accuracy.ci95 is None else [f"({interval(accuracy.ci95)})"]
    return " ".join(parts)


def columns_of(board: Board) -> list[Column]:
    """The columns of a board, in their order."""
    counts = Counter(name for row in board.rows for run in row.runs for name in run.metrics)
    counts.update(result.pgd_attack for result in board.published if result.pgd_attack)
    usual = {WORST_CASE, AUTOATTACK, CLEAN, *_commonest(counts)}
    rest = sorted(counts.keys() - {WORST_CASE, AUTOATTACK, CLEAN, PROVISIONAL}, key=lambda name: (place(name), name))
    shown = [name for name in reversed(rest) if name in usual]
    others = [name for name in reversed(rest) if name not in usual]
    measured = [_accuracy(name, name in usual) for name in (WORST_CASE, AUTOATTACK, *shown, CLEAN, *others)]
    return [*_WHO, *measured, *_HOW]


def _commonest(counts: Mapping[str, int]) -> Iterable[str]:
    """Of PGD and of CW each the attack that most runs have met."""
    for family in ("pgd-", "cw-"):
        names = [name for name in counts if name.startswith(family)]
        if names:
            yield min(names, key=lambda name: (-counts[name], place(name), name))


def accuracy_of(holder: Row | Run, name: str) -> Accuracy | None:
    """An accuracy of a row or of a run; in AutoAttack's place a provisional one where the suite was not finished."""
    for key in (name, PROVISIONAL) if name == AUTOATTACK else (name,):
        found = holder.summary(key) if isinstance(holder, Row) else holder.metrics.get(key)
        if isinstance(found, Summary):
            return Accuracy(found.mean, found.ci95, found.n, found.spread, key == PROVISIONAL)
        if found is not None:
            return Accuracy(found.value, found.ci95, found.n, None, key == PROVISIONAL)
    return None


def _accuracy(name: str, shown: bool) -> Column:
    metric = describe(name)

    def quote(result: PublishedResult) -> Accuracy | None:
        known = {WORST_CASE: result.best_known_acc, AUTOATTACK: result.autoattack_acc, CLEAN: result.clean_acc}
        value = result.pgd_acc if name == result.pgd_attack else known.get(name)
        return None if value is None else Accuracy(value)

    help = f"{metric.description} In percent, with its 95 % interval."
    return Column(
        name, metric.title, help, metric.direction, "accuracy", lambda r: accuracy_of(r, name), quote, shown=shown
    )


def flag_words(row: Row) -> list[str]:
    """The flags of a row and the notes of its training in words, with the number of runs that flags concern."""
    words = sorted({flag.code.replace("_", " ") for flag in row.flags})
    flagged = sum(bool(run.flags) for run in row.runs)
    if words and flagged < len(row.runs):
        words[-1] += f" ({flagged} of {len(row.runs)} runs)"
    codes = dict.fromkeys(note.code for note in row.notes)  # each once, though every seed has its own sentence
    return [*words, *(f"in training: {code.replace('_', ' ')}" for code in codes)]


def _training(field: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.training, field) if row.training else None


def _extra_data(used: bool | None) -> str | None:
    return None if used is None else ("yes" if used else "no")


def _seconds(row: Row) -> float | None:
    seconds = [run.training.seconds for run in row.runs if run.training]
    return sum(seconds) / len(seconds) if seconds else None


def _seeds(row: Row) -> int | None:
    return len(row.runs) if row.training else None


def _seeds_text(value: float) -> str:
    return "1 seed" if value == 1 else f"{value} seeds"


def _date(row: Row) -> str:
    return max(record.created for run in row.runs for record in run.evaluations)[:10]


def _width(row: Row) -> str | None:
    width = row.model.params.get("width")
    return None if width is None else str(width)


def _setup(row: Row) -> str | None:
    return in_short(row.model.params, row.training.config if row.training else {}) or None


def _size(value: float) -> str:
    return count(round(value))


BAND_HELP = (
    "The ranks that the images do not rule out: a row at 2–5 is significantly worse than one other row and better than "
    "all from the 6th on. Pairs are tested on the same images (exact McNemar test, over seeds a t-test, 5 %), else by "
    "whether their intervals overlap. – where a row is not ranked."
)
_WHO = (
    Column("rank", "Rank", BAND_HELP, "lower", "band", lambda r: r.band, shown=True),
    Column("model", "Model", "The network, one row per configuration. A row opens to its runs.", "none", "name",
           lambda r: r.label, lambda p: p.name, under=("setup", "flags"), shown=True),
    Column("method", "Method", "How it was trained, which weights were kept, and with how many seeds.", "none", "word",
           _training("method"), lambda p: p.method, under=("checkpoint", "seeds"), shown=True, filters=True),
)  # fmt: skip
_HOW = (
    Column("params", "Params", "Number of parameters.", "lower", "amount", lambda r: r.model.n_params, written=_size,
           shown=True),
    Column("flops", "FLOPs", "Floating-point operations of a forward pass of one image; a multiply-add counts as two.",
           "lower", "amount", lambda r: r.flops, written=_size),
    Column("time", "Training", "Wall-clock time of training on the hardware named, mean over seeds.", "lower", "amount",
           _seconds, written=duration, under=("hardware",), shown=True),
    Column("hardware", "Hardware", "Machine that trained the model.", "none", "word", _training("hardware"),
           filters=True),
    Column("passes", "Passes", "Forward passes per test image that the evaluation spent, all its attacks together.",
           "higher", "amount", lambda r: r.passes, written=_size),
    Column("tier", "Verification", "Who looked at the numbers: self-reported by those who trained the model; re-run by "
           "somebody from its recipe; proof verified: an adversarial image for every broken verdict was checked; or "
           "published elsewhere, not measured here.", "none", "word", lambda r: r.tier.words, lambda p: PUBLISHED,
           usual=Tier.SELF_REPORTED.words, shown=True, filters=True),
    Column("flags", "Flags", "Reasons to doubt a number, and what training went through.", "none", "words",
           lambda r: flag_words(r) or None, lambda p: ["unreliable, say its publishers"] if p.unreliable else None),
    Column("checkpoint", "Checkpoint", "Best: chosen on the validation split. Last: final epoch. ema, swa: averages.",
           "none", "word", _training("checkpoint"), lambda p: p.checkpoint, filters=True),
    Column("seeds", "Seeds", "Runs behind the row; over several, accuracies are mean ± standard deviation.", "higher",
           "amount", _seeds, written=_seeds_text),
    Column("family", "Family", "The architecture's family.", "none", "word", lambda r: r.family, filters=True),
    Column("arch", "Architecture", "The architecture, with its depth.", "none", "word", lambda r: r.model.arch,
           lambda p: p.arch),
    Column("width", "Width", "Width multiplier of the architecture.", "none", "word", _width),
    Column("extra", "Extra data", "Whether images beyond the training split were used.", "none", "word",
           lambda r: _extra_data(r.extra_data), lambda p: _extra_data(p.extra_data), filters=True),
    Column("epochs", "Epochs", "Epochs of training.", "lower", "amount", _training("epochs"), lambda p: p.epochs),
    Column("setup", "Setup", "Parameters of the network (× width); the update, its learning rate and momentum (m).",
           "none", "word", _setup),
    Column("date", "Date", "Day of the latest evaluation (UTC).", "higher", "word", _date),
)  # fmt: skip
PUBLISHED = "published elsewhere"
