"""The tests of a report over points: correlations with their p-values, paired tests. Those over images: differences.py.

The formulas are those of scipy.stats, which takes a second to import; the tests hold them against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import erfc, stdtr

from deatbench.report.standings.correlations import kendall, paired_t_test, pearson, spearman
from deatbench.report.standings.significance import LEVEL

EXACT_PAIRS = 16  # up to 2^16 sign patterns are all tried
DRAWS = 2**16 - 1
SEED = 0
EXACT_RANKS = 33  # points up to which Kendall's distribution is counted out, as scipy does


class Correlation(NamedTuple):
    """A coefficient and its two-sided p; None with fewer than three points or where one side does not vary."""

    value: float
    p_value: float | None


@dataclass(frozen=True)
class Ranks:
    """How closely one quantity follows another over `n` points."""

    n: int
    pearson: Correlation
    spearman: Correlation
    kendall: Correlation


def ranks(a: Sequence[float], b: Sequence[float]) -> Ranks:
    """Pearson's r, Spearman's rho and Kendall's tau-b with the p-values that scipy.stats gives by default."""
    r, rho, tau = pearson(a, b), spearman(a, b), kendall(a, b)
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return Ranks(len(a), Correlation(r, None), Correlation(rho, None), Correlation(tau, None))
    n = len(a)
    by_t = [Correlation(value, _t_of(value, n)) for value in (r, rho)]
    return Ranks(n, by_t[0], by_t[1], Correlation(tau, _kendall_p(a, b)))


def _t_of(r: float, n: int) -> float:
    """p of a correlation by Student's distribution."""
    if abs(r) >= 1:
        return 0.0
    return 2 * float(stdtr(n - 2, -abs(r) * math.sqrt((n - 2) / ((1 - r) * (1 + r)))))


def _kendall_p(a: Sequence[float], b: Sequence[float]) -> float:
    x_N, y_N = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    first, second = np.triu_indices(len(x_N), k=1)
    agree_P = np.sign(x_N[first] - x_N[second]) * np.sign(y_N[first] - y_N[second])
    agreeing, opposed, n = int((agree_P > 0).sum()), int((agree_P < 0).sum()), len(x_N)
    untied = len(set(a)) == len(set(b)) == n
    if untied and (n <= EXACT_RANKS or min(agreeing, opposed) <= 1):
        return _inversions_p(n, min(agreeing, opposed))
    pairs, (x2, x1, x0), (y2, y1, y0) = n * (n - 1), _ties(a), _ties(b)
    variance = (pairs * (2 * n + 5) - x1 - y1) / 18 + 2 * x2 * y2 / pairs
    variance += x0 * y0 / (9 * pairs * (n - 2))
    return float(erfc(abs(agreeing - opposed) / math.sqrt(variance) / math.sqrt(2)))


def _ties(values: Sequence[float]) -> tuple[int, int, int]:
    """Sums over groups of t equal values: t(t-1)/2, t(t-1)(2t+5), t(t-1)(t-2)."""
    counts = [int(count) for count in np.unique(np.asarray(values, dtype=float), return_counts=True)[1]]
    return (
        sum(t * (t - 1) // 2 for t in counts),
        sum(t * (t - 1) * (2 * t + 5) for t in counts),
        sum(t * (t - 1) * (t - 2) for t in counts),
    )


def _inversions_p(n: int, few: int) -> float:
    """Two-sided p of at most `few` inversions (or as few agreements) among all orders of n things, counted out."""
    total = n * (n - 1) // 2
    if 2 * few == total:
        return 1.0
    counts = [1]  # of orders with 0, 1, … inversions
    for size in range(2, n + 1):
        wider = [0] * min(len(counts) + size - 1, few + 1)
        for place in range(len(wider)):
            wider[place] = sum(counts[max(0, place - size + 1) : place + 1])
        counts = wider
    return min(1.0, 2 * sum(counts[: few + 1]) / math.factorial(n))


class SignFlips(NamedTuple):
    """p of the sign-flip test, and how many patterns it rests on: all of them, or that many random ones."""

    p_value: float
    patterns: int
    exact: bool


def sign_flips(gains: Sequence[float]) -> SignFlips:
    """Two-sided test that the gains are as likely to have the other sign: how often is a random sum as far from 0?

    All 2^n patterns up to n = 16, else 65,535 seeded random ones and the one that was seen.
    """
    gains_N = np.asarray(gains, dtype=float)
    signs_PN = _signs(len(gains))
    sums_P = np.abs(signs_PN @ gains_N)
    least = abs(gains_N.sum()) - 1e-9 * np.abs(gains_N).sum()  # rounding must not lose the pattern that was seen
    return SignFlips(float((sums_P >= least).mean()), len(signs_PN), len(gains) <= EXACT_PAIRS)


@lru_cache(maxsize=2)
def _signs(n: int) -> np.ndarray:
    """Patterns of n signs, [patterns, n]; the first is all +."""
    if n <= EXACT_PAIRS:
        flipped_PN = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        drawn_PN = np.random.default_rng(SEED).integers(0, 2, size=(DRAWS, n))
        flipped_PN = np.concatenate([np.zeros((1, n), dtype=np.int64), drawn_PN])
    return 1.0 - 2.0 * flipped_PN


@dataclass(frozen=True)
class Gains:
    """Differences at paired points, in shares, and two tests that their mean is 0; `t_p` None if they do not vary."""

    values: tuple[float, ...]
    t_p: float | None
    flips: SignFlips

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Gains | None:
        """Ours minus theirs at each point; None without points."""
        values = tuple(a - b for a, b in zip(ours, theirs, strict=True))
        if not values:
            return None
        varied = len(values) > 1 and float(np.std(values)) > 1e-12
        return cls(values, paired_t_test(ours, theirs) if varied else None, sign_flips(values))

    @property
    def mean(self) -> float:
        """Of the differences."""
        return math.fsum(self.values) / len(self.values)

    @property
    def settled(self) -> int:
        """1 or -1 where the t-test settles the sign of the mean at 5 %, else 0."""
        if self.t_p is None or self.t_p >= LEVEL:
            return 0
        return 1 if self.mean > 0 else -1
