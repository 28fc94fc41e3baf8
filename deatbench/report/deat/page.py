"""DEAT: the paper's claim beside what was measured here, as a page and its Markdown twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from deatbench.report.charts import CHART_CSS, WIDE, Axis, Line, fitted, lines, standalone
from deatbench.report.deat.claim import Series, table2
from deatbench.report.deat.comparisons import Verdict
from deatbench.report.deat.pairs import Pair, Setup, pairs_of, setups_of
from deatbench.report.deat.scope import coverage, differences, missing, searched, sweeps
from deatbench.report.deat.words import (
    CITATION,
    CLAIM,
    STATED,
    headline,
    measured_rates,
    open_questions,
    p_text,
    paper_headline,
    points,
    power,
    rate_headline,
    sentence,
)
from deatbench.report.escape import plain
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import describe
from deatbench.report.rendering import MARK, render
from deatbench.report.setups import optimizer, part, steady_step
from deatbench.report.standings.boards import Board, boards_of
from deatbench.report.standings.rows import Summary
from deatbench.report.sweeps.reading import Swept
from deatbench.report.wording import count, interval, percent

FIGURE = "deat-table2"


class Block(NamedTuple):
    """A pair as it is shown: its title, what both trainings are, the rows of its table, its sentence, its flags."""

    network: str
    ours: str
    theirs: str
    details: str
    rows: list[dict[str, str]]
    sentence: str
    flags: str


class Part(NamedTuple):
    """A board with its pairs, and what it lacks."""

    board: Board
    setups: list[Setup]
    pairs: list[Pair]
    blocks: list[Block]
    missing: list[str]


def deat_pages(inputs: Inputs, boards: Sequence[Board] | None = None) -> dict[str, str]:
    """deat.html, deat.md and the figure of deat.md, by path below leaderboards/. `boards` are those of `inputs`.

    Raises ConfigError for a record whose dataset or threat is no file name.
    """
    boards = boards_of(inputs) if boards is None else boards
    parts = [part for board in boards if (part := _part(board)) is not None]
    pairs = [pair for part in parts for pair in part.pairs]
    setups = [(part.board, part.setups) for part in parts]
    every = [setup for part in parts for setup in part.setups]
    context: dict[str, Any] = {
        "claim": CLAIM,
        "citation": CITATION,
        "claims": [
            ("DEAT is more robust than PGD-AT", paper_headline(), headline([pair.deciding for pair in pairs])),
            (
                "The same, tested as in the paper: PGD, last epoch",
                "The numbers above are of this kind.",
                headline([pair.as_in_paper for pair in pairs]),
            ),
            ("Robust accuracy rises with the learning rate", rate_headline(), measured_rates(sweeps(every))),
        ],
        "sweeps": [(sweep.name, sweep.about) for sweep in inputs.sweeps if _has_deat(sweep)],
        "parts": parts,
        "table": table2(),
        "stated": STATED,
        "statistics": [_statistics(series) for series in table2()],
        "differences": differences(setups),
        "coverage": coverage(setups),
        "questions": open_questions(inputs.references),
        "comparisons": sum(len(block.rows) for part in parts for block in part.blocks),
        "single": any(min(pair.deat.seeds, pair.baseline.seeds) == 1 for pair in pairs),
        "searched": searched(every),
    }
    chart: dict[str, Any] = {"chart_style": Markup(CHART_CSS), "figure": fitted(_figure, FIGURE)}
    return {
        "deat.html": render("deat.html", styles=("deat.css",), **context, **chart),
        "deat.md": render("deat.md", figure=f"{FIGURE}.svg", **context),
        f"{FIGURE}.svg": f"{MARK}\n{standalone(_figure(FIGURE, WIDE))}",
    }


def _has_deat(sweep: Swept) -> bool:
    return any(part(result.config, "method").get("name") == "deat" for result in sweep.results)


def _part(board: Board) -> Part | None:
    setups = setups_of(board)
    if not setups:
        return None
    pairs = pairs_of(setups)
    return Part(board, setups, pairs, [_block(pair) for pair in pairs], missing(setups, pairs))


def _block(pair: Pair) -> Block:
    training, model = pair.deat.first.training, pair.deat.first.model
    assert training is not None
    flags = sorted({*pair.deat.flags, *pair.baseline.flags})
    return Block(
        pair.deat.network,
        optimizer(pair.deat.config),
        optimizer(pair.baseline.config),
        f"{training.epochs} epochs on {training.n_train:,} images, {count(model.n_params)} parameters; "
        f"{pair.seeds}{_steps(pair)}",
        [
            {
                "weights": weights,
                "metric": describe(each.metric).title,
                "ours": _mean(each.deat),
                "ours_interval": interval(each.deat.ci95),
                "theirs": _mean(each.baseline),
                "theirs_interval": interval(each.baseline.ci95),
                "difference": points(each.difference),
                "p": p_text(each.p_value),
                "verdict": str(each.verdict),
                "settled": "yes" if each.verdict is not Verdict.OPEN else "",
            }
            for weights, comparisons in pair.comparisons.items()
            for each in comparisons
        ],
        sentence(pair),
        ", ".join(plain(code.replace("_", " "), 60) for code in flags),
    )


def _steps(pair: Pair) -> str:
    ours, theirs = steady_step(pair.deat.config), steady_step(pair.baseline.config)
    if ours is None or theirs is None:
        return ""
    matched = ", matched" if pair.matched else ""
    return f"; step on a steady gradient {ours:.2g} against {theirs:.2g}{matched}"


def _mean(summary: Summary) -> str:
    return percent(summary.mean) + ("" if summary.spread is None else f" ±{percent(summary.spread)}")


def _statistics(series: Series) -> dict[str, object]:
    """What is computed from one architecture's column of Table 2."""
    return {
        "title": series.title,
        "mean": f"{series.mean_gain:+.2f}",
        "range": f"{min(series.gains):+.2f} to {max(series.gains):+.2f}".replace("-", "−"),
        "best": f"{series.best_gain:+.2f}",
        "p": power(series.p_value),
        "pgd_at": series.ranks(series.pgd_at),
        "deat": series.ranks(series.deat),
    }


def _figure(key: str, width: int) -> Markup:
    """Table 2 as lines over the learning rate: an architecture per colour, PGD-AT dashed."""
    drawn = []
    for turn, series in enumerate(table2()):
        for name, values, dashed in (("DEAT", series.deat, False), ("PGD-AT", series.pgd_at, True)):
            shown = tuple((rate, value / 100) for rate, value in zip(series.rates, values, strict=True))
            drawn.append(Line(f"{series.title} {name}", shown, dashed=dashed, group=turn))
    gains = "; ".join(f"{series.title} {series.mean_gain:+.1f} points on average" for series in table2())
    return lines(
        drawn,
        Axis("Learning rate", log=True),
        Axis("Robust accuracy under PGD-10, as the paper reports it", percent=True),
        key=key,
        title="Table 2 of the DEAT paper: robust accuracy over the learning rate",
        description=f"DEAT solid, PGD-AT dashed. DEAT's lead: {gains}.",
        width=width,
    )
