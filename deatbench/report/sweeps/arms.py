"""The sweep of the DEAT paper's Table 2: per network each update over learning rates, DEAT against the others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deatbench.records import Checkpoint
from deatbench.report.deat.claim import Series, table2
from deatbench.report.escape import plain
from deatbench.report.setups import number, optimizer, part, setting
from deatbench.report.sweeps.cells import Cell, Measure, without_seed
from deatbench.report.sweeps.differences import Difference, difference, pooled
from deatbench.report.sweeps.inference import Gains

SAME_STEP = 0.1  # steps on a steady gradient that differ by less than this share are matched
SAME, MATCHED = "same learning rate", "matched step"
FAMILIES = {"vgg": "vgg19", "senet": "senet18", "preact_resnet": "preact_resnet18"}  # as the paper has them


@dataclass(frozen=True, eq=False)
class Arm:
    """One update over learning rates."""

    name: str
    cells: Mapping[float, Cell]

    @property
    def first(self) -> Cell:
        """The cell of the lowest rate."""
        return self.cells[min(self.cells)]

    @property
    def is_deat(self) -> bool:
        """Whether it is DEAT's update."""
        return bool(part(self.first.config, "optimizer").get("name") == "deat")

    @property
    def momentum(self) -> float | None:
        """SGD's momentum; None for another update."""
        spec = part(self.first.config, "optimizer")
        return number(spec.get("momentum", 0)) if spec.get("name") == "sgd" else None

    def series(self, measure: Measure) -> list[tuple[float, float]]:
        """(rate, mean accuracy), ascending, where there is one."""
        return [(rate, mean) for rate in sorted(self.cells) if (mean := self.cells[rate].mean(measure)) is not None]

    def best(self, weights: Checkpoint) -> Cell | None:
        """The cell of the rate with the best validation accuracy; None unless all cells have one."""
        scores = [(cell.validation(weights), -rate) for rate, cell in self.cells.items()]
        known = [(score, rate) for score, rate in scores if score is not None]
        return self.cells[-max(known)[1]] if known and len(known) == len(scores) else None

    def edge(self, cell: Cell) -> str:
        """`largest measured`, `smallest measured` of several rates: a best one there may be beaten beyond."""
        ends = {min(self.cells): "smallest measured", max(self.cells): "largest measured"}
        return ends.get(cell.rate, "") if cell.rate is not None and len(self.cells) > 1 else ""


@dataclass(frozen=True, eq=False)
class Contest:
    """DEAT against another update: cells in pairs, by DEAT's learning rate."""

    panel: Panel
    name: str
    how: str
    ours: Arm
    theirs: Arm
    pairs: Mapping[float, tuple[Cell, Cell]]

    @cached_property
    def _known(self) -> dict[Measure, tuple[Gains | None, Difference | None, dict[float, Difference]]]:
        return {}

    def gains(self, measure: Measure) -> Gains | None:
        """Differences of the means over seeds, a point per rate."""
        return self._tests(measure)[0]

    def pooled(self, measure: Measure) -> Difference | None:
        """The mean difference over all rates, tested over images and seeds."""
        return self._tests(measure)[1]

    def differences(self, measure: Measure) -> dict[float, Difference]:
        """Per rate the difference on the same images."""
        return self._tests(measure)[2]

    def p_value(self, measure: Measure) -> float | None:
        """The larger p of the t-test over rates and the test over images and seeds; None where one is not to be had.

        At a single rate there is only the latter.
        """
        gains, images = self.gains(measure), self.pooled(measure)
        tested = [images.p_value if images else None]
        tested += [gains.t_p] if gains and len(gains.values) > 1 else []
        known = [p_value for p_value in tested if p_value is not None]
        return max(known) if len(known) == len(tested) else None

    def _tests(self, measure: Measure) -> tuple[Gains | None, Difference | None, dict[float, Difference]]:
        if measure not in self._known:
            means = [(a.mean(measure), b.mean(measure)) for a, b in self.pairs.values()]
            both = [(a, b) for a, b in means if a is not None and b is not None]
            found = {rate: difference(a, b, measure) for rate, (a, b) in self.pairs.items()}
            self._known[measure] = (
                Gains.of([a for a, _ in both], [b for _, b in both]),
                pooled(list(self.pairs.values()), measure),
                {rate: each for rate, each in found.items() if each is not None},
            )
        return self._known[measure]


@dataclass(frozen=True, eq=False)
class Panel:
    """All that shares everything but update and learning rate; `paper` is the paper's column of that family."""

    title: str
    arms: tuple[Arm, ...]
    paper: Series | None

    @property
    def cells(self) -> list[Cell]:
        """Every cell."""
        return [cell for arm in self.arms for cell in arm.cells.values()]

    @property
    def rates(self) -> list[float]:
        """All learning rates, ascending."""
        return sorted({rate for arm in self.arms for rate in arm.cells})

    @cached_property
    def deat(self) -> Arm | None:
        """DEAT with the paper's k1 and k2 if there is one, else any."""
        arms = [arm for arm in self.arms if arm.is_deat]
        return min(arms, key=lambda arm: _unusual(arm.first.config), default=None)

    @cached_property
    def contests(self) -> list[Contest]:
        """DEAT against every other update at the same rate, and against those with momentum at the matched step too."""
        if self.deat is None:
            return []
        found = []
        for other in (arm for arm in self.arms if arm is not self.deat):
            same = {rate: (cell, other.cells[rate]) for rate, cell in self.deat.cells.items() if rate in other.cells}
            found.append((other, SAME, same))
            if other.momentum:
                found.append((other, MATCHED, _matched(self.deat, other)))
        return [
            Contest(self, f"{other.name} at the {how}", how, self.deat, other, dict(sorted(pairs.items())))
            for other, how, pairs in found
            if pairs
        ]


def _matched(ours: Arm, theirs: Arm) -> dict[float, tuple[Cell, Cell]]:
    """Ours with the one of theirs that goes about as far along a steady gradient."""
    found = {}
    for rate, cell in ours.cells.items():
        near = [
            (abs(math.log(other.step / cell.step)), r)
            for r, other in theirs.cells.items()
            if other.step and cell.step and other.step > 0 and cell.step > 0
        ]
        if near and min(near)[0] < math.log1p(SAME_STEP):
            found[rate] = (cell, theirs.cells[min(near)[1]])
    return found


def _unusual(config: Mapping[str, Any]) -> int:
    """How many settings of DEAT are named because they are not the paper's; the rate always is."""
    return optimizer(config).count(",")


def panels_of(cells: Iterable[Cell]) -> list[Panel]:
    """The cells by what update and learning rate leave, in order of appearance; a cell without a rate is left out."""
    groups: dict[str, dict[str, dict[float, Cell]]] = {}
    for cell in cells:
        if cell.rate is not None:
            arms = groups.setdefault(_alike(cell), {})
            arms.setdefault(_update(cell), {}).setdefault(cell.rate, cell)
    members = {key: [next(iter(rates.values())) for rates in arms.values()] for key, arms in groups.items()}
    titles = titles_of([cells[0] for cells in members.values()])
    return [
        Panel(title, _arms(arms), _series(members[key][0]))
        for title, (key, arms) in zip(titles, groups.items(), strict=True)
    ]


def _arms(groups: Mapping[str, Mapping[float, Cell]]) -> tuple[Arm, ...]:
    names = [_name(cells) for cells in groups.values()]
    twice = {name for name in names if names.count(name) > 1}
    arms = [
        Arm(f"{name} {turn}" if name in twice else name, cells)
        for turn, (name, cells) in enumerate(zip(names, groups.values(), strict=True), 1)
    ]
    return tuple(sorted(arms, key=lambda arm: (not arm.is_deat, arm.momentum is None, arm.momentum or 0.0)))


def _name(cells: Mapping[float, Cell]) -> str:
    """The sweep's own word for the update if it has one for all its cells, else method and optimizer."""
    words = {json.dumps(cell.settings.get("update")) for cell in cells.values()}
    given = next(iter(cells.values())).settings.get("update")
    if len(words) == 1 and isinstance(given, str):
        return plain(given, 60)
    config = next(iter(cells.values())).config
    method = setting(part(config, "method").get("name", "?"))
    name = ", ".join(word for word in optimizer(config).split(", ") if not word.startswith("lr "))
    return name if name == method else f"{method}, {name.removeprefix('sgd, ')}"


def _alike(cell: Cell) -> str:
    """All but update, learning rate and seed."""
    config = {
        key: value for key, value in without_seed(cell.config).items() if key not in ("method", "optimizer", "shifted")
    }
    return json.dumps(config, sort_keys=True)


def _update(cell: Cell) -> str:
    spec = {key: value for key, value in part(cell.config, "optimizer").items() if key != "lr"}
    return json.dumps([cell.config.get("method"), spec], sort_keys=True)


def titles_of(cells: Sequence[Cell]) -> list[str]:
    """A name per cell: its network, and where that is not enough the settings in which the cells differ."""
    networks = [cell.network for cell in cells]
    if len(set(networks)) == len(cells):
        return networks
    keys = [
        key
        for key in dict.fromkeys(name for cell in cells for name in cell.settings)
        if key != "arch" and len({json.dumps(cell.value(key), sort_keys=True) for cell in cells}) > 1
    ]
    said = [", ".join(f"{plain(key, 40)} {setting(cell.value(key))}" for key in keys) for cell in cells]
    several = len(set(networks)) > 1
    titles = [
        ", ".join(filter(None, (name if several or not words else "", words)))
        for name, words in zip(networks, said, strict=True)
    ]
    return [f"{title} ({turn})" if titles.count(title) > 1 else title for turn, title in enumerate(titles, 1)]


def _series(cell: Cell) -> Series | None:
    """The paper's column of the same family of networks."""
    name = str(part(cell.config, "arch").get("name", ""))
    arch = next((FAMILIES[family] for family in FAMILIES if name.rstrip("0123456789") == family), None)
    return next((series for series in table2() if series.arch == arch), None)
