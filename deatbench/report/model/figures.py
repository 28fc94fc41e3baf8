"""The figures of a model's page: each a drawing, a sentence that says what it shows, and its data as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deatbench.records import Diagnostics, EpochMetrics, EvaluationRecord, ModelCard, unpack_bits, wilson_interval
from deatbench.report.charts import NARROW, Axis, Gap, Line, Moment, Step, lines, waterfall
from deatbench.report.metrics import describe
from deatbench.report.model.overfitting import discernible, robust_overfitting
from deatbench.report.standings.runs import WORST_CASE
from deatbench.report.wording import percent

MEMBERS = {"square": "Square", "square-l2": "Square"}  # the others' names are acronyms
ACCURACY = Axis("robust accuracy", 0.0, percent=True)


@dataclass(frozen=True)
class Figure:
    """A figure: its title, a sentence below it, the drawing, and the numbers behind it (a row per tuple)."""

    key: str
    title: str
    words: str
    drawing: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def training_figure(card: ModelCard, epochs: Sequence[EpochMetrics]) -> Figure:
    """Robust accuracy on training and validation images after each epoch, the gap between them shaded."""
    series = list(_training_lines(card, epochs))
    validated = len(series) > 1
    moments = [Moment(card.training.best_epoch, f"best epoch: {card.training.best_epoch}")] if validated else []
    words, onset = _overfitting(card, epochs)
    if onset is not None:
        moments.append(Moment(onset, f"overfitting from {onset}"))
    drawing = lines(
        series,
        Axis("epoch", whole=True),
        ACCURACY,
        key="training",
        title="Training curves",
        description=words,
        moments=moments,
        gap=Gap(0, 1, "overfitting gap") if validated else None,
        width=NARROW,
    )
    columns = (
        "epoch",
        "learning rate",
        "loss",
        "training clean",
        "training robust",
        "validation clean",
        "validation robust",
    )
    return Figure("training", "Training", words, drawing, columns, tuple(map(_epoch_row, epochs)))


def _training_lines(card: ModelCard, epochs: Sequence[EpochMetrics]) -> Iterator[Line]:
    """Training images, then validation images; FGSM too where it parted from PGD."""
    yield Line("training", tuple((e.epoch, e.subset_robust_acc) for e in epochs), dashed=True, group=1)
    validation = tuple((e.epoch, e.val_robust_acc) for e in epochs if e.val_robust_acc is not None)
    if validation:
        yield Line("validation", validation, group=0)
    one_step = tuple((e.epoch, e.val_fgsm_acc) for e in epochs if e.val_fgsm_acc is not None)
    if one_step and any(flag.code == "catastrophic_overfitting" for flag in card.training.flags):
        yield Line("same, FGSM", one_step, group=2)


def _epoch_row(epoch: EpochMetrics) -> tuple[str, ...]:
    shares = (epoch.subset_clean_acc, epoch.subset_robust_acc, epoch.val_clean_acc, epoch.val_robust_acc)
    figures = ("" if share is None else percent(share) for share in shares)
    return (str(epoch.epoch), f"{epoch.lr:.4g}", f"{epoch.loss:.4g}", *figures)


def _overfitting(card: ModelCard, epochs: Sequence[EpochMetrics]) -> tuple[str, int | None]:
    """A sentence on robust overfitting, and the epoch where it begins if it does."""
    n_val, last = card.training.n_val, epochs[-1]
    if last.val_robust_acc is None:
        return "Under the training's own attack; no validation images were held out.", None
    gap = 100 * (last.subset_robust_acc - last.val_robust_acc)
    ends = f"In the end robust accuracy is {abs(gap):.1f} points {'lower' if gap < 0 else 'higher'} on training images."
    found = robust_overfitting(epochs, n_val)
    if found is None:
        told = percent(discernible(last.val_robust_acc, n_val))
        return f"{ends} No robust overfitting: a fall would show from {told} points on ({n_val:,} images).", None
    words = (
        f"Robust overfitting from epoch {found.epoch} on: to the end, accuracy on validation images falls by "
        f"{percent(found.fall)} points while that on training images rises by {percent(found.rise)}. {ends}"
    )
    return words, found.epoch


def radius_figure(diagnostics: Diagnostics | None, record: EvaluationRecord | None) -> Figure | None:
    """Accuracy against the radius: of the diagnosis, and of the evaluation where it has a curve."""
    curves = dict(_curves(diagnostics, record))
    if not curves:
        return None
    series = [
        Line(
            name, tuple((eps, share) for eps, _, share, _ in points), tuple((eps, *ends) for eps, _, _, ends in points)
        )
        for name, points in curves.items()
    ]
    falls = "; ".join(_fall(name, points) for name, points in curves.items())
    words = f"{'; '.join(curves)}. The shade is the 95 % interval; an image that is broken stays broken further out."
    drawing = lines(
        series,
        _radius_axis({eps: text for points in curves.values() for eps, text, _, _ in points}),
        Axis("accuracy", 0.0, 1.0, percent=True),
        key="radius",
        title="Accuracy against the radius",
        description=f"Accuracy falls with ε. {falls}.",
        width=NARROW,
    )
    rows = tuple(
        (name, text, percent(share), percent(ends[0]), percent(ends[1]))
        for name, points in curves.items()
        for _, text, share, ends in points
    )
    return Figure("radius", "Accuracy against ε", words, drawing, ("attack", "ε", "accuracy", "from", "to"), rows)


_Point = tuple[float, str, float, tuple[float, float]]  # eps, its text, accuracy, 95 % interval


def _curves(diagnostics: Diagnostics | None, record: EvaluationRecord | None) -> Iterator[tuple[str, list[_Point]]]:
    if diagnostics and diagnostics.curve:
        name = f"{describe(diagnostics.attack).title}, {diagnostics.dataset.n:,} images"
        yield name, [(p.eps, p.eps_text, p.accuracy.value, p.accuracy.ci95) for p in diagnostics.curve]
    if record and record.curve:
        n = record.samples.n
        counts = [(0.0, "0", int(record.samples.clean_N().sum()))]
        counts += [(p.eps, p.eps_text, int(unpack_bits(p.robust, n).sum())) for p in record.curve]
        attacks = ", ".join(describe(name).title for name in record.samples.robust)
        yield f"worst of {attacks}, {n:,} images", [(e, text, k / n, wilson_interval(k, n)) for e, text, k in counts]


def _fall(name: str, points: Sequence[_Point]) -> str:
    return f"{name}: " + ", ".join(f"{percent(share)} % at {text}" for _, text, share, _ in points)


def _radius_axis(texts: dict[float, str]) -> Axis:
    """Ticks at the radii as they are written; of fractions with one denominator the numerators alone."""
    parts = [text.partition("/") for text in texts.values() if text != "0"]
    denominators = {denominator for _, _, denominator in parts}
    if len(denominators) == 1 and len(texts) <= 8:
        (denominator,) = denominators
        names = tuple(text.partition("/")[0] for text in texts.values())
        title = f"ε in 1/{denominator}" if denominator else "ε"
        order = sorted(zip(texts, names, strict=True))
        return Axis(title, 0.0, ticks=tuple(eps for eps, _ in order), names=tuple(name for _, name in order))
    return Axis("ε", 0.0)


def attack_figure(record: EvaluationRecord) -> Figure | None:
    """What each member of a suite leaves, one after the other, and what each attack by itself leaves."""
    if not record.attacks or WORST_CASE not in record.metrics:
        return None
    n = record.samples.n
    clean = record.metrics["clean_acc"]
    suites = list(dict.fromkeys(attack.name.partition("/")[0] for attack in record.attacks if "/" in attack.name))
    suite = suites[0] if suites else None
    steps, alone = [Step("clean", clean.value, clean.ci95)], []
    for attack in record.attacks:
        front, _, member = attack.name.partition("/")
        ends = wilson_interval(round(attack.robust_after * n), n)
        if suite is not None and front == suite:
            steps.append(Step(MEMBERS.get(member, member.upper()), attack.robust_after, ends))
        elif not member:
            alone.append(Step(describe(attack.name).title, attack.robust_after, ends))
    worst = record.metrics[WORST_CASE]
    title = describe(suite).title if suite else "Each attack"
    left = ", ".join(f"{step.label} {percent(step.accuracy)} %" for step in (*steps, *alone))
    words = f"All together leave {percent(worst.value)} % of {n:,} images."
    if suite is not None:
        words = f"Each member of {title} sees what the ones before it left. {words}"
    drawing = waterfall(
        steps, alone, key="attacks", title=f"{title}, attack by attack", description=f"Left: {left}.", width=NARROW
    )
    columns = ("attack", "before", "after", "forward passes", "seconds", "code")
    rows = tuple(
        (a.name, percent(a.robust_before), percent(a.robust_after), str(a.forward_passes), f"{a.seconds:.1f}", a.engine)
        for a in record.attacks
    )
    return Figure("attacks", "Attack by attack", words, drawing, columns, rows)
