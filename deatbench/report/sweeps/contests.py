"""Table 4: DEAT against each other update, over the learning rates, image by image, and each at its best rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deatbench.report.deat.words import points
from deatbench.report.standings.significance import standing_after_holm
from deatbench.report.sweeps.arms import Arm, Contest, Panel
from deatbench.report.sweeps.cells import Cell, Measure
from deatbench.report.sweeps.differences import Difference, difference
from deatbench.report.sweeps.document import Data, Entry, Section, Table, Value, entries
from deatbench.report.sweeps.inference import Gains
from deatbench.report.sweeps.words import difference_entry, flips_words, mean_entry, p_exact, usual_runs, verdict
from deatbench.report.wording import NOTHING

HEAD = (
    "Network",
    "Against",
    "Rates",
    "Mean gain, points",
    "Gains, points",
    "Paired t-test over rates, p",
    "Sign flips, p",
    "Images and seeds, p",
    "Image by image, rate by rate",
)
BEST_HEAD = ("Network", "Accuracy", "DEAT", "lr", "Against", "its accuracy", "lr", "Difference, points")


class Final(NamedTuple):
    """Two updates, each at the learning rate that validation images chose for these weights.

    `our_edge` and `their_edge` say where that is the first or the last rate that was measured.
    """

    panel: Panel
    other: Arm
    measure: Measure
    ours: Cell
    theirs: Cell
    found: Difference

    @property
    def our_edge(self) -> str:
        return self.panel.deat.edge(self.ours) if self.panel.deat else ""

    @property
    def their_edge(self) -> str:
        return self.other.edge(self.theirs)


def contest_section(panels: Sequence[Panel], measures: Sequence[Measure]) -> Section:
    """Both tables, and the difference at each rate as data."""
    contests = [contest for panel in panels for contest in panel.contests]
    if not contests:
        words = "Nothing to test: no network has DEAT and another update at the same learning rate or step."
        return Section("Table 4: DEAT against the baselines", (words,))
    robust = [measure for measure in measures if measure.robust] or list(measures)
    tables = [_over_rates(contests, measure, folded=measure != robust[0]) for measure in robust]
    best = _at_best(finals(panels, measures))
    text = (_over_words(contests), _image_words(), _best_words() if best else _NO_BEST)
    return Section(
        "Table 4: DEAT against the baselines",
        text,
        tables=[*tables[:1], *best, *tables[1:]],
        data=(_data(contests, robust),),
    )


def finals(panels: Sequence[Panel], measures: Sequence[Measure]) -> list[Final]:
    """DEAT against every other update, each at its best rate by validation accuracy, for best and last weights."""
    found = []
    for panel in panels:
        for other in (arm for arm in panel.arms if panel.deat is not None and arm is not panel.deat):
            for measure in measures:
                assert panel.deat is not None
                ours, theirs = panel.deat.best(measure.weights), other.best(measure.weights)
                each = difference(ours, theirs, measure) if ours and theirs else None
                if ours and theirs and each is not None and measure.weights in ("best", "last"):
                    found.append(Final(panel, other, measure, ours, theirs, each))
    return found


def _over_words(contests: Sequence[Contest]) -> str:
    most = max(len(contest.pairs) for contest in contests)
    least = f", with {most} rates never below p = {2 / 2**most:.2g}" if most <= 8 else ""
    return (
        "Over the rates, a point per learning rate: is the mean difference more than chance? The paper's paired t-test "
        f"takes the rates for a sample from a normal distribution; the other test only flips signs{least}. The test on "
        "images and seeds takes the rates as they are, and asks whether other images and other seeds would show the "
        "mean difference too. In the words on top a gain counts where it and the t-test both give p below 0.05."
    )


def _image_words() -> str:
    return (
        "Image by image: at how many rates the paired test on the same test images finds DEAT better or worse, "
        "corrected for that many tests (Holm). The matched step is the other update's rate at which it goes as far as "
        "DEAT along a gradient that stays the same: lr / (1 − momentum) against lr / √((1 + k1)² + k1²)."
    )


def _best_words() -> str:
    return (
        "Each at its best: for every update the learning rate with the highest robust accuracy on validation images "
        "(of the same epoch as the weights, mean over seeds); the test images have no part in the choice. A bold "
        "difference is more than chance by the paired test on the same images; these tests are not corrected for "
        "their number."
    )


_NO_BEST = (
    "No best against best: not every run has a validation accuracy, and test images may not choose a learning rate."
)


def _over_rates(contests: Sequence[Contest], measure: Measure, *, folded: bool) -> Table:
    rows = [_row(contest, measure) for contest in contests]
    papers = {contest.panel.paper.arch: contest.panel.paper for contest in contests if contest.panel.paper}
    for series in papers.values() if not folded else ():
        shares = ([value / 100 for value in values] for values in (series.deat, series.pgd_at))
        gains = Gains.of(*shares)
        rows.append(_gains_row(f"paper: {series.title}", "PGD-AT at the same learning rate", gains, NOTHING, NOTHING))
    return Table(f"Over the learning rates: {measure.title}", HEAD, rows, frozenset({0, 1, 8}), folded)


def _row(contest: Contest, measure: Measure) -> tuple[Entry, ...]:
    images = contest.pooled(measure)
    p_value = p_exact(images.p_value if images else None)
    return _gains_row(contest.panel.title, contest.name, contest.gains(measure), p_value, by_image(contest, measure))


def _gains_row(title: str, against: str, gains: Gains | None, pooled: str, images: str) -> tuple[Entry, ...]:
    if gains is None:
        return entries(title, against, "0", *[NOTHING] * 6)
    span = f"{points(min(gains.values))} to {points(max(gains.values))}"
    return entries(
        title,
        against,
        str(len(gains.values)),
        points(gains.mean),
        span,
        p_exact(gains.t_p),
        flips_words(gains.flips),
        pooled,
        images,
    )


def by_image(contest: Contest, measure: Measure) -> str:
    """At how many rates DEAT is better and worse on the same images once corrected by Holm."""
    found = list(contest.differences(measure).values())
    tested = sorted((each for each in found if each.p_value is not None), key=lambda each: each.p_value or 0.0)
    kept = tested[: standing_after_holm([each.p_value for each in tested if each.p_value is not None])]
    better, worse = (sum(each.settled == sign for each in kept) for sign in (1, -1))
    if not tested:
        return "no images in common"
    return f"better at {better}, worse at {worse} of {len(tested)}"


def _at_best(found: Sequence[Final]) -> list[Table]:
    if not found:
        return []
    usual = usual_runs(cell for final in found for cell in (final.ours, final.theirs))
    rows = [
        entries(
            final.panel.title,
            final.measure.title,
            mean_entry(final.ours, final.measure, usual),
            Entry(f"{final.ours.rate:g}", final.our_edge),
            final.other.name,
            mean_entry(final.theirs, final.measure, usual),
            Entry(f"{final.theirs.rate:g}", final.their_edge),
            difference_entry(final.found),
        )
        for final in sorted(found, key=lambda each: not each.measure.robust)
    ]
    return [Table("Each at its best rate", BEST_HEAD, rows, frozenset({0, 1, 4}))]


def _data(contests: Sequence[Contest], measures: Sequence[Measure]) -> Data:
    """Every difference of two cells, with the p of the test on images."""
    rows: list[tuple[Value, ...]] = [
        (
            contest.panel.title,
            contest.name,
            rate,
            contest.pairs[rate][1].rate,
            *measure,
            each.value,
            each.n,
            each.p_value,
            verdict(each.settled),
        )
        for contest in contests
        for measure in measures
        for rate, each in contest.differences(measure).items()
    ]
    head = ("network", "against", "lr_deat", "lr_other", "weights", "metric", "difference", "images", "p", "deat_is")
    return Data("table4", head, rows)
