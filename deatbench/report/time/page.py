"""Which training reaches a given robust accuracy first, on a named machine: a page and its Markdown twin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from deatbench.records import ModelCard, wilson_interval
from deatbench.report.charts import CHART_CSS
from deatbench.report.escape import plain
from deatbench.report.inputs import Inputs
from deatbench.report.rendering import MARK, render
from deatbench.report.setups import inner_attack
from deatbench.report.standings.boards import Board, boards_of
from deatbench.report.time.figures import Panel, Unit, panels_of, unit_of
from deatbench.report.time.races import Arrival, Entry, Race, races_of
from deatbench.report.wording import NOTHING, percent

PROTOCOL = (
    (
        "Robust accuracy",
        "After every epoch, on validation images held out from the training images, under the training's own attack "
        "(PGD). It is no AutoAttack: that stands beside it, on test images, for the weights that were published. For "
        "several seeds it is the mean.",
    ),
    (
        "Time",
        "The sum of the epochs' training time, from the first batch to the end of the first epoch whose accuracy "
        "reaches the target; validating between epochs does not count. It is wall-clock time: whatever else ran on the "
        "machine is in it, and no record says what did. The number of epochs does not depend on that.",
    ),
    (
        "Several seeds",
        "The mean over the seeds that reached the target, with the shortest and the longest time. Where not all of "
        "them did, the cell says how many, and the row stands behind those where all did: the mean of the lucky ones "
        "would flatter it.",
    ),
    (
        "Machines",
        "Only trainings on the same hardware, as their records name it, are compared. One row is one configuration: "
        "the same in everything but the seed.",
    ),
    (
        "First is not best",
        "A method that reaches a target early may end lower than another. The column of the highest accuracy and the "
        "figures show where each one ends.",
    ),
)


class Cell(NamedTuple):
    """What stands under a target: the text, what is set small below it, and whether it is the column's first."""

    text: str
    notes: tuple[str, ...] = ()
    first: bool = False
    reached: bool = True


class Shown(NamedTuple):
    """An entry as a row: its cells under the targets, and its runs as (seed, quoted zoo path)."""

    entry: Entry
    cells: list[Cell]
    epoch: str
    total: str
    rate: str
    seeds: list[tuple[str, str]]
    flags: str


class Part(NamedTuple):
    """One race as it is shown."""

    race: Race
    unit: Unit
    rows: list[Shown]
    panels: list[Panel]
    summary: str
    measured: str
    rates: bool
    flagged: bool


def time_pages(inputs: Inputs, boards: Sequence[Board] | None = None) -> dict[str, str]:
    """time.html, time.md and the figures of time.md, by path below leaderboards/. `boards` are those of `inputs`."""
    boards = boards_of(inputs) if boards is None else boards
    races = races_of(inputs, [run for board in boards for run in board.runs])
    files = _file_names(races)
    parts = [_part(race, name) for race, name in zip(races, files, strict=True)]
    timed = sum(len(race.cards) for race in races)
    cards = len(inputs.cards)
    context: dict[str, Any] = {"parts": parts, "untimed": cards - timed, "cards": cards, "protocol": PROTOCOL}
    pages = {
        "time.html": render("time.html", styles=("time.css",), chart_style=Markup(CHART_CSS), **context),
        "time.md": render("time.md", **context),
    }
    return pages | {panel.file: f"{MARK}\n{panel.svg}" for part in parts for panel in part.panels}


def _part(race: Race, name: str) -> Part:
    unit = unit_of(race)
    rows = [_row(entry, race, unit) for entry in race.entries]
    return Part(
        race,
        unit,
        rows,
        panels_of(race, unit, name),
        _summary(race, unit),
        _measured(race),
        any(entry.images_per_second is not None for entry in race.entries),
        any(row.flags for row in rows),
    )


def _row(entry: Entry, race: Race, unit: Unit) -> Shown:
    arrival = entry.arrival(race.deciding) if race.deciding is not None else Arrival((), (), len(entry.runs))
    epochs = sorted(set(arrival.epochs))
    return Shown(
        entry,
        [_cell(entry, target, race, unit) for target in race.targets],
        NOTHING if not epochs else f"{epochs[0]}–{epochs[-1]}" if len(epochs) > 1 else str(epochs[0]),
        unit.written(entry.seconds),
        NOTHING if entry.images_per_second is None else f"{entry.images_per_second:,.0f}",
        [(_seed(run.card), _zoo_path(run.card)) for run in entry.runs],
        ", ".join(plain(code.replace("_", " "), 60) for code in entry.flags),
    )


def _zoo_path(card: ModelCard) -> str:
    """Where the zoo and the pages have the model, quoted."""
    return "/".join(quote(part, safe="") for part in (card.dataset, card.threat.slug, card.id))


def _seed(card: ModelCard) -> str:
    seed = card.training.config.get("seed")
    return plain(str(seed), 20) if seed is not None else "?"


def _cell(entry: Entry, target: int, race: Race, unit: Unit) -> Cell:
    arrival = entry.arrival(target)
    if not arrival.seconds:
        return Cell("not reached", reached=False)
    notes = []
    if len(arrival.seconds) > 1:
        notes.append(f"{unit.written(min(arrival.seconds))}–{unit.written(max(arrival.seconds))}")
    if not arrival.complete:
        notes.append(f"{len(arrival.seconds)} of {arrival.runs} seeds")
    first = len(race.entries) > 1 and entry is next(iter(race.finishers[target]), None)
    return Cell(unit.written(arrival.mean), tuple(notes), first)


def _summary(race: Race, unit: Unit) -> str:
    """Who is first, in a sentence per target worth one: that most reach, and the highest that anybody reaches."""
    if len(race.entries) == 1:
        name = f"{race.entries[0].method} on {race.entries[0].network}"
        return f"Only {name} was trained on this machine: there is nothing to compare it with."
    top = next((target for target in reversed(race.targets) if race.finishers[target]), None)
    chosen = sorted({target for target in (race.deciding, top) if target is not None and race.finishers[target]})
    if not chosen:
        return "No configuration reaches the targets below with all its seeds."
    return " ".join(_sentence(race, target, unit) for target in chosen)


def _sentence(race: Race, target: int, unit: Unit) -> str:
    finishers = race.finishers[target]
    first = finishers[0].arrival(target)
    reached = f"{len(finishers)} of {len(race.entries)} configurations reach {target} %"
    words = f"{reached}: {_name(finishers[0], race)} first, after {unit.written(first.mean)} {unit.sign}"
    if len(finishers) > 1:
        second = finishers[1].arrival(target)
        words += f"; then {_name(finishers[1], race)}, after {unit.written(second.mean)} {unit.sign}"
        if max(first.seconds) >= min(second.seconds):
            words += ", their times overlapping"
    return f"{words}."


def _name(entry: Entry, race: Race) -> str:
    """The method, and as much more as tells it from the other entries."""
    alike = [other for other in race.entries if (other.method, other.network) == (entry.method, entry.network)]
    several = len({other.network for other in race.entries}) > 1
    return entry.method + (f" on {entry.network}" if several else "") + (f" ({entry.update})" if len(alike) > 1 else "")


def _measured(race: Race) -> str:
    """How the accuracy of this race was measured: the attack, on how many images, and how fine that is."""
    attacks = sorted({inner_attack(card.training.config) for card in race.cards})
    sizes = sorted({card.training.n_val for card in race.cards})
    n = max(1, sizes[0])
    low, high = wilson_interval(n // 2, n)
    shown = " or ".join(f"{size:,}" for size in sizes)
    return (
        f"{' or '.join(attacks)} on {shown} validation images: at 50 % a 95 % interval of "
        f"{percent(low)}–{percent(high)}, so a target may be passed some epochs early or late by chance."
    )


def _file_names(races: Sequence[Race]) -> list[str]:
    """A file name per race, from what it is about, each once."""
    names: list[str] = []
    for race in races:
        words = f"time {race.dataset} {race.threat.slug} {race.hardware}"
        name = re.sub(r"([^A-Za-z0-9.]|\.(?!\d))+", "-", words).strip("-")[:120]  # a dot stays in 0.2 alone
        names.append(name if name not in names else f"{name}-{len(names)}")
    return names
