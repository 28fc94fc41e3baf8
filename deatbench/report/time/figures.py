"""Robust accuracy over training time as figures: one per network of a race, all in the race's unit of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from markupsafe import Markup

from deatbench.report.charts import WIDE, Axis, Line, fitted, lines, standalone
from deatbench.report.escape import plain
from deatbench.report.time.races import Entry, Race
from deatbench.report.wording import percent

UNITS = (("hours", "h", 3600.0), ("minutes", "min", 60.0), ("seconds", "s", 1.0))
MOST_LINES = 6


class Unit(NamedTuple):
    """The unit of all times of one race."""

    name: str
    sign: str
    seconds: float

    def written(self, seconds: float) -> str:
        """A time in this unit, with as many digits as three figures need."""
        value = seconds / self.seconds
        return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


class Panel(NamedTuple):
    """One figure: the entries of one network, as SVG for the page and for a file."""

    network: str
    note: str
    inline: Markup
    file: str
    svg: str


def unit_of(race: Race) -> Unit:
    """The largest unit in which the longest training takes at least two."""
    longest = max(entry.seconds for entry in race.entries)
    return Unit(*next((unit for unit in UNITS if longest >= 2 * unit[2]), UNITS[-1]))


def panels_of(race: Race, unit: Unit, name: str) -> list[Panel]:
    """A figure per network with what reaches a target at all; a method has its colour in all of them."""
    reaching = [entry for entry in race.entries if any(entry.arrival(target).seconds for target in race.targets)]
    drawn: dict[str, list[Entry]] = {}
    for entry in sorted(reaching, key=lambda entry: (entry.network, -entry.best)):
        drawn.setdefault(entry.network, []).append(entry)
    named = {network: _line_names(entries[:MOST_LINES]) for network, entries in drawn.items()}
    groups = _groups(list(named.values()))
    panels = []
    for turn, (network, names) in enumerate(named.items()):
        pairs = sorted(zip(names, drawn[network], strict=False), key=lambda pair: race.entries.index(pair[1]))
        left_out = sum(entry.network == network for entry in race.entries) - len(pairs)
        panels.append(_panel(race, unit, pairs, groups[turn], left_out, f"{name}-{turn + 1}"))
    return panels


def _panel(
    race: Race, unit: Unit, named: Sequence[tuple[str, Entry]], groups: dict[str, int], left_out: int, key: str
) -> Panel:
    network = named[0][1].network
    bests = "; ".join(f"{name} {percent(entry.best)} %" for name, entry in named)

    def draw(key: str, width: int) -> Markup:
        return lines(
            [Line(name, _points(entry, unit), group=groups[name]) for name, entry in named],
            Axis(f"Training time, {unit.name}", low=0.0),
            Axis("Robust accuracy on validation images", percent=True),
            key=key,
            title=f"Robust accuracy over training time, {network}",
            description=f"On {plain(race.hardware, 60)}. Highest robust accuracy: {bests}.",
            width=width,
        )

    return Panel(
        network,
        f"Without {left_out} of the table that {'ends' if left_out == 1 else 'end'} lower." if left_out else "",
        fitted(draw, key),
        f"{key}.svg",
        standalone(draw(key, WIDE)),
    )


def _groups(panels: Sequence[Sequence[str]]) -> list[dict[str, int]]:
    """Per panel a colour and mark for each line: the same in every panel for a name that several have."""
    often = Counter(name for names in panels for name in names)
    shared = sorted((name for name in often if often[name] > 1), key=lambda name: (-often[name], name))
    found = []
    for names in panels:
        groups = {name: shared.index(name) for name in names if name in shared}
        free = (turn for turn in count() if turn not in groups.values())
        found.append(groups | dict(zip([name for name in names if name not in groups], free, strict=False)))
    return found


def _points(entry: Entry, unit: Unit) -> tuple[tuple[float, float], ...]:
    return tuple((seconds / unit.seconds, accuracy) for seconds, accuracy in entry.mean_path())


def _line_names(entries: Sequence[Entry]) -> list[str]:
    """The methods; with the optimizer where a method comes twice."""
    methods = [entry.method for entry in entries]
    return [
        entry.method if methods.count(entry.method) == 1 else f"{entry.method}, {entry.update.partition(', ')[2]}"
        for entry in entries
    ]
