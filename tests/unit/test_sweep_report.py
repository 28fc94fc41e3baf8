"""Reports of sweeps: scipy's statistics, words that follow from numbers, nothing missing unsaid, the same bytes."""

from __future__ import annotations

import csv
import io
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sweeps import DEAT, HEAVY, SGD, first, measured, papers_sweep, result, swept, table2_sweep, write_sweep
from markdown_it import MarkdownIt
from scipy import stats

import deatbench.report
from deatbench.errors import ConfigError, MissingError
from deatbench.records import Flag, SweepResult
from deatbench.report.deat.claim import table2
from deatbench.report.deat.words import p_text
from deatbench.report.rendering import MARK
from deatbench.report.standings.significance import paired
from deatbench.report.sweeps.arms import MATCHED, SAME, Contest, panels_of
from deatbench.report.sweeps.cells import Cell, Measure, cells_of, measures_of
from deatbench.report.sweeps.contests import finals
from deatbench.report.sweeps.differences import difference, pooled, within
from deatbench.report.sweeps.effects import Noise, level
from deatbench.report.sweeps.inference import DRAWS, ranks, sign_flips
from deatbench.report.sweeps.page import headline, report_of, report_pages, sweep_pages
from deatbench.report.sweeps.parts import parts_of
from deatbench.report.sweeps.planes import PAPER, Plane
from deatbench.report.sweeps.ratios import found_ranks
from deatbench.report.sweeps.reading import Swept, read_sweep, read_sweeps
from deatbench.report.sweeps.words import p_exact
from deatbench.store import Home

HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "a|b `c` *d* [f](https://evil.example) <b>h</b>",
    "\u202egnp.exe\x00",
    '=HYPERLINK("https://evil.example")',
]
LAST = Measure("last", "pgd-20")
CSV = Path(deatbench.report.__file__).parent / "reference" / "deat_table2.csv"


def table(sweep: Swept, name: str) -> list[dict[str, str]]:
    """A data file of the sweep's report."""
    return list(csv.DictReader(io.StringIO(report_pages(sweep)[f"sweeps/{sweep.name}-{name}.csv"])))


def paper_columns() -> dict[str, list[float]]:
    rows = list(csv.DictReader(CSV.read_text(encoding="utf-8").splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


# The paper's own numbers


@pytest.fixture(scope="module")
def paper() -> Swept:
    return papers_sweep()


def test_the_papers_table_comes_out_as_it_went_in(paper: Swept) -> None:
    columns = paper_columns()
    rows = [
        row for row in table(paper, "table2") if not row["network"].startswith("paper") and row["weights"] == "last"
    ]
    shown = {
        (row["network"].split(",")[0], row["update"], float(row["lr"])): row
        for row in rows
        if row["metric"] == "pgd-10"
    }
    for arch in ("vgg19", "senet18", "preact_resnet18"):
        for update, column in (("deat", "deat"), ("pgd-at", "pgd_at")):
            for rate, value in zip(columns["lr"], columns[f"{arch}_{column}"], strict=True):
                assert float(shown[arch, update, rate]["mean"]) == pytest.approx(value / 100, abs=1e-9)


@pytest.mark.parametrize("arch", ["vgg19", "senet18", "preact_resnet18"])
def test_fed_the_papers_numbers_the_statistics_are_scipys(paper: Swept, arch: str) -> None:
    columns = paper_columns()
    rates, ours, theirs = columns["lr"], columns[f"{arch}_deat"], columns[f"{arch}_pgd_at"]
    for update, values in (("deat", ours), ("pgd-at", theirs)):
        (row,) = [
            row for row in table(paper, "table3")
            if (row["network"].split(",")[0], row["update"], row["weights"]) == (arch, update, "last")
        ]  # fmt: skip
        for name, found in (
            ("pearson", stats.pearsonr(rates, values)),
            ("spearman", stats.spearmanr(rates, values)),
            ("kendall", stats.kendalltau(rates, values)),
        ):
            assert float(row[name]) == pytest.approx(found[0], abs=1e-6)
            assert float(row[f"{name}_p"]) == pytest.approx(found[1], rel=1e-4)
    panel = next(panel for panel in panels_of(cells_of(paper.results)) if panel.title.startswith(arch))
    (contest,) = panel.contests
    gains = contest.gains(Measure("last", "pgd-10"))
    assert gains is not None
    assert gains.mean * 100 == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert gains.t_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-6)
    exact = stats.permutation_test(
        (np.array(ours) - np.array(theirs),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert gains.flips.p_value == pytest.approx(exact.pvalue, rel=1e-9)
    assert (gains.flips.patterns, gains.flips.exact) == (2**14, True)
    page = report_pages(paper)["sweeps/deat-table2.html"]
    assert p_exact(stats.ttest_rel(ours, theirs).pvalue) in page
    assert f"{stats.spearmanr(rates, ours)[0]:.3f}" in page


def test_fed_the_papers_numbers_the_words_are_the_papers(paper: Swept) -> None:
    claims = {claim.claim: claim.here for claim in report_of(paper).claims}
    assert claims["DEAT is more robust than pgd-at at the same learning rate (PGD-10, last weights)"].startswith(
        "Holds on 3 of 3 networks."
    )
    assert claims["Robust accuracy rises with the learning rate"].startswith("Holds on 6 of 6 curves.")
    for how in (SAME, MATCHED):
        assert claims[f"DEAT is more robust than PGD-AT with momentum 0.9 at the {how}"].startswith("Not measured")
    assert headline(paper).startswith("DEAT is more robust than pgd-at")


# Statistics


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=20))
def test_correlations_and_their_p_are_scipys_with_ties_too(points: list[tuple[int, int]]) -> None:
    a, b = ([float(value) for value in column] for column in zip(*points, strict=True))
    found = ranks(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert found.kendall.p_value is None
        return
    for ours, theirs in (
        (found.pearson, stats.pearsonr(a, b)),
        (found.spearman, stats.spearmanr(a, b)),
        (found.kendall, stats.kendalltau(a, b)),
    ):
        assert ours.value == pytest.approx(theirs[0], abs=1e-9)
        assert ours.p_value == pytest.approx(theirs[1], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("n", [3, 4, 7, 14, 33, 34, 60])
def test_kendalls_p_is_scipys_without_ties(n: int) -> None:
    draws = random.Random(n)
    for noise in (0.0, 0.3, 3.0):
        a = [float(turn) for turn in range(n)]
        b = [turn + noise * draws.gauss(0, n) for turn in range(n)]
        assert ranks(a, b).kendall.p_value == pytest.approx(stats.kendalltau(a, b)[1], rel=1e-9, abs=1e-300)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9))
def test_sign_flips_are_scipys_permutation_test(gains: list[int]) -> None:
    found = sign_flips(gains)
    exact = stats.permutation_test((np.array(gains),), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert found.p_value == pytest.approx(exact.pvalue if sum(gains) else 1.0)
    assert found.patterns == 2 ** len(gains)


def test_of_many_rates_random_flips_are_drawn_the_same_way_each_time() -> None:
    gains = np.random.default_rng(1).normal(0.3, 1, 20).tolist()
    found = sign_flips(gains)
    assert (found.patterns, found.exact) == (DRAWS + 1, False)
    assert found == sign_flips(gains)
    exact = stats.permutation_test(
        (np.array(gains),), np.mean, permutation_type="samples", n_resamples=99_999, rng=np.random.default_rng(2)
    )
    assert found.p_value == pytest.approx(exact.pvalue, abs=0.01)
    assert sign_flips([1.0] * 40).p_value == pytest.approx(1 / (DRAWS + 1))


def contest(seeds: int = 3, rates: tuple[float, ...] = (0.01, 0.1, 0.3)) -> Contest:
    panel = panels_of(cells_of(table2_sweep(seeds, rates).results))[0]
    return next(each for each in panel.contests if each.theirs.momentum == 0)


def test_of_one_pair_the_pooled_test_is_that_of_the_pair() -> None:
    ours, theirs = next(iter(contest().pairs.values()))
    found = pooled([(ours, theirs)], LAST)
    assert found is not None
    assert found == difference(ours, theirs, LAST)
    assert found.p_value == paired(ours.verdicts(LAST), theirs.verdicts(LAST))


def test_of_single_runs_the_pooled_test_is_scipys_over_images() -> None:
    pairs = list(contest(seeds=1).pairs.values())
    found = pooled(pairs, LAST)
    gains_N = np.mean([a.verdicts(LAST)[0].astype(float) - b.verdicts(LAST)[0] for a, b in pairs], axis=0)
    assert found is not None
    assert found.value == pytest.approx(gains_N.mean())
    assert found.p_value == pytest.approx(stats.ttest_1samp(gains_N, 0).pvalue)


def test_seeds_that_scatter_widen_the_pooled_test() -> None:
    def cell(shares: list[float], optimizer: dict[str, Any]) -> Cell:
        runs = [
            result({}, optimizer, seed=seed, weights={"last": measured({"pgd-20": first(share)})})
            for seed, share in enumerate(shares)
        ]
        return cells_of(runs)[0]

    calm = [(cell([0.55, 0.55, 0.55], DEAT | {"lr": r}), cell([0.5, 0.5, 0.5], SGD | {"lr": r})) for r in (0.1, 0.2)]
    wild = [(cell([0.35, 0.55, 0.75], DEAT | {"lr": r}), cell([0.3, 0.5, 0.7], SGD | {"lr": r})) for r in (0.1, 0.2)]
    sure, unsure = pooled(calm, LAST), pooled(wild, LAST)
    assert sure is not None
    assert unsure is not None
    assert sure.value == pytest.approx(unsure.value)
    assert (sure.p_value or 1) < 1e-4
    assert (unsure.p_value or 0) > 0.05


# Table 2's kind


def test_every_baseline_is_met_at_the_same_rate_and_at_the_matched_step() -> None:
    step = 5**-0.5
    found = [result({}, DEAT | {"lr": rate}) for rate in (0.1, 0.3)]
    found += [result({}, SGD | {"lr": rate}) for rate in (0.1, 0.3)]
    found += [result({}, HEAVY | {"lr": rate}) for rate in (0.1, 0.1 * step * 0.1, 0.3 * step * 0.1 * 1.05)]
    (panel,) = panels_of(cells_of(found))
    assert [(each.theirs.momentum, each.how, sorted(each.pairs)) for each in panel.contests] == [
        (0.0, SAME, [0.1, 0.3]), (0.9, SAME, [0.1]), (0.9, MATCHED, [0.1, 0.3]),
    ]  # fmt: skip
    pages = report_pages(swept("mine", found, kind="table2"))
    assert "lr 0.0045" in pages["sweeps/mine.md"]
    assert "PGD-AT with momentum" not in pages["sweeps/mine.md"]  # none of the controls is missing


def test_the_best_rate_is_chosen_by_validation_and_not_by_test() -> None:
    found = []
    for name, optimizer in (("deat", DEAT), ("pgd-at", SGD)):
        for rate, validation, test in ((0.1, 0.6, 0.3), (0.3, 0.4, 0.9)):
            made = {"last": measured({"pgd-20": first(test + (0.05 if name == "deat" else 0))})}
            found.append(result({}, optimizer | {"lr": rate}, weights=made, validation=(0.1, validation)))
    (final,) = [each for each in finals(panels_of(cells_of(found)), measures_of(found)) if each.measure == LAST]
    assert (final.ours.rate, final.theirs.rate) == (0.1, 0.1)
    assert final.found.value == pytest.approx(0.05)
    assert (final.our_edge, final.their_edge) == ("smallest measured", "smallest measured")
    blind = [each.model_copy(update={"epochs": each.epochs.model_copy(update={"val_robust_acc": (None, None)})})
             for each in found]  # fmt: skip
    assert finals(panels_of(cells_of(blind)), measures_of(blind)) == []
    assert "No best against best" in report_pages(swept("mine", blind, kind="table2"))["sweeps/mine.md"]


def test_a_best_rate_at_the_end_of_the_grid_is_called_so() -> None:
    found = [
        result(
            {}, optimizer | {"lr": rate}, weights={"last": measured({"pgd-20": first(score)})}, validation=(0.1, score)
        )
        for optimizer, scores in ((DEAT, (0.3, 0.4, 0.5)), (SGD, (0.3, 0.5, 0.4)))
        for rate, score in zip((0.1, 0.2, 0.3), scores, strict=True)
    ]
    page = report_pages(swept("mine", found, kind="table2"))["sweeps/mine.md"]
    assert "(lr 0.3 \\[largest measured\\] against 0.2, 1 and 1 runs)" in page
    assert "DEAT is best at the largest rate measured on 1 of 1: larger ones may be better." in page


def test_a_gain_that_seeds_or_rates_can_explain_is_not_called_settled() -> None:
    def claims(leads: tuple[float, ...]) -> str:
        found = []
        for turn, lead in enumerate(leads):
            rate = 0.1 * (turn + 1)
            for optimizer, share in ((DEAT, 0.4 + lead), (SGD, 0.4)):
                made = {"last": measured({"pgd-20": first(share)})}
                found.append(result({}, optimizer | {"lr": rate}, weights=made))
        return report_of(swept("mine", found, kind="table2")).claims[0].here

    assert claims((0.1, 0.11, 0.12, 0.1)).startswith("Holds.")
    assert claims((-0.1, -0.11, -0.12, -0.1)).startswith("The opposite holds.")
    assert claims((0.3, -0.25, 0.3, -0.2)).startswith("Not settled.")
    assert claims((0.0, 0.0, 0.0, 0.0)).startswith("Not settled.")


def test_three_rates_in_order_do_not_settle_that_accuracy_rises() -> None:
    claims = {claim.claim: claim for claim in report_of(table2_sweep()).claims}
    assert claims["Robust accuracy rises with the learning rate"].here == "Holds on none of 3 curves, not settled on 3."
    assert "p = 0.33 (Kendall)" in claims["Robust accuracy rises with the learning rate"].details[0]


def test_papers_columns_stand_beside_the_same_family_alone() -> None:
    page = report_pages(table2_sweep(rates=(0.01, 0.1)))["sweeps/mine.md"]
    row = next(line for line in page.splitlines() if line.startswith("| 0.1 |"))
    series = next(each for each in table2() if each.arch == "vgg19")
    assert f"| {series.deat[9]:.2f} | {series.pgd_at[9]:.2f} |" in row
    other = [each.model_copy(update={"config": each.config | {"arch": {"name": "resnet8"}}})
             for each in table2_sweep().results]  # fmt: skip
    assert "in the paper:" not in report_pages(swept("mine", other, kind="table2"))["sweeps/mine.md"]


# The other kinds


def grid_sweep() -> Swept:
    found = []
    for k1 in (0.0, 1.0, 2.0):
        for k2 in (0.0, 0.8):
            share = 0.4 + 0.1 * k2 - 0.02 * abs(k1 - 1)
            for seed in (0, 1):
                made = {"last": measured({"pgd-20": first(share + 0.005 * seed)})}
                made["best"] = made["last"]
                settings = {"optimizer.k1": k1, "optimizer.k2": k2}
                found.append(
                    result(settings, DEAT | {"k1": k1, "k2": k2}, seed=seed, weights=made, validation=(0.1, share))
                )
    return swept("grid", found, kind="k1k2")


def test_grid_names_its_points_and_tests_them_against_the_papers() -> None:
    sweep = grid_sweep()
    plane = Plane.of(parts_of(cells_of(sweep.results), ("optimizer.k1", "optimizer.k2"))[0])
    assert plane.best(LAST) == PAPER
    called = {place: long for place, (_, long) in plane.called(LAST).items()}
    assert called[0.0, 0.0] == "SGD without momentum"
    assert called[1.0, 0.0] == "optimistic gradient descent"
    assert called[0.0, 0.8] == "SGD on an average of gradients"
    assert called[PAPER] == "the paper's DEAT; best by validation"
    rows = {(float(row["k1"]), float(row["k2"])): row for row in table(sweep, "points") if row["metric"] == "pgd-20"}
    a, b = plane.cells[1.0, 0.0], plane.cells[PAPER]
    assert float(rows[1.0, 0.0]["p"]) == pytest.approx(paired(a.verdicts(LAST), b.verdicts(LAST)), rel=1e-4)
    assert PAPER not in rows
    said = report_of(sweep).findings
    assert "averaged over k1, k2 moves accuracy by 8.0 points (lowest at 0, highest at 0.8; F-test: p" in said[0]
    a, b, c = (DEAT["lr"] / norm**0.5 for norm in (1, 5, 13))  # k1 shortens the step as well
    assert f"the step is {a:.3g} at k1 = 0, {b:.3g} at k1 = 1, {c:.3g} at k1 = 2:" in said[-1]
    assert any("validation chooses the paper's own" in line for line in said)


def test_a_grid_at_steps_of_one_length_says_nothing_of_them() -> None:
    flat = [
        result({"optimizer.k1": k1, "optimizer.k2": 0.8}, DEAT | {"k1": k1, "k2": 0.8, "normalize": False})
        for k1 in (0.0, 1.0)
    ]
    assert not any("steady gradient" in line for line in report_of(swept("flat", flat, kind="k1k2")).findings)


def test_a_grid_with_holes_is_not_averaged_over() -> None:
    sweep = grid_sweep()
    holed = replace(sweep, results=sweep.results[2:])
    assert "the grid has holes" in report_of(holed).findings[1]
    assert any("Not every combination" in line for line in report_of(replace(holed, kind=None)).findings)
    assert not any("Not every combination" in line for line in report_of(replace(sweep, kind=None)).findings)


def test_grid_figures_show_every_cell() -> None:
    pages = report_pages(grid_sweep())
    svg = pages["sweeps/grid-mean-vgg16-width-0.25-last-pgd-20.svg"]
    assert svg.count('class="cell"') == 6 + 2  # and two in the key
    assert all(word in svg for word in (">OGD<", ">EMA<", ">SGD<", ">paper, best<"))


def ratio_sweep(by_ratio: bool) -> Swept:
    found = []
    for batch in (32, 64, 128):
        for rate in (0.01, 0.02, 0.04, 0.08):
            share = 0.5 + 0.05 * np.log2((rate / batch if by_ratio else rate) * (1000 if by_ratio else 30))
            made = {"last": measured({"pgd-20": first(float(share))})}
            found.append(
                result({"optimizer.lr": rate, "batch_size": batch}, SGD | {"lr": rate}, weights=made, batch_size=batch)
            )
    return swept("ratio", found, kind="lr-batch")


@pytest.mark.parametrize(("by_ratio", "words"), [(True, "α/b explains accuracy better"), (False, "α alone explains")])
def test_ratio_report_says_which_explains_more(by_ratio: bool, words: str) -> None:
    sweep = ratio_sweep(by_ratio)
    assert words in report_of(sweep).findings[0]
    (part,) = parts_of(cells_of(sweep.results), ("optimizer.lr", "batch_size"))
    assert "All trainings have the same number of epochs" in report_of(sweep).findings[-1]
    longer = [each.model_copy(update={"config": {**each.config, "epochs": 99}}) for each in sweep.results[:1]]
    mixed = replace(sweep, results=(*longer, *sweep.results[1:]))
    assert not any("same number of epochs" in line for line in report_of(mixed).findings)
    found = found_ranks(part, LAST)
    known = [(c.rate / c.value("batch_size"), c.mean(LAST)) for c in part.cells]
    expected = stats.spearmanr(*zip(*known, strict=True))
    assert found["α/b"].spearman.value == pytest.approx(expected[0])
    fixed = [row for row in table(sweep, "fixed-ratio") if row["metric"] == "pgd-20"]
    assert [row["batch_sizes"] for row in fixed] == ["2", "3", "3", "2"]


def test_the_noise_of_one_group_of_cells_is_scipys_anova() -> None:
    rng = np.random.default_rng(1)
    shares = [[0.4 + 0.02 * cell + 0.05 * rng.random() for _ in range(2 + cell)] for cell in range(4)]
    cells = [cell_of(values) for values in shares]
    noise = Noise.of(cells, LAST)
    assert noise is not None
    runs = [[metric.value for metric in cell.metrics(LAST)] for cell in cells]
    levels = [level([cell], LAST) for cell in cells]
    assert noise.p_value([levels]) == pytest.approx(stats.f_oneway(*runs).pvalue)
    assert noise.spread == pytest.approx(np.sqrt(sum(np.var(v) * len(v) for v in runs) / (14 - 4)))
    assert noise.p_value([[each] for each in levels]) is None  # nothing in a group to compare


def test_the_effect_of_one_axis_of_a_grid_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(2)
    grid = {
        (a, b): [0.3 + 0.03 * a + 0.01 * b + 0.04 * rng.random() for _ in range(3)] for a in range(3) for b in range(2)
    }
    cells = {place: cell_of(values) for place, values in grid.items()}
    noise = Noise.of(cells.values(), LAST)
    assert noise is not None
    levels = [level((cell for place, cell in cells.items() if place[0] == a), LAST) for a in range(3)]
    rows = [(a, b, m.value) for (a, b), cell in cells.items() for m in cell.metrics(LAST)]
    y, full = (
        np.array([v for *_, v in rows]),
        np.array([[(a, b) == place for place in grid] for a, b, _ in rows], float),
    )
    without = np.array([[1.0, b] for _, b, _ in rows])  # no effect of a beside b and the interaction
    both = np.array([[1.0, b, a == 1, a == 2] for a, b, _ in rows])
    left = [float(np.linalg.lstsq(x, y)[1][0]) for x in (without, both, full)]
    expected = stats.f.sf(((left[0] - left[1]) / 2) / (left[2] / (18 - 6)), 2, 12)
    assert noise.p_value([levels]) == pytest.approx(expected)


def cell_of(shares: list[float]) -> Cell:
    """A cell of one run per share of images that withstand."""
    found = [
        result({"a": 1}, SGD, seed=seed, weights={"last": measured({"pgd-20": first(share)})})
        for seed, share in enumerate(shares)
    ]
    return cells_of(found)[0]


@pytest.mark.parametrize("by_ratio", [True, False])
def test_lack_of_fit_rules_out_the_wrong_one(by_ratio: bool) -> None:
    rng = np.random.default_rng(3)
    found = []
    for run in ratio_sweep(by_ratio).results:
        share = run.weights["last"].metrics["pgd-20"].value
        for seed in (0, 1, 2):
            made = {"last": measured({"pgd-20": first(share + 0.02 * rng.random())})}
            settings, size = run.points[0].settings, run.config["batch_size"]
            found.append(result(settings, run.config["optimizer"], seed=seed, weights=made, batch_size=size))
    said = report_of(swept("ratio", found, kind="lr-batch")).findings[1]
    ratio, rate = said.split("; that it depends on α alone is ")
    assert ("α/b alone is not ruled out" in ratio) == by_ratio
    assert rate.startswith("ruled out (p < 0.001)" if by_ratio else "not ruled out")


def test_weights_of_the_same_trainings_are_compared_within_each() -> None:
    found = []
    for seed, share in enumerate((0.2, 0.4, 0.6)):  # seeds scatter far more than the weights differ
        made = {"last": measured({"pgd-20": first(share)}), "best": measured({"pgd-20": first(share + 0.05)})}
        found.append(result({"a": 1}, SGD, seed=seed, weights=made))
    cell = cells_of(found)[0]
    kept = within(cell, Measure("best", "pgd-20"), LAST)
    apart = difference(cell, cell, Measure("best", "pgd-20"), LAST)
    assert kept is not None
    assert apart is not None
    assert kept.value == pytest.approx(0.05)
    assert kept.p_value is not None
    assert apart.p_value is not None
    assert kept.p_value < 0.001 < 0.5 < apart.p_value
    one = Cell(cell.settings, cell.label, cell.runs[:1])
    a_MN, b_MN = one.verdicts(Measure("best", "pgd-20")), one.verdicts(LAST)
    assert within(one, Measure("best", "pgd-20"), LAST).p_value == paired(a_MN, b_MN)
    assert within(one, Measure("ema", "pgd-20"), LAST) is None


def test_variants_are_held_against_deat_and_shifted_weights_against_the_last() -> None:
    found = []
    for name, optimizer, share in (
        ("pgd-at", SGD, 0.4),
        ("deat", DEAT, 0.5),
        ("plain", DEAT | {"normalize": False}, 0.5),
    ):
        made = {"last": measured({"pgd-20": first(share)}), "shifted": measured({"pgd-20": first(share - 0.1)})}
        found += [result({"update": name}, optimizer, weights=made, seed=seed) for seed in (0, 1)]
    sweep = swept("mechanism", found, kind="mechanism")
    said = report_of(sweep).findings
    assert any("against deat. Worse: pgd-at (−10.0 points, p < 0.001). No settled" in line for line in said)
    assert any("No settled difference: plain. From 2 tests on the same 400 images, 2 seeds." in line for line in said)
    rows = [row for row in table(sweep, "weights") if row["metric"] == "pgd-20"]
    assert {(row["weights"], float(row["difference_from_last"])) for row in rows} == {("shifted", -0.1)}
    assert len(rows) == 3


def test_a_sweep_that_asks_for_no_report_gets_a_table_per_axis() -> None:
    sweep = replace(grid_sweep(), kind=None)
    rows = [row for row in table(sweep, "axes") if row["metric"] == "pgd-20"]
    assert {(row["axis"], row["value"]) for row in rows} == {
        ("optimizer.k1", "0"), ("optimizer.k1", "1"), ("optimizer.k1", "2"),
        ("optimizer.k2", "0"), ("optimizer.k2", "0.8"),
    }  # fmt: skip
    page = report_pages(replace(sweep, kind="table3"))["sweeps/grid.md"]
    assert "asks for a report that deatbench does not know, table3" in page


@pytest.mark.parametrize("kind", [None, "table2", "k1k2", "lr-batch", "mechanism"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_kind_takes_any_results(kind: str | None, count: int) -> None:
    pages = report_pages(replace(grid_sweep(), results=grid_sweep().results[:count], kind=kind))
    assert "Preliminary" in pages["sweeps/grid.html"] or not count
    only_clean = result({}, SGD, weights={"best": measured({"pgd-20": first(0.5)})}, validation=(None,))
    report_pages(swept("one", [only_clean], kind=kind))


# What is missing


def test_missing_and_failed_runs_are_named_and_counted() -> None:
    also = {"digits-vgg16-abc-s7": ("optimizer.lr=0.3 seed=7",), "digits-vgg16-abc-s8": ("optimizer.lr=0.3 seed=8",)}
    sweep = table2_sweep(also=also, failed={"digits-vgg16-abc-s7": "loss is not finite"})
    for kind in ("html", "md"):
        page = report_pages(sweep)[f"sweeps/mine.{kind}"]
        assert "27 of 29 runs finished, 1 failed" in page
        assert "failed: loss is not finite" in page
        assert re.search(r"abc-s8 .*not finished", page)
        assert "Preliminary: 2 of 29" in page
    assert [row["run"] for row in table(sweep, "missing")] == list(also)
    assert "Nothing: all 27 planned runs are finished" in report_pages(table2_sweep())["sweeps/mine.md"]
    assert "nobody can say what is missing" in report_pages(replace(sweep, planned={}))["sweeps/mine.md"]


def test_a_cell_with_fewer_runs_says_so() -> None:
    full = table2_sweep()
    page = report_pages(replace(full, results=full.results[1:]))["sweeps/mine.md"]
    assert "3 runs each where a cell does not say otherwise" in page
    assert "(2 runs)" in page


def test_flags_are_counted() -> None:
    flagged = result({}, SGD, flags=[Flag(code="catastrophic_overfitting", message="x")])
    page = report_pages(swept("mine", [flagged, result({}, SGD, seed=1)]))["sweeps/mine.md"]
    assert "flagged catastrophic overfitting: 1 of 2 runs" in page


# Files


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    sweep = table2_sweep(also={"gone-s0": ("a",)}, failed={"gone-s0": "no memory"}, about="Does it: help?")
    folder = write_sweep(tmp_path, sweep)
    read = read_sweep(folder)
    assert report_pages(read) == report_pages(sweep)
    assert read_sweep(folder / "results.jsonl") == read
    assert (read.about, read.kind, read.missing) == ("Does it: help?", "table2", ["gone-s0"])


def test_results_alone_are_enough(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, table2_sweep())
    for name in ("sweep.yaml", "points.jsonl"):
        (folder / name).unlink()
    pages = report_pages(read_sweep(folder))
    assert "optimizer.lr: means over all else" in pages["sweeps/mine.md"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.jsonl", "{}\n", "line 1: run_id: Field required"),
        ("results.jsonl", "{\n", "line 1 is not valid JSON"),
        ("results.jsonl", '{"run_id": 1, "run_id": 2}\n', "duplicate key"),
        ("points.jsonl", "[]\n", "line 1: no point of a sweep"),
        ("points.jsonl", '{"run_id": "../../x"}\n', "line 1: no point of a sweep"),
        ("sweep.yaml", "a: [\n", "is not valid YAML"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    folder = write_sweep(tmp_path, table2_sweep(seeds=1))
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_sweep(folder)
    assert name in str(caught.value)


def test_verdicts_that_metrics_do_not_follow_from_are_refused(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, table2_sweep(seeds=1))
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(
        re.sub(r'"clean_acc":\{"value":0\.\d+', '"clean_acc":{"value":0.123', text, count=1)
    )
    with pytest.raises(ConfigError, match="do not follow"):
        read_sweep(folder)


def test_no_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no results\.jsonl"):
        read_sweep(tmp_path)


def test_a_link_to_an_endless_device_is_no_file(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, table2_sweep(seeds=1))
    for name in ("sweep.yaml", "points.jsonl", "results.jsonl"):
        (folder / name).rename(folder / f"{name}.kept")
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(MissingError, match=r"no results\.jsonl"):
        read_sweep(folder)
    (folder / "results.jsonl").unlink()
    (folder / "results.jsonl.kept").rename(folder / "results.jsonl")
    sweep = read_sweep(folder)
    assert len(sweep.results) == len(table2_sweep(seeds=1).results)
    assert (sweep.about, sweep.kind, dict(sweep.planned)) == ("", None, {})


def test_an_alias_bomb_is_read_past(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, table2_sweep(seeds=1))
    bomb = "a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b]\nbase: {report: k1k2}\nreport: table2\nabout: hi\n"
    (folder / "sweep.yaml").write_text(bomb)
    assert (read_sweep(folder).about, read_sweep(folder).kind) == ("hi", "table2")


# Pages


def test_pages_are_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    for sweep in (table2_sweep(), grid_sweep(), ratio_sweep(True)):
        folder = write_sweep(tmp_path, sweep)
        expected = report_pages(read_sweep(folder))
        lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
        random.Random(1).shuffle(lines)
        (folder / "results.jsonl").write_text("".join(lines))
        assert report_pages(read_sweep(folder)) == expected
    assert sweep_pages(read_sweeps(Home(tmp_path))).keys() >= {
        "sweeps/mine.html",
        "sweeps/grid.md",
        "sweeps/ratio.html",
    }


def test_two_sweeps_that_write_one_file_are_refused() -> None:
    twice = replace(grid_sweep(), name="a-b")
    with pytest.raises(ConfigError, match="two sweeps make"):
        sweep_pages([twice, twice])


def hostile_sweep(kind: str | None) -> Swept:
    found: list[SweepResult] = []
    hostile = measured({"../../../etc/passwd": first(0.5), HOSTILE[0]: first(0.4), HOSTILE[3]: first(0.4)})
    for text in HOSTILE:
        flag = Flag(code=text, message=text)
        for optimizer in (DEAT, SGD):
            found.append(
                result(
                    {"update": f"{text}{optimizer['name']}", "x|y": text},
                    optimizer | {"note": text},
                    weights={"last": hostile, "best": hostile},
                    label=text,
                    flags=[flag],
                )
            )
    dataset = found[0].dataset.model_copy(update={"name": HOSTILE[0]})
    said = {"hardware": HOSTILE[0], "torch": HOSTILE[0], "dataset": dataset}
    bad = [each.model_copy(update=said) for each in found]
    also = {"r-s0": (HOSTILE[1],), "r-s1": (HOSTILE[3],)}
    return swept("hostile", bad, kind=kind, about=HOSTILE[0], also=also, failed={"r-s0": HOSTILE[3]})


@pytest.mark.parametrize("kind", [None, "table2", "k1k2", "lr-batch", "mechanism", HOSTILE[0]])
def test_hostile_texts_stay_text(kind: str | None) -> None:
    pages = report_pages(hostile_sweep(kind))
    assert all(re.fullmatch(r"sweeps/hostile[a-z0-9.-]*\.(html|md|svg|csv)", name) for name in pages)
    html = pages["sweeps/hostile.html"]
    assert not re.search(r"<(script|img|svg onload|b>h)", html)
    assert "\u202e" not in html
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(pages["sweeps/hostile.md"])
    assert not re.search(r"<(script|img src=x|svg onload)|href=\"https://evil", rendered)
    for name, text in pages.items():
        if name.endswith(".svg"):
            assert "<script" not in text
            assert MARK in text[:1000]
        if name.endswith(".csv"):
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert not [cell for cell in cells if cell[:1] in "=@+" and cell]


def test_every_figure_and_file_that_a_page_names_is_written() -> None:
    for sweep in (table2_sweep(), grid_sweep(), ratio_sweep(True)):
        pages = report_pages(sweep)
        html, markdown = (pages[f"sweeps/{sweep.name}.{kind}"] for kind in ("html", "md"))
        named = set(re.findall(rf"({sweep.name}-[a-z0-9.-]+\.(?:csv|svg))\)", markdown))
        assert named == {name.removeprefix("sweeps/") for name in pages if name.endswith((".csv", ".svg"))}
        assert all(f'href="{name}"' in html for name in named if name.endswith(".csv"))
        assert html.count(f"deatbench sweep {sweep.name}.yaml") == html.count("<section>")
        assert MARK in html[:100]
        assert MARK in markdown[:100]
    assert "deatbench sweep deat-k1k2-digits<" in report_pages(replace(grid_sweep(), name="deat-k1k2-digits"))[
        "sweeps/deat-k1k2-digits.html"
    ]  # fmt: skip


def test_p_values_are_written_as_elsewhere() -> None:
    assert [p_exact(p_value) for p_value in (None, 0.2, 0.0123, 1.7e-5, 0.0)] == [
        "–",
        "0.20",
        "0.012",
        "1.7 × 10⁻⁵",
        "< 0.001",
    ]
    assert p_text(0.0) == "< 0.001"


@pytest.mark.slow
def test_ten_thousand_results_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    verdicts = [{"pgd-20": rng.random(200) < 0.5, "autoattack": rng.random(200) < 0.4} for _ in range(50)]
    made = [{name: measured(each) for name in ("best", "last")} for each in verdicts]
    found = [
        result({"optimizer.lr": rate, "update": name, "arch": arch}, optimizer | {"lr": rate}, arch=arch, seed=seed,
               weights=made[(seed * 7 + turn) % 50], validation=tuple(np.linspace(0.1, 0.5, 15)))
        for arch in ("vgg16", "senet18", "preact_resnet18")
        for name, optimizer in (("deat", DEAT), ("m=0", SGD), ("m=.9", HEAVY))
        for turn, rate in enumerate(np.geomspace(0.001, 1, 101).round(6).tolist())
        for seed in range(11)
    ]  # fmt: skip
    folder = write_sweep(tmp_path, swept("big", found, kind="table2"))
    started = time.process_time()
    pages = report_pages(read_sweep(folder))
    assert time.process_time() - started < 10
    assert len(found) >= 9_999
    assert len(pages["sweeps/big.html"]) < 5e6
