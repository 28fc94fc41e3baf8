"""What holds and what does not, in words that follow by rule from the numbers of the sweep."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from deatbench.report.deat.claim import table2
from deatbench.report.deat.words import points, rate_headline
from deatbench.report.standings.runs import AUTOATTACK
from deatbench.report.standings.significance import LEVEL, standing_after_holm
from deatbench.report.sweeps.arms import MATCHED, SAME, Arm, Contest, Panel
from deatbench.report.sweeps.cells import Cell, Measure
from deatbench.report.sweeps.contests import finals
from deatbench.report.sweeps.document import Claim
from deatbench.report.sweeps.inference import Gains, Ranks, ranks
from deatbench.report.sweeps.parts import deciding
from deatbench.report.sweeps.words import difference_words, p_words

NOT_THERE = "Not in the paper."
CONTROLS = ((0.0, SAME), (0.9, SAME), (0.9, MATCHED))


def claims_of(panels: Sequence[Panel], measures: Sequence[Measure]) -> tuple[Claim, ...]:
    """The paper's claims and the controls that it left out, each with what was found on every network."""
    chosen = deciding(measures)
    contests = [contest for panel in panels for contest in panel.contests]
    names = list(dict.fromkeys(contest.name for contest in contests))
    claims = [_over_rates([c for c in contests if c.name == name], measure) for measure in chosen for name in names]
    claims += _not_compared(panels)
    others = list(dict.fromkeys(arm.name for panel in panels for arm in panel.arms if arm is not panel.deat))
    claims += [each for measure in chosen for name in others if (each := _at_best(name, panels, measure))]
    return (*claims, _rises(panels, chosen[0]), _narrows(panels))


def _not_compared(panels: Sequence[Panel]) -> list[Claim]:
    """The baselines that DEAT has to be held against and is not."""
    contests = [each for panel in panels for each in panel.contests]
    found = []
    for momentum, how in CONTROLS:
        if not any(each.theirs.momentum == momentum and each.how == how for each in contests):
            claim = f"DEAT is more robust than PGD-AT with momentum {momentum:g} at the {how}"
            paper = NOT_THERE if momentum else _paper_gains()
            found.append(Claim(claim, paper, f"Not measured: {_lacking(panels, momentum, how)}."))
    return found


def _lacking(panels: Sequence[Panel], momentum: float, how: str) -> str:
    steps = [cell.step for panel in panels if panel.deat for cell in panel.deat.cells.values() if cell.step]
    if not steps:
        return "there is no DEAT"
    if how == MATCHED:
        low, high = (f"{end * (1 - momentum):.2g}" for end in (min(steps), max(steps)))
        return f"it takes its learning rates between {low} and {high}"
    return "it was not trained at DEAT's learning rates"


def tally(settled: Sequence[int], things: str) -> str:
    """`Holds on 2 of 3 networks, the opposite on 1.`"""
    if not settled:
        return "Not measured."
    holds, opposite, still = settled.count(1), settled.count(-1), settled.count(0)
    if len(settled) == 1:
        return "Holds." if holds else "The opposite holds." if opposite else "Not settled."
    words = [f"holds on {holds or 'none'} of {len(settled)} {things}"]
    words += [f"the opposite on {opposite}"] if opposite else []
    words += [f"not settled on {still}"] if still else []
    return f"{', '.join(words)}.".capitalize()


def _over_rates(contests: Sequence[Contest], measure: Measure) -> Claim:
    settled, details, tested = [], [], []
    for contest in contests:
        gains, p_value = contest.gains(measure), contest.p_value(measure)
        if gains is None:
            continue
        sure = p_value is not None and p_value < LEVEL
        settled.append((1 if gains.mean > 0 else -1) if sure else 0)
        tested += [p_value] if p_value is not None else []
        details.append(f"{contest.panel.title}: {_gained(contest, gains, measure)}")
    plain_sgd = contests[0].theirs.momentum == 0 and contests[0].how == SAME
    paper = _paper_gains() if plain_sgd and measure.metric != AUTOATTACK else NOT_THERE
    here = tally(settled, "networks") + _after_holm(tested)
    return Claim(f"DEAT is more robust than {contests[0].name} ({measure.title})", paper, here, tuple(details))


def _gained(contest: Contest, gains: Gains, measure: Measure) -> str:
    """One network's mean gain with its tests and how many runs are behind it."""
    runs = {run.run_id for pair in contest.pairs.values() for cell in pair for run in cell.runs}
    images, n = contest.pooled(measure), len(gains.values)
    return (
        f"{points(gains.mean)} points over {n} {'rate' if n == 1 else 'rates'}, {len(runs)} runs; t-test over rates "
        f"{p_words(gains.t_p)}, sign flips {p_words(gains.flips.p_value)}, images and seeds "
        f"{p_words(images.p_value if images else None)}"
    )


def _paper_gains() -> str:
    gains = "; ".join(f"{each.title} {each.mean_gain:+.1f}" for each in table2())
    return f"Mean gains in points over 14 rates: {gains}. Its baseline behaves like SGD without momentum."


def _after_holm(tested: Sequence[float]) -> str:
    significant = sum(p_value < LEVEL for p_value in tested)
    if len(tested) < 2 or not significant:
        return ""
    held = standing_after_holm(tested)
    left = "nothing changes" if held == significant else f"{held} of {significant} stand"
    return f" Corrected for {len(tested)} tests (Holm), {left}."


def _at_best(name: str, panels: Sequence[Panel], measure: Measure) -> Claim | None:
    found = [each for each in finals(panels, [measure]) if each.other.name == name]
    if not found:
        return None
    bests = "; ".join(f"{each.title} {each.best_gain:+.1f}" for each in table2())
    details = [
        f"{each.panel.title}: {difference_words(each.found)} (lr {_at(each.ours, each.our_edge)} against "
        f"{_at(each.theirs, each.their_edge)}, {each.ours.seeds} and {each.theirs.seeds} runs)"
        for each in found
    ]
    tested = [each.found.p_value for each in found if each.found.p_value is not None]
    here = tally([each.found.settled for each in found], "networks") + _after_holm(tested)
    at_end = sum(each.our_edge.startswith("largest") for each in found)
    if at_end:
        here += f" DEAT is best at the largest rate measured on {at_end} of {len(found)}: larger ones may be better."
    paper = f"Best against best of its table, on test images: {bests}." if found[0].other.momentum == 0 else NOT_THERE
    title = f"Each at its best rate, DEAT is more robust than {name} ({measure.title})"
    return Claim(title, paper, here, tuple(details))


def _at(cell: Cell, edge: str) -> str:
    return f"{cell.rate:g} [{edge}]" if edge else f"{cell.rate:g}"


def _rises(panels: Sequence[Panel], measure: Measure) -> Claim:
    found = [(panel, arm, _against_rate(arm.series(measure))) for panel in panels for arm in panel.arms]
    return _followed("Robust accuracy rises with the learning rate", rate_headline(), found, sign=1)


def _narrows(panels: Sequence[Panel]) -> Claim:
    found = [(panel, arm, _against_rate(gaps(arm))) for panel in panels for arm in panel.arms]
    paper = (
        "A stronger diffusion, by a larger learning rate or DEAT, is to generalise better (its theory and Figure 5)."
    )
    return _followed("The gap between training and test images narrows with the learning rate", paper, found, sign=-1)


def _followed(title: str, paper: str, found: Sequence[tuple[Panel, Arm, Ranks]], *, sign: int) -> Claim:
    """A claim that something follows the rate upwards (1) or downwards (-1), by Kendall's exact test."""
    settled, details = [], []
    for panel, arm, each in found:
        tau, p_value = each.kendall
        if p_value is None:
            continue
        settled.append(0 if p_value >= LEVEL else 1 if tau * sign > 0 else -1)
        words = f"ρ = {each.spearman.value:.2f}, τ = {tau:.2f}".replace("-", "−")
        details.append(f"{panel.title}, {arm.name}: {words} over {each.n} rates, {p_words(p_value)} (Kendall)")
    nowhere = "Not measured: no update was tried at three learning rates that lead to different values."
    return Claim(title, paper, tally(settled, "curves") if settled else nowhere, tuple(details))


def _against_rate(series: Sequence[tuple[float, float]]) -> Ranks:
    return ranks([rate for rate, _ in series], [value for _, value in series])


def gaps(arm: Arm) -> list[tuple[float, float]]:
    """(rate, training minus test robust accuracy of the last weights, mean over seeds), ascending."""
    found = {rate: [train - test for train, test in cell.gap("last")] for rate, cell in arm.cells.items()}
    return [(rate, statistics.fmean(found[rate])) for rate in sorted(found) if found[rate]]
