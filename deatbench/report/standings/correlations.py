"""Correlations of short series and the paired t-test: what the DEAT page recomputes.

scipy.stats has them all, but takes a second to import and fails to where torch is forbidden; tests compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's r of two series of equal length; 0 where one of them does not vary."""
    x_N, y_N = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return 0.0
    return float(np.corrcoef(x_N, y_N)[0, 1])


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rho: Pearson's r of the ranks, equal values sharing the mean of theirs."""
    return pearson(_ranks(a), _ranks(b))


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b: pairs in the same order minus pairs in the opposite one, over what ties leave possible."""
    x_N, y_N = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    first, second = np.triu_indices(len(x_N), k=1)
    x_P, y_P = np.sign(x_N[first] - x_N[second]), np.sign(y_N[first] - y_N[second])
    possible = float((x_P != 0).sum()) * float((y_P != 0).sum())
    return float((x_P * y_P).sum()) / possible**0.5 if possible else 0.0


def paired_t_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the t-test that the mean of a - b is 0, for at least two pairs whose differences vary."""
    gains_N = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    n = len(gains_N)
    t = gains_N.mean() / (gains_N.std(ddof=1) / n**0.5)
    return 2 * float(stdtr(n - 1, -abs(t)))


def _ranks(values: Sequence[float]) -> list[float]:
    array_N = np.asarray(values, dtype=float)
    return [float((array_N < value).sum() + ((array_N == value).sum() + 1) / 2) for value in array_N]
