"""The page of a zoo model: what it withstood first, then how it was trained, and everything behind both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup

from deatbench.records import Flag, Metric, ModelCard
from deatbench.report.charts import CHART_CSS
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import describe, place
from deatbench.report.model.class_figures import class_figure, confusion_figure
from deatbench.report.model.explanations import meaning
from deatbench.report.model.facts import commands, environment, files, recipe, summary
from deatbench.report.model.figures import Figure, attack_figure, radius_figure, training_figure
from deatbench.report.model.subject import Subject
from deatbench.report.rendering import render
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row
from deatbench.report.standings.runs import Run
from deatbench.report.wording import count


def model_pages(board: Board, inputs: Inputs) -> dict[str, str]:
    """A page per zoo model that was trained for the board's data set and threat, by path below leaderboards/."""
    rows: dict[str, list[Row]] = {}
    for row in board.rows:
        for run in row.runs:
            if run.card is not None:
                rows.setdefault(run.card.id, []).append(row)
    pages = {}
    for card in inputs.cards:
        if (card.dataset, card.threat) == (board.dataset, board.threat):
            epochs, found = inputs.histories.get(card.id, ()), inputs.diagnostics.get(card.id)
            subject = Subject(board, card, tuple(rows.get(card.id, ())), epochs, found)
            pages[f"{board.address}/{card.id}.html"] = render_model(subject)
    return pages


def render_model(subject: Subject) -> str:
    """The page of one model."""
    card = subject.card
    names = sorted({name for run in subject.runs for name in run.metrics}, key=place)
    weights = [_weights_row(run, card, names) for run in subject.runs]
    return render(
        "model.html",
        styles=("model.css",),
        scripts=("model.js",),
        chart_css=Markup(CHART_CSS),
        board=subject.board,
        card=card,
        row=subject.row,
        summary=summary(card),
        metrics=[describe(name) for name in names],
        weights=weights,
        gaps=any(each.gap for each in weights),
        doubts=list(_doubts(subject)),
        figures=list(_figures(subject)),
        gallery=subject.diagnostics.gallery if subject.diagnostics else (),
        diagnostics=subject.diagnostics,
        missing=list(_missing(subject)),
        commands=list(commands(subject)),
        recipe=list(recipe(card)),
        environment=environment(subject),
        files=list(files(subject)),
    )


class WeightsRow(NamedTuple):
    """A set of weights in the table of evaluations."""

    name: str
    kept: bool
    epoch: str
    metrics: list[Metric | None]
    n: int
    gap: str
    passes: str
    tier: str


def _weights_row(run: Run, card: ModelCard, names: list[str]) -> WeightsRow:
    training, deciding = run.training, run.deciding
    gaps = [record.generalisation.robust_gap for record in run.evaluations if record.generalisation]
    passes = sum(attack.forward_passes for attack in deciding.attacks) / deciding.samples.n
    checkpoint = training.checkpoint if training else ""
    return WeightsRow(
        name=checkpoint,
        kept=checkpoint == card.checkpoint,
        epoch=str(training.checkpoint_epoch) if training else "",
        metrics=[run.metrics.get(name) for name in names],
        n=deciding.samples.n,
        gap=f"{100 * gaps[-1]:+.1f}".replace("-", "−") if gaps else "",
        passes=count(round(passes)),
        tier=run.tier.words,
    )


def _doubts(subject: Subject) -> Iterator[tuple[str, Flag, str]]:
    """What speaks against a number, and what training went through: whose, the flag, what follows from it."""
    for run in subject.runs:
        for flag in run.flags:
            yield f"{run.training.checkpoint} weights" if run.training else "", flag, meaning(flag.code)
    for flag in subject.card.training.flags:
        yield "in training", flag, meaning(flag.code)


def _figures(subject: Subject) -> Iterator[Figure]:
    diagnostics, record = subject.diagnostics, subject.kept.deciding if subject.kept else None
    curved = next((r for r in reversed(subject.kept.evaluations) if r.curve), None) if subject.kept else None
    found = [
        attack_figure(record) if record else None,
        radius_figure(diagnostics, curved),
        training_figure(subject.card, subject.epochs) if subject.epochs else None,
        class_figure(diagnostics, record) if diagnostics else None,
        confusion_figure(diagnostics) if diagnostics else None,
    ]
    return (figure for figure in found if figure is not None)


def _missing(subject: Subject) -> Iterator[tuple[str, str]]:
    """(what the page lacks, the command that gives it)."""
    card = subject.card
    if subject.kept is None:
        yield "The kept weights have not been evaluated:", f"deatbench eval zoo:{card.id} --autoattack"
    if subject.diagnostics is None:
        lacks = "accuracy by class, confusion, adversarial images"
        stale = "are of other weights or another threat" if subject.given_diagnostics else "have not been made"
        yield f"Diagnostics ({lacks}) {stale}:", f"deatbench diagnose zoo:{card.id}"
    if not subject.epochs:
        yield "Training curves need the run's metrics.jsonl in the entry:", f"deatbench zoo add {card.id}"
