"""Round ticks for linear and logarithmic axes, and how they are written."""

from __future__ import annotations

import itertools
import math

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At most `count` >= 2 round values from low to high, 1, 2 or 5 times a power of ten apart."""
    exponent = math.floor(math.log10((high - low) / count)) - 1
    while True:
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < count:
                return [_multiple(turn * factor, exponent) for turn in range(first, last + 1)]
        exponent += 1


def log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Powers of ten from low > 0 to high, with their doubles and fives where there is room.

    Like `ticks` where less than two of them lie between close ends.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors, stride in (((1, 2, 5), 1), ((1, 3), 1), *(((1,), stride) for stride in (1, 2, 3, 5, 10, 20, 50, 100))):
        values = [
            _multiple(factor, power) for power in range(first, last + 1) if power % stride == 0 for factor in factors
        ]
        values = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(values) <= count:
            break
    if len(values) > 1 or high > 100 * low:
        return values
    return [value for value in ticks(low, high, count) if value >= low * (1 - 1e-9)]


def tick_labels(values: list[float]) -> list[str]:
    """Ticks as text: k, M, G and T for large ones, else as many digits behind the point as any of them needs."""
    if any(abs(value) >= 1e4 for value in values):
        names = [short(value) for value in values]
        names = names if len(set(names)) == len(values) else [f"{value:.12g}" for value in values]
        return [name.replace("-", "−") for name in names]
    steps = [b - a for a, b in itertools.pairwise(values)]
    even = all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
    if not even or not steps or steps[0] < 1e-6:
        return [f"{value:g}".replace("-", "−") for value in values]
    digits = max(0, -math.floor(math.log10(steps[0]) + 1e-9))
    return [f"{value:.{digits}f}".replace("-", "−") for value in values]


def _multiple(turn: int, exponent: int) -> float:
    """turn × 10^exponent, the float nearest to the decimal number where that can be had."""
    return turn / 10.0**-exponent if exponent < 0 else turn * 10.0**exponent


def short(value: float) -> str:
    """Four digits; k, M, G or T from ten thousand on."""
    if not 1e4 <= abs(value) < 1e15:
        return f"{value:.4g}"
    size, sign = next(unit for unit in UNITS if abs(value) >= unit[0])
    return f"{value / size:.4g}{sign}"
