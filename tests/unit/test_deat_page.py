"""The DEAT page: the paper's statistics are recomputed, the words follow from the numbers, nothing is left unsaid."""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trainings import DEAT, PLAIN_SGD, SGD, Made, inputs, made
from markdown_it import MarkdownIt
from scipy import stats

import deatbench.report
from deatbench.errors import ConfigError
from deatbench.records import Flag, wilson_interval
from deatbench.report.deat.claim import table2
from deatbench.report.deat.comparisons import Comparison, Verdict
from deatbench.report.deat.page import deat_pages
from deatbench.report.deat.pairs import Pair, pairs_of, setups_of
from deatbench.report.deat.words import headline, open_questions, p_text, points, power, sentence
from deatbench.report.inputs import Inputs
from deatbench.report.reference import reference_results
from deatbench.report.rendering import MARK
from deatbench.report.setups import optimizer, steady_step
from deatbench.report.standings.boards import boards_of
from deatbench.report.standings.correlations import kendall, pearson, spearman
from deatbench.report.standings.rows import Summary
from deatbench.report.standings.significance import mcnemar, paired, standing_after_holm

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "a|b `c` *d* [f](https://evil.example) <b>h</b>",
    "\u202egnp.exe\x00",
]
N = 400
CSV = Path(deatbench.report.__file__).parent / "reference" / "deat_table2.csv"


def first(count: int) -> dict[str, np.ndarray]:
    """Verdicts in which the first `count` of N images withstand, under PGD ten more."""
    place_N = np.arange(N)
    return {"pgd-20": place_N < count + 10, "autoattack": place_N < count, "clean": place_N < N - 20}


def pairs(*trainings: Made) -> list[Pair]:
    return [pair for board in boards_of(inputs(*trainings)) for pair in pairs_of(setups_of(board))]


def columns() -> dict[str, list[float]]:
    rows = list(csv.DictReader(CSV.read_text(encoding="utf-8").splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


@pytest.mark.parametrize("arch", ["vgg19", "senet18", "preact_resnet18"])
def test_statistics_of_the_paper_are_scipys(arch: str) -> None:
    table, series = columns(), next(each for each in table2() if each.arch == arch)
    rates, ours, theirs = table["lr"], table[f"{arch}_deat"], table[f"{arch}_pgd_at"]
    assert series.mean_gain == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert series.p_value == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)
    assert series.best_gain == pytest.approx(max(ours) - max(theirs))
    for values in (ours, theirs):
        ranks = series.ranks(values)
        assert ranks.pearson == pytest.approx(stats.pearsonr(rates, values)[0])
        assert ranks.spearman == pytest.approx(stats.spearmanr(rates, values)[0])
        assert ranks.kendall == pytest.approx(stats.kendalltau(rates, values)[0])
    page = deat_pages(Inputs())["deat.html"]
    assert f"{series.mean_gain:+.2f}" in page
    assert power(series.p_value) in page


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=20))
def test_correlations_are_scipys_with_ties_too(points: list[tuple[int, int]]) -> None:
    a, b = ([float(value) for value in column] for column in zip(*points, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert pearson(a, b) == spearman(a, b) == kendall(a, b) == 0.0
    else:
        assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
        assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b)[0], abs=1e-12)


def test_table_is_on_the_page_number_by_number() -> None:
    shown = re.findall(r"\d+\.\d{2}(?=<td|</tr)", deat_pages(Inputs())["deat.html"])
    for name, values in columns().items():
        assert name == "lr" or all(f"{value:.2f}" in shown for value in values)


def test_what_the_text_says_of_the_paper_holds_in_its_table() -> None:
    assert all(gain > 0 for series in table2() for gain in series.gains)
    for series in table2():  # "the table ends where both still rise"
        assert max(series.deat) == series.deat[-1]
        assert max(series.pgd_at) == series.pgd_at[-1]
    ratio = steady_step({"optimizer": DEAT | {"lr": 1.0}})
    assert ratio == pytest.approx(0.447, abs=1e-3)
    text = dict(open_questions(()))["Equal rate, unequal step"]
    assert f"{ratio:.2f} times" in text
    assert f"{ratio / 10:.3f} times" in text


@given(st.floats(-1, 1), st.floats(0, 1))
def test_words_follow_the_sign_only_where_the_test_settles_it(difference: float, p_value: float) -> None:
    summary = Summary(0.5, None, 100, (0.4, 0.6))
    verdict = Comparison("autoattack", summary, summary, difference, 100, p_value).verdict
    if p_value >= 0.05 or difference == 0:
        assert verdict is Verdict.OPEN
    else:
        assert verdict is (Verdict.BETTER if difference > 0 else Verdict.WORSE)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300))
def test_without_shared_images_intervals_decide(n: int, a: int, b: int) -> None:
    a, b = min(a, n), min(b, n)
    ours, theirs = (Summary(k / n, None, n, wilson_interval(k, n)) for k in (a, b))
    verdict = Comparison("autoattack", ours, theirs, ours.mean - theirs.mean, None, None).verdict
    apart = ours.ci95[0] > theirs.ci95[1] or ours.ci95[1] < theirs.ci95[0]
    assert verdict is ((Verdict.BETTER if a > b else Verdict.WORSE) if apart else Verdict.OPEN)


@settings(max_examples=20)
@given(st.integers(0, N - 40), st.integers(0, N - 40))
def test_a_pair_is_judged_by_mcnemar_on_its_verdicts(ours: int, theirs: int) -> None:
    (pair,) = pairs(made("deat", verdicts=first(ours)), made("pgd-at", verdicts=first(theirs)))
    assert pair.deciding is not None
    weights, found = pair.deciding
    expected = mcnemar(first(ours)["autoattack"], first(theirs)["autoattack"])
    assert (weights, found.metric, found.n) == ("best", "autoattack", N)
    assert found.p_value == pytest.approx(expected.p_value)
    assert found.difference == pytest.approx((ours - theirs) / N)
    assert ("DEAT is better" in sentence(pair)) == (expected.p_value < 0.05 and ours > theirs)
    assert ("DEAT is worse" in sentence(pair)) == (expected.p_value < 0.05 and ours < theirs)


def test_seeds_go_into_one_test() -> None:
    ours = [made("deat", seed=seed, verdicts=first(200 + 9 * seed)) for seed in (0, 1, 2)]
    theirs = [made("pgd-at", seed=seed, verdicts=first(230 - 5 * seed)) for seed in (0, 1)]
    (pair,) = pairs(*ours, *theirs)
    assert pair.deciding is not None
    a_MN, b_KN = (np.stack([first(k)["autoattack"] for k in counts]) for counts in ((200, 209, 218), (230, 225)))
    assert pair.deciding[1].p_value == pytest.approx(paired(a_MN, b_KN))
    assert pair.seeds == "3 and 2 seeds"


def test_only_the_update_may_differ() -> None:
    deat = made("deat")
    assert len(pairs(deat, made("pgd-at"), made("pgd-at", PLAIN_SGD))) == 2
    for other in (
        made("trades"),
        made("pgd-at", arch="senet18"),
        made("pgd-at", width=0.5),
        made("pgd-at", accuracies=(0.2, 0.4)),
        made("pgd-at", dataset="cifar10"),
        made("pgd-at", eps="4/255"),
        made("pgd-at", settings={"batch_size": 64}),
        made("pgd-at", settings={"attack": {"steps": 5, "rel_step": 0.5, "bn_mode": "eval"}}),
    ):
        assert pairs(deat, other) == []


def test_of_a_sweep_of_the_baseline_the_same_rate_and_the_matched_step_stay() -> None:
    step = steady_step({"optimizer": DEAT})
    assert step is not None
    others = [made("pgd-at", SGD | {"lr": rate}) for rate in (0.01, 0.1, step / 10, 0.5)]
    assert {pair.baseline.rate for pair in pairs(made("deat"), *others)} == {step / 10, 0.5}
    assert {pair.baseline.rate for pair in pairs(made("deat"), *others[:2])} == {0.01}  # steps 0.1 and 1 beside 0.22


def test_many_learning_rates_do_not_make_a_pair_of_each_two() -> None:
    rates = [0.01 * turn for turn in range(1, 31)]
    found = pairs(*(made(m, spec | {"lr": rate}) for m, spec in (("deat", DEAT), ("pgd-at", SGD)) for rate in rates))
    assert len(found) <= 3 * len(rates)
    assert {pair.deat.rate for pair in found} == set(rates)


def test_sweeps_are_ranked_against_the_rate() -> None:
    counts = {0.1: 100, 0.2: 140, 0.3: 120, 0.5: 200}
    swept = [made("deat", DEAT | {"lr": rate}, verdicts=first(count)) for rate, count in counts.items()]
    expected = stats.spearmanr(list(counts), list(counts.values()))[0]
    page = deat_pages(inputs(*swept, made("pgd-at")))["deat.md"]
    assert f"Rank correlation (Spearman) {expected:.2f} in 1 configuration of up to 4 rates." in page
    assert "Not measured on the boards: no configuration" in deat_pages(inputs(*swept[:2]))["deat.md"]


def test_pgd_at_under_deats_update_counts_as_deat() -> None:
    (pair,) = pairs(made("pgd-at", DEAT), made("pgd-at", SGD))
    assert pair.deat.is_deat
    assert not pair.baseline.is_deat


def test_other_images_are_not_paired() -> None:
    theirs = made("pgd-at", verdicts=first(300))
    moved = theirs.evaluation.samples.model_copy(update={"indices": tuple(range(1, N + 1))})
    elsewhere = Made(theirs.card, theirs.epochs, theirs.evaluation.model_copy(update={"samples": moved}))
    (pair,) = pairs(made("deat", verdicts=first(100)), elsewhere)
    assert pair.deciding is not None
    assert pair.deciding[1].p_value is None
    assert pair.deciding[1].verdict is Verdict.WORSE
    assert "no images in common" in sentence(pair)


def test_best_and_last_weights_are_both_compared() -> None:
    trainings = [
        made(method, checkpoint=checkpoint, verdicts=first(count))
        for method, checkpoint, count in (
            ("deat", "best", 200), ("deat", "last", 190), ("pgd-at", "best", 210), ("pgd-at", "last", 300)
        )
    ]  # fmt: skip
    (pair,) = pairs(*trainings)
    assert list(pair.comparisons) == ["best", "last"]
    assert pair.as_in_paper is not None
    assert pair.as_in_paper[0] == "last"
    assert pair.as_in_paper[1].metric == "pgd-20"
    assert pair.as_in_paper[1].verdict is Verdict.WORSE


def test_headline_counts_and_corrects() -> None:
    def decided(difference: float, p_value: float) -> tuple[str, Comparison]:
        summary = Summary(0.5, None, 100, (0.4, 0.6))
        return "best", Comparison("autoattack", summary, summary, difference, 100, p_value)

    found = [decided(0.1, 0.001), decided(-0.1, 0.03), decided(-0.1, 0.04), decided(0.1, 0.7), None]
    words = headline(found)  # type: ignore[arg-type]
    assert "4 pairs: DEAT is better in 1, worse in 2; in 1 the images show no difference." in words
    assert "Corrected for 4 tests (Holm), 1 of the 3 stands." in words
    assert "Not measured" in headline([None])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_the_step_down_rule(p_values: list[float]) -> None:
    m, ordered = len(p_values), sorted(p_values)
    expected = next((k for k in range(m) if ordered[k] >= 0.05 / (m - k)), m)
    assert abs(standing_after_holm(p_values) - expected) <= sum(
        abs(p * (m - k) - 0.05) < 1e-12 for k, p in enumerate(ordered)
    )


def test_what_is_missing_is_listed_and_a_lone_deat_is_not_lost() -> None:
    page = deat_pages(inputs(made("deat")))["deat.html"]
    assert "45.0 % under AutoAttack, with nothing beside it" in page
    assert "PGD-AT with momentum 0;" in page
    step = steady_step({"optimizer": DEAT})
    assert step is not None
    matched = SGD | {"lr": step / 10}
    assert f"at the matched step, lr {step / 10:.2g}" in page
    full = [made("deat", seed=s) for s in (0, 1)] + [made("pgd-at", o) for o in (SGD, PLAIN_SGD, matched)]
    assert "lacks" not in deat_pages(inputs(*full))["deat.html"]


def test_coverage_counts_points_of_the_paper_only_at_its_own_setting() -> None:
    paper = {"epochs": 110, "batch_size": 128}
    there = made("deat", DEAT | {"lr": 0.1}, arch="senet18", width=1.0, dataset="cifar10", settings=paper)
    short = made("deat", DEAT | {"lr": 0.2}, arch="senet18", width=1.0, dataset="cifar10")
    between = made("deat", DEAT | {"lr": 0.11}, arch="senet18", width=1.0, dataset="cifar10", settings=paper)
    plain = made("pgd-at", PLAIN_SGD | {"lr": 0.3}, arch="vgg19", width=1.0, dataset="cifar10", settings=paper)
    page = deat_pages(inputs(there, short, between, plain))["deat.md"]
    assert "| SENet-18 | 1 of 14 | 0 of 14 | 0 of 14 |" in page
    assert "| VGG-19 | 0 of 14 | 1 of 14 | 0 of 14 |" in page
    assert "| PreAct-ResNet-18 | 0 of 14 | 0 of 14 | 0 of 14 |" in page


def test_differences_name_what_differs_and_say_same_elsewhere() -> None:
    page = deat_pages(inputs(made("deat"), made("pgd-at")))["deat.md"]
    assert "| Data set | cifar10 | digits |" in page
    assert "| Threat | L∞ ε = 8/255 | same |" in page
    assert "| Batch size | 128 | 32 |" in page
    assert "| k1, k2 of DEAT | 1, 0.8 | same |" in page


def test_no_records_make_the_papers_side_and_say_that_nothing_was_measured() -> None:
    pages = deat_pages(Inputs())
    assert set(pages) == {"deat.html", "deat.md", "deat-table2.svg"}
    for kind in ("html", "md"):
        assert "Not measured" in pages[f"deat.{kind}"]
        assert "deatbench run" in pages[f"deat.{kind}"]
        assert "0 of 14" in pages[f"deat.{kind}"]


def test_references_are_named_as_published_elsewhere() -> None:
    text = open_questions(reference_results())[0][1]
    assert "Published elsewhere" in text
    assert "53.5 % (best)" in text
    assert "Published elsewhere" not in open_questions(())[0][1]


@pytest.mark.parametrize(("share", "text"), [(0.012, "+1.2"), (-0.0341, "−3.4"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_points(share: float, text: str) -> None:
    assert points(share) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(None, "–"), (0.0004, "< 0.001"), (0.049, "0.049"), (0.2, "0.20"), (1.0, "1.00")]
)
def test_p_text(p_value: float | None, text: str) -> None:
    assert p_text(p_value) == text


@pytest.mark.parametrize(
    ("spec", "words", "step"),
    [
        (SGD, "sgd, lr 0.1, momentum 0.9", 1.0),
        (PLAIN_SGD, "sgd, lr 0.5, momentum 0", 0.5),
        (DEAT, "deat, lr 0.5", 0.5 / 5**0.5),
        (DEAT | {"normalize": False, "k1": 2.0}, "deat, lr 0.5, k1 2, normalize no", 0.5),
        ({"name": "adamw", "lr": 0.001}, "adamw, lr 0.001", None),
        ({"name": "sgd", "lr": "fast", "momentum": True}, "sgd, lr fast, momentum yes", None),
        ({}, "?", None),
    ],
)
def test_updates_in_words(spec: dict[str, object], words: str, step: float | None) -> None:
    assert optimizer({"optimizer": spec}) == words
    assert steady_step({"optimizer": spec}) == pytest.approx(step)


def test_pages_do_not_depend_on_the_order_of_records() -> None:
    some = [made(m, seed=s, arch=a) for m in ("deat", "pgd-at") for s in (0, 1) for a in ("vgg16", "senet18")]
    expected = deat_pages(inputs(*some))
    random.Random(3).shuffle(some)
    assert deat_pages(inputs(*some)) == expected
    assert all(MARK in text[:1000] for text in expected.values())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    shared = {
        "arch": text,
        "settings": {"schedule": {"name": text}, "augment": text, "attack": {"steps": text}, "epochs": text},
        "flags": [Flag(code=text, message=text)],
    }
    ours = made("deat", DEAT | {"lr": text, text: text, "k1": text}, **shared)  # type: ignore[arg-type]
    theirs = made("pgd-at", {"name": text, "lr": text}, **shared)  # type: ignore[arg-type]
    for name, page in deat_pages(inputs(ours, theirs)).items():
        if name.endswith(".md"):
            assert "1 pair" in page
            page = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
            assert not re.search(r'(href|src)="(?!index|deat-|digits/)', page)
        assert not re.search(r"<(script|img src=x|svg onload|b>h)", page)
        assert 'evil.example"' not in page


def test_a_data_set_that_cannot_name_a_page_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot name a page"):
        deat_pages(inputs(made("deat", dataset="../x"), made("pgd-at", dataset="../x")))
