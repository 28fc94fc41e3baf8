"""Tests of a difference against their definitions: scipy, brute force, published examples, simulation."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from deatbench.report.comparison.comparison import newcombe
from deatbench.report.standings.significance import Standing, critical_differences, mcnemar, paired, tie_bands

COUNTS = st.integers(0, 400)


def verdicts(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    return a, np.repeat([True, False, True, False], [both, only_a, only_b, neither])


@given(both=COUNTS, only_a=COUNTS, only_b=COUNTS, neither=st.integers(1, 400))
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(
    both: int, only_a: int, only_b: int, neither: int
) -> None:
    a_N, b_N = verdicts(both, only_a, only_b, neither)
    test, other = mcnemar(a_N, b_N), mcnemar(b_N, a_N)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert test.p_value == pytest.approx(expected, rel=1e-9)
    assert (test.both, test.only_a, test.only_b, test.neither) == (both, only_a, only_b, neither)
    assert test.difference == pytest.approx(a_N.mean() - b_N.mean())
    assert (other.p_value, other.only_a, other.difference) == (test.p_value, only_b, -test.difference)


def test_critical_differences_are_the_least_significant_ones() -> None:
    table = critical_differences(70)
    for d in range(1, 71):
        significant = [lead for lead in range(d % 2, d + 1, 2) if binomtest((d - lead) // 2, d).pvalue < 0.05]
        assert table[d] == min(significant, default=d + 1)
    assert table[0] == 1
    assert len(critical_differences(10_000)) == 10_001


def test_paired_single_runs_are_mcnemar() -> None:
    a_N, b_N = verdicts(20, 30, 12, 40)
    assert paired(a_N[None], b_N[None]) == mcnemar(a_N, b_N).p_value


def test_paired_without_seed_noise_is_the_t_test_of_differences() -> None:
    """Runs that agree with each other leave the paired t-test over images."""
    a_N, b_N = verdicts(20, 30, 12, 40)
    expected = ttest_1samp(a_N.astype(float) - b_N, 0).pvalue
    assert paired(np.stack([a_N] * 3), np.stack([b_N] * 2)) == pytest.approx(expected, rel=1e-9)


def test_paired_of_rows_that_agree_everywhere() -> None:
    ones, zeros = np.ones((3, 9), bool), np.zeros((2, 9), bool)
    assert paired(ones, ones[:2]) == 1.0
    assert paired(ones, zeros) == 2.0**-8
    assert paired(ones[:1], zeros[:1]) == 2.0**-8


def simulated(rng: np.random.Generator, runs: int, ability: float, base_N: np.ndarray, noise: float) -> np.ndarray:
    """Verdicts of several seeds: images of their own difficulty, each seed shifted, and luck per image."""
    of_seed = rng.normal(0, noise, (runs, 1))
    return np.asarray(base_N + ability + of_seed + rng.normal(0, 0.7, (runs, base_N.size)) > 0)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
def test_paired_seldom_tells_equal_methods_apart(noise: float) -> None:
    """With 3 seeds each, whose spread is 0 to 7 points: at most 7 % of 500 equal pairs."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        base_N = rng.normal(0, 2, 500)
        found += paired(simulated(rng, 3, 0.0, base_N, noise), simulated(rng, 3, 0.0, base_N, noise)) < 0.05
    assert found / 500 <= 0.07


def test_paired_finds_a_difference_of_six_points() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        base_N = rng.normal(0, 2, 1000)
        found += paired(simulated(rng, 3, 0.33, base_N, 0.05), simulated(rng, 3, 0.0, base_N, 0.05)) < 0.05
    assert found >= 90


def standing(verdicts_MN: np.ndarray, images: str = "", known: bool = True) -> Standing:
    n, share = verdicts_MN.shape[1], float(verdicts_MN.mean())
    half = 1.96 * (share * (1 - share) / n + 1e-4) ** 0.5
    packed = np.packbits(verdicts_MN, axis=1) if known else None
    return Standing(share, (share - half, share + half), packed, n, images)


def by_definition(rows: list[Standing]) -> list[tuple[int, int]]:
    verdicts = [None if r.verdicts is None else np.unpackbits(r.verdicts, axis=1, count=r.n) > 0 for r in rows]

    def lead(i: int, j: int) -> float:
        a, b, x, y = rows[i], rows[j], verdicts[i], verdicts[j]
        if x is None or y is None or a.images != b.images:
            return float(a.interval[0] > b.interval[1]) - float(a.interval[1] < b.interval[0])
        n = min(a.n, b.n)
        x, y = x[:, :n], y[:, :n]
        return float(np.sign(x.mean() - y.mean())) * (paired(x, y) < 0.05)

    better, worse = [0] * len(rows), [0] * len(rows)
    for i, j in combinations(range(len(rows)), 2):
        ahead = lead(i, j)
        better[j if ahead > 0 else i] += ahead != 0
        worse[i if ahead > 0 else j] += ahead != 0
    return [(1 + b, len(rows) - w) for b, w in zip(better, worse, strict=True)]


ROWS = st.lists(
    st.tuples(
        st.sampled_from([1, 5, 8, 40, 200]),  # images
        st.sampled_from([1, 1, 1, 2, 3]),  # runs
        st.sampled_from(["x", "y"]),
        st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.6, 0.9, 1.0]),
        st.booleans() | st.just(True),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 1000))
def test_tie_bands_are_what_every_pair_says(rows: list[tuple[int, int, str, float, bool]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = [standing(rng.random((m, n)) < share, images, known) for n, m, images, share, known in rows]
    assert tie_bands(made) == by_definition(made)


def test_tie_bands_of_a_dense_board_are_what_every_pair_says() -> None:
    """More rows than are tested at once, of one and of three runs, on 64 and on 200 images."""
    rng = np.random.default_rng(0)
    sizes = [(64 if i % 3 else 200, 3 if i % 50 == 0 else 1) for i in range(300)]
    made = [standing(rng.random((m, n)) < rng.uniform(0.2, 0.9)) for n, m in sizes]
    assert tie_bands(made) == by_definition(made)


@pytest.mark.parametrize("sizes", [(1000,), (100,), (100, 1000)])
def test_tie_bands_of_ten_thousand_rows_take_a_second(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    made = [standing(rng.random((1, sizes[i % len(sizes)])) < rng.uniform(0.2, 0.6)) for i in range(10_000)]
    before = time.thread_time()
    bands = tie_bands(made)
    assert time.thread_time() - before < 2  # a second on a free core of 2020
    assert all(1 <= best <= worst <= 10_000 for best, worst in bands)


def test_a_board_of_one_row_and_of_none() -> None:
    assert tie_bands([]) == []
    assert tie_bands([standing(np.ones((1, 4), bool))]) == [(1, 1)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((36, 12, 2, 0), (0.0569, 0.3404)), ((1, 1, 7, 12), (-0.507, -0.026))],  # Newcombe 1998; Fagerland et al. 2014
)
def test_newcombe_gives_the_published_intervals(
    counts: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    assert newcombe(*counts) == pytest.approx(expected, abs=5e-4)


@given(both=COUNTS, only_a=COUNTS, only_b=COUNTS, neither=st.integers(1, 400))
def test_newcombe_holds_the_difference_and_turns_with_the_models(
    both: int, only_a: int, only_b: int, neither: int
) -> None:
    low, high = newcombe(both, only_a, only_b, neither)
    assert -1 <= low <= (only_a - only_b) / (both + only_a + only_b + neither) <= high <= 1
    assert newcombe(both, only_b, only_a, neither) == pytest.approx((-high, -low))


@pytest.mark.parametrize("shares", [(0.3, 0.1, 0.05, 0.55), (0.24, 0.05, 0.04, 0.67), (0.5, 0.2, 0.1, 0.2)])
def test_newcombe_covers_the_truth_in_95_of_100_samples(shares: tuple[float, ...]) -> None:
    samples = np.random.default_rng(0).multinomial(300, shares, 2000)
    truth = shares[1] - shares[2]
    covered = [low <= truth <= high for low, high in (newcombe(*(int(x) for x in counts)) for counts in samples)]
    assert 0.935 <= np.mean(covered) <= 0.97
