"""Words that several kinds of report share: p-values, differences, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from deatbench.report.deat.words import p_text, points, power
from deatbench.report.sweeps.cells import Cell, Measure, seeds_of
from deatbench.report.sweeps.differences import Difference
from deatbench.report.sweeps.document import Entry
from deatbench.report.sweeps.inference import Correlation, SignFlips
from deatbench.report.wording import NOTHING, percent


def p_words(p_value: float | None) -> str:
    """`p = 0.034`, `p < 0.001`, `no p`."""
    if p_value is None:
        return "no p"
    text = p_text(p_value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def p_exact(p_value: float | None) -> str:
    """A p-value in a table of tests: small ones with their power of ten."""
    if p_value is None:
        return NOTHING
    return power(p_value) if 0 < p_value < 0.001 else p_text(p_value)


def flips_words(flips: SignFlips) -> str:
    """`0.031 (all 32 patterns)`."""
    count = f"all {flips.patterns:,} patterns" if flips.exact else f"{flips.patterns:,} random patterns"
    return f"{p_exact(flips.p_value)} ({count})"


def coefficient(found: Correlation) -> Entry:
    """A correlation with its p below."""
    return Entry(f"{found.value:.3f}".replace("-", "−"), p_words(found.p_value))


def difference_entry(found: Difference | None) -> Entry:
    """A difference in points, bold where it is settled, with its p."""
    if found is None:
        return Entry(NOTHING)
    return Entry(points(found.value), p_words(found.p_value), strong=found.settled != 0)


def difference_words(found: Difference) -> str:
    """`+1.2 points, p = 0.03 on the same 200 images`."""
    seen = f"{p_words(found.p_value)} on the same {found.n:,} images" if found.n else "no images in common"
    return f"{points(found.value)} points, {seen}"


def verdict(settled: int) -> str:
    """What a settled sign is called in the table of a test."""
    return {1: "better", -1: "worse", 0: "not settled"}[settled]


def usual_runs(cells: Iterable[Cell]) -> int:
    """How many runs most cells have."""
    return Counter(cell.seeds for cell in cells).most_common(1)[0][0]


def runs_words(usual: int) -> str:
    """What a table says once instead of in every cell."""
    return f"{usual} {'run' if usual == 1 else 'runs'} each where a cell does not say otherwise."


def mean_entry(cell: Cell | None, measure: Measure, usual: int, *, strong: bool = False) -> Entry:
    """Mean ± spread over seeds; below it the number of runs where it is not the usual one."""
    summary = cell.summary(measure) if cell else None
    if cell is None or summary is None:
        return Entry(NOTHING)
    spread = "" if summary.spread is None else f" ±{percent(summary.spread)}"
    runs = len(cell.metrics(measure))
    note = "" if runs == usual else f"{runs} {'run' if runs == 1 else 'runs'}"
    return Entry(f"{percent(summary.mean)}{spread}", note, strong)


def behind(cells: Sequence[Cell]) -> str:
    """`5 points, 3 seeds`."""
    return f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'} of {seeds_of(cells)}"
