"""Which images survived, as packed bits, and the metrics that follow from them."""

from __future__ import annotations

import base64
import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from deatbench.records.base import Record


class Metric(Record):
    """A share of images in [0, 1] with its Wilson 95 % interval."""

    value: float = Field(ge=0, le=1)
    n: int = Field(gt=0)
    ci95: tuple[float, float]

    @classmethod
    def of(cls, verdicts_N: np.ndarray) -> Metric:
        """The metric of a boolean verdict per image."""
        n, k = int(verdicts_N.size), int(np.count_nonzero(verdicts_N))
        return cls(value=k / n, n=n, ci95=wilson_interval(k, n))


def wilson_interval(k: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of k successes in n trials (Wilson 1927), rounded to 6 places."""
    p, z2 = k / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return round(max(0.0, centre - half), 6), round(min(1.0, centre + half), 6)


def pack_bits(verdicts_N: np.ndarray) -> str:
    """Booleans [N] as base64 of big-endian packed bits."""
    return base64.b64encode(np.packbits(np.asarray(verdicts_N, dtype=bool)).tobytes()).decode("ascii")


def unpack_bits(text: str, n: int) -> np.ndarray:
    """The inverse of pack_bits. Raises ValueError if the length is not that of n bits."""
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if packed.size != (n + 7) // 8:
        raise ValueError(f"{packed.size} bytes of verdicts for {n} images")
    return np.unpackbits(packed, count=n).astype(bool)


class Samples(Record):
    """Per-example verdicts as packed bits; `indices` is "first" (0..n-1) or the list of test indices."""

    n: int = Field(gt=0)
    indices: Literal["first"] | tuple[int, ...] = "first"
    clean: str
    robust: dict[str, str]

    @model_validator(mode="after")
    def _indices_are_n(self) -> Samples:
        if self.indices != "first" and not len(self.indices) == len({i for i in self.indices if i >= 0}) == self.n:
            raise ValueError(f"indices must be {self.n} different numbers >= 0")
        return self

    def clean_N(self) -> np.ndarray:
        """True where the clean image is classified correctly."""
        return unpack_bits(self.clean, self.n)

    def robust_N(self, attack: str) -> np.ndarray:
        """True where the image withstands `attack`."""
        return unpack_bits(self.robust[attack], self.n)

    def worst_case_N(self) -> np.ndarray:
        """True where the image is correct clean and withstands every attack."""
        standing_N: np.ndarray = np.logical_and.reduce([self.clean_N(), *map(self.robust_N, self.robust)])
        return standing_N

    def verdicts_N(self, metric: str) -> np.ndarray:
        """True where the image counts for a metric of `metrics_of`: correct clean, under that attack, or under all."""
        if metric == "clean_acc":
            return self.clean_N()
        return self.worst_case_N() if metric == "worst_case_acc" else self.robust_N(metric)


def metrics_of(clean_N: np.ndarray, robust: dict[str, np.ndarray]) -> dict[str, Metric]:
    """Metrics from verdicts: `clean_acc`, one per attack, and the per-example `worst_case_acc`."""
    metrics = {"clean_acc": Metric.of(clean_N)}
    metrics |= {name: Metric.of(verdicts_N) for name, verdicts_N in robust.items()}
    if robust:
        metrics["worst_case_acc"] = Metric.of(np.logical_and.reduce([clean_N, *robust.values()]))
    return metrics
