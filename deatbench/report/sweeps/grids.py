"""The report over DEAT's two momenta: what k1 and k2 do to accuracy, and the grid against the paper's point on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deatbench.report.setups import steady_step
from deatbench.report.standings.significance import standing_after_holm
from deatbench.report.sweeps.cells import Measure, cells_of, measures_of
from deatbench.report.sweeps.document import Report
from deatbench.report.sweeps.effects import Level, Noise, level
from deatbench.report.sweeps.grid_sections import followed_section, maps_section, points_section
from deatbench.report.sweeps.parts import deciding, parts_of
from deatbench.report.sweeps.planes import K1, K2, PAPER, Plane
from deatbench.report.sweeps.reading import Swept
from deatbench.report.sweeps.words import behind, difference_words, p_words
from deatbench.report.wording import percent


def grid_report(sweep: Swept) -> Report:
    """Heat maps, margins and tests for every network of the sweep."""
    measures = measures_of(sweep.results)
    planes = [plane for part in parts_of(cells_of(sweep.results), (K1, K2)) if (plane := Plane.of(part)).cells]
    if not planes:
        return Report(findings=("No run has a k1 and a k2: there is no grid to draw.",))
    chosen = deciding(measures)
    findings = [line for plane in planes for measure in chosen for line in _findings(plane, measure)]
    return Report(
        findings=(*findings, *dict.fromkeys(line for plane in planes if (line := _steps(plane)))),
        sections=(maps_section(planes, measures), points_section(planes, chosen), followed_section(planes, chosen)),
    )


def _findings(plane: Plane, measure: Measure) -> list[str]:
    where = f"{plane.title}, {measure.title}"
    found = [f"{where}: {_margins(plane, measure)}"]
    best, tested = plane.best(measure), plane.tests(measure)
    if PAPER not in plane.cells:
        return [*found, f"{where}: the paper's k1 = 1, k2 = 0.8 has no run, so nothing is tested against it."]
    if best == PAPER:
        found.append(f"{where}: validation chooses the paper's own k1 = 1, k2 = 0.8 as the best cell.")
    elif best is not None and best in tested:
        said = {1: "better", -1: "worse", 0: "not settled to be any different"}[tested[best].settled]
        found.append(
            f"{where}: the best cell by validation, k1 = {best[0]:g}, k2 = {best[1]:g}, is {said} than the "
            f"paper's: {difference_words(tested[best])}."
        )
    known = sorted((each for each in tested.values() if each.p_value is not None), key=lambda each: each.p_value or 0.0)
    kept = known[: standing_after_holm([each.p_value for each in known if each.p_value is not None])]
    better, worse = (sum(each.settled == sign for each in kept) for sign in (1, -1))
    if known:
        found.append(
            f"{where}: of {len(known)} other cells {better} are better than the paper's and {worse} worse, "
            f"corrected for {len(known)} tests (Holm); from {behind(list(plane.cells.values()))}."
        )
    return found


def _steps(plane: Plane) -> str | None:
    """What else changes along k1: the length of a step, where the update is divided by its norm."""
    found: dict[float, float] = {}
    for (k1, _), cell in sorted(plane.cells.items()):
        step = steady_step(cell.config)
        if step is None or not math.isclose(found.setdefault(k1, step), step, rel_tol=1e-6):
            return None  # a step of its own for each cell: nothing general to say
    if len(set(found.values())) < 2:
        return None
    steps = ", ".join(f"{step:.3g} at k1 = {k1:g}" for k1, step in found.items())
    return (
        f"{plane.title}: on a steady gradient the step is {steps}: along k1 its length changes too, so this grid alone "
        "does not say which of the two accuracy follows. Runs at matched steps would."
    )


def _margins(plane: Plane, measure: Measure) -> str:
    """How far the mean moves along each momentum, beside how far seeds move it."""
    if len(plane.cells) < len(plane.k1) * len(plane.k2):
        return "the grid has holes, so what k1 does cannot be told from what k2 does yet."
    noise = Noise.of(plane.cells.values(), measure)
    words = []
    for name, other, values, turn in (("k1", "k2", plane.k1, 0), ("k2", "k1", plane.k2, 1)):
        levels = _levels(plane, measure, values, turn)
        if len(levels) > 1:
            low, high = min(levels, key=lambda v: levels[v]), max(levels, key=lambda v: levels[v])
            p_value = noise.p_value([list(levels.values())]) if noise else None
            words.append(
                f"averaged over {other}, {name} moves accuracy by {100 * (levels[high][0] - levels[low][0]):.1f} "
                f"points (lowest at {low:g}, highest at {high:g}; F-test: {p_words(p_value)})"
            )
    return "; ".join(words) + (f"; seeds alone spread it by ±{percent(noise.spread)}." if noise else ".")


def _levels(plane: Plane, measure: Measure, values: Sequence[float], turn: int) -> dict[float, Level]:
    """Mean over the other momentum for each value of one, as far as cells are there."""
    found = {
        value: level((cell for place, cell in plane.cells.items() if place[turn] == value), measure) for value in values
    }
    return {value: each for value, each in found.items() if each is not None}
