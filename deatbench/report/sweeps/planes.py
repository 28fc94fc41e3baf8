"""DEAT's two momenta as a plane: cells by (k1, k2), the points of it that have a name, each against the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from deatbench.report.setups import number
from deatbench.report.sweeps.cells import Cell, Measure
from deatbench.report.sweeps.differences import Difference, difference
from deatbench.report.sweeps.parts import Part

K1, K2 = "optimizer.k1", "optimizer.k2"
Place = tuple[float, float]  # (k1, k2)
PAPER: Place = (1.0, 0.8)
NAMED: Mapping[Place, tuple[str, str]] = {
    PAPER: ("paper", "the paper's DEAT"),
    (0.0, 0.0): ("SGD", "SGD without momentum"),
    (1.0, 0.0): ("OGD", "optimistic gradient descent"),
}
AVERAGED = ("EMA", "SGD on an average of gradients")


@dataclass(frozen=True, eq=False)
class Plane:
    """The cells of one setting by (k1, k2)."""

    title: str
    cells: Mapping[Place, Cell]

    @classmethod
    def of(cls, part: Part) -> Plane:
        """The cells of a part that have a k1 and a k2."""
        found: dict[Place, Cell] = {}
        for cell in part.cells:
            k1, k2 = number(cell.value(K1)), number(cell.value(K2))
            if k1 is not None and k2 is not None:
                found.setdefault((k1, k2), cell)
        return cls(part.title, dict(sorted(found.items())))

    @cached_property
    def k1(self) -> list[float]:
        """The values of k1, ascending."""
        return sorted({k1 for k1, _ in self.cells})

    @cached_property
    def k2(self) -> list[float]:
        """The values of k2, ascending."""
        return sorted({k2 for _, k2 in self.cells})

    def best(self, measure: Measure) -> Place | None:
        """Where validation accuracy is highest; None unless all cells have one."""
        scores = {place: cell.validation(measure.weights) for place, cell in self.cells.items()}
        known = {place: score for place, score in scores.items() if score is not None}
        return max(known, key=lambda place: known[place]) if known and len(known) == len(scores) else None

    def called(self, measure: Measure) -> dict[Place, tuple[str, str]]:
        """The named places that the grid has, each with a short and a long name."""
        names = {place: NAMED[place] for place in self.cells if place in NAMED}
        names |= {place: AVERAGED for place in self.cells if place[0] == 0 and place[1] > 0}
        best = self.best(measure)
        if best is not None:
            short, long = names.get(best, ("", ""))
            names[best] = (f"{short}, best".removeprefix(", "), f"{long}; best by validation".removeprefix("; "))
        return dict(sorted(names.items()))

    def tests(self, measure: Measure) -> dict[Place, Difference]:
        """Every other cell against the paper's; none without that."""
        paper = self.cells.get(PAPER)
        if paper is None:
            return {}
        found = {place: difference(cell, paper, measure) for place, cell in self.cells.items() if place != PAPER}
        return {place: each for place, each in found.items() if each is not None}
