"""The DEAT page's sentences: what was found, by rules from the numbers, and what the paper leaves open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deatbench.records import Checkpoint, PublishedResult
from deatbench.report.deat.claim import Series, table2
from deatbench.report.deat.comparisons import Comparison, Verdict
from deatbench.report.deat.pairs import Pair
from deatbench.report.deat.scope import MIN_RATES, Sweep
from deatbench.report.escape import plain
from deatbench.report.metrics import describe
from deatbench.report.setups import optimizer
from deatbench.report.standings.significance import standing_after_holm
from deatbench.report.wording import percent

CLAIM = (
    "Sun, Sinha and Zhang see adversarial training by SGD as a diffusion and claim that a stronger diffusion, which a "
    "larger learning rate also gives, generalises better. DEAT strengthens it at the same learning rate by two "
    "interleaved momenta, one of them negative, and is reported to gain 1 to 2 points of robust accuracy over PGD-AT."
)
CITATION = '"Enhance Diffusion to Improve Robust Generalization", KDD 2023, arXiv 2306.02618'

STATED = (
    "The paper states mean gains of 1.11 to 1.22 points with p < 3 × 10⁻⁹, and correlations with the rate of 0.71 to "
    "0.92 (Pearson), 0.92 to 0.998 (Spearman) and 0.82 to 0.98 (Kendall). Its tests take in rates below 0.01, which "
    "the table here does not hold, so the figures are not the same."
)


def points(share: float) -> str:
    """A difference of shares in points, with its sign: `+1.2`, `−0.4`, `0.0`."""
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def p_text(p_value: float | None) -> str:
    """A p-value as it is written in a table: `0.034`, `< 0.001`; a dash where none could be had."""
    if p_value is None:
        return "–"
    if p_value < 0.001:
        return "< 0.001"
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.3f}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Decided = tuple[Checkpoint, Comparison]


def power(value: float) -> str:
    """A small number as `1.7 × 10⁻⁵`."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} × 10{str(int(exponent)).translate(_RAISED)}"


def headline(decided: Sequence[Decided | None]) -> str:
    """How many pairs speak for DEAT, against it and for neither, and what is left once it counts how many they are."""
    found = [each[1] for each in decided if each is not None]
    if not found:
        return "Not measured: no DEAT here has a PGD-AT beside it that differs in nothing but the update."
    said = Counter(each.verdict for each in found)
    words = (
        f"{len(found)} {'pair' if len(found) == 1 else 'pairs'}: DEAT is better in {said[Verdict.BETTER]}, worse in "
        f"{said[Verdict.WORSE]}; in {said[Verdict.OPEN]} the images show no difference."
    )
    tested = [each.p_value for each in found if each.p_value is not None]
    settled = sum(each.verdict is not Verdict.OPEN for each in found if each.p_value is not None)
    if settled and len(tested) > 1:
        left = standing_after_holm(tested)
        words += (
            f" Corrected for {len(tested)} tests (Holm), {left} of the {settled} {'stands' if left == 1 else 'stand'}."
        )
    return words


def sentence(pair: Pair) -> str:
    """What the pair's deciding comparison says."""
    against = f"{pair.deat.network}, against {optimizer(pair.baseline.config)}"
    if pair.deciding is None:
        return f"{against}: both have not been attacked alike."
    weights, found = pair.deciding
    return (
        f"{against}: {_said(found)} Robust accuracy under {describe(found.metric).title} is "
        f"{percent(found.deat.mean)} % against {percent(found.baseline.mean)} % ({weights} weights, {_test(found)}, "
        f"{pair.seeds})."
    )


def _said(found: Comparison) -> str:
    if found.verdict is Verdict.OPEN:
        return f"{found.verdict}."
    return f"{found.verdict} by {points(abs(found.difference)).removeprefix('+')} points."


def _test(found: Comparison) -> str:
    if found.p_value is None:
        return "no images in common, so judged by the intervals"
    text = p_text(found.p_value)
    return f"p {text if text.startswith('<') else f'= {text}'} on the same {found.n:,} images"


def paper_headline() -> str:
    """The paper's gains, computed from its table."""
    gains = [series.mean_gain for series in table2()]
    positive = sum(gain > 0 for series in table2() for gain in series.gains)
    total = sum(len(series.gains) for series in table2())
    return (
        f"On {len(gains)} networks +{min(gains):.1f} to +{max(gains):.1f} points on average; DEAT is ahead at "
        f"{positive} of {total} points of the table."
    )


def rate_headline() -> str:
    """How accuracy follows the learning rate in the paper's table."""
    ranks = [series.ranks(values).spearman for series in table2() for values in (series.pgd_at, series.deat)]
    return f"Rank correlation (Spearman) {min(ranks):.2f} to {max(ranks):.3f} over {len(table2()[0].rates)} rates."


def measured_rates(found: Sequence[Sweep]) -> str:
    """What the records here say about learning rates."""
    if not found:
        return f"Not measured on the boards: no configuration there was trained at {MIN_RATES} or more learning rates."
    ranks = sorted(sweep.spearman for sweep in found)
    span = f"{ranks[0]:.2f}" if len(ranks) == 1 else f"{ranks[0]:.2f} to {ranks[-1]:.2f}"
    most = max(sweep.rates for sweep in found)
    configurations = "configuration" if len(found) == 1 else "configurations"
    return f"Rank correlation (Spearman) {span} in {len(found)} {configurations} of up to {most} rates."


def open_questions(references: Sequence[PublishedResult]) -> list[tuple[str, str]]:
    """What the paper's numbers do not settle; each figure in it is computed from them, or named with its source."""
    series = table2()
    highest = max(series[0].rates)
    still = sum(max(each.pgd_at) == each.pgd_at[each.rates.index(highest)] for each in series)
    bests = ", ".join(f"{each.title} +{each.best_gain:.1f}" for each in series)
    return [
        (
            "Which baseline",
            f"Computed from the paper's numbers: PGD-AT is most robust at the largest rate, {highest:g}, on {still} of "
            f"{len(series)} networks. Under momentum 0.9 that rate would move the weights by {highest / 0.1:g} per "
            "unit of a gradient that stays the same, ten times as far as without momentum. So the baseline looks like "
            "SGD without momentum; that is a reading, not a quotation. The field's usual baseline has momentum 0.9, "
            f"and the paper's table has no row for it.{_usual(references, series)}",
        ),
        (
            "Each at its best",
            "The table ends where both still rise, so it may hold the best rate of neither. With each at its own best "
            f"of these rates, DEAT's lead in points is: {bests}.",
        ),
        (
            "Equal rate, unequal step",
            "DEAT divides its step by √((1 + k1)² + k1²): with k1 = 1 it goes 0.45 times as far along a steady "
            "gradient as SGD without momentum at the same rate, and 0.045 times as far as with momentum 0.9. A fair "
            "comparison needs PGD-AT without momentum, with momentum 0.9, and with momentum 0.9 at the matched step.",
        ),
        (
            "What p means here",
            "The paired t-test takes the learning rates for a sample. Its p says that the gain does not come and go "
            "with the rate; it says nothing about another baseline, data set or attack.",
        ),
        (
            "Not in the paper",
            "AutoAttack, clean accuracy, a second data set, other batch sizes, other k1 and k2, training times.",
        ),
    ]


def _usual(references: Sequence[PublishedResult], series: Sequence[Series]) -> str:
    """PGD-AT as others published it under the same attack and network, best and last, if the references have it."""
    ours = next(each for each in series if each.arch == "preact_resnet18")
    found = [
        f"{percent(result.pgd_acc)} % ({plain(result.checkpoint or 'weights not named', 40)})"
        for result in references
        if (result.method, result.arch, result.pgd_attack) == ("PGD-AT", ours.arch, "pgd-10")
        and (result.dataset, result.threat.norm, result.threat.eps_text) == ("cifar10", "Linf", "8/255")
        and result.pgd_acc is not None
    ]
    if not found:
        return ""
    return (
        f" Published elsewhere for PGD-AT on {ours.title} under PGD-10: {', '.join(found)}; DEAT's highest here is "
        f"{max(ours.deat):.1f} % at the last epoch of a shorter training."
    )
