"""Two to four evaluated models on the images that they share: who withstands which, and is the difference chance?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np

from deatbench.errors import ConfigError
from deatbench.records import DatasetInfo, Diagnostics, EvaluationRecord, wilson_interval
from deatbench.report.metrics import place
from deatbench.report.standings.runs import CLEAN, WORST_CASE
from deatbench.report.standings.significance import LEVEL, mcnemar

LETTERS = "ABCD"
TEST = "exact McNemar test on the images that both models saw, two-sided"
INTERVAL = "95 % interval for the difference of paired proportions, Newcombe 1998, method 10"


@dataclass(frozen=True)
class Difference:
    """One metric of models A and B on the same n images. Accuracies are shares; `difference` is A's minus B's.

    `ci95` is Newcombe's interval for it. At the edge it can disagree with the exact test; the test decides.
    """

    metric: str
    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def settled(self) -> bool:
        """Whether the difference is significant at 5 %."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Pair:
    """Models number a and b, and each metric that both have."""

    a: int
    b: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class ClassAccuracy:
    """One metric of every model on the n common images of one class."""

    name: str
    n: int
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class PerClass:
    """One metric by true class."""

    metric: str
    classes: tuple[ClassAccuracy, ...]


@dataclass(frozen=True)
class Comparison:
    """The models' records in the order asked for, every pair of them, classes where known, and what to bear in mind."""

    records: tuple[EvaluationRecord, ...]
    pairs: tuple[Pair, ...]
    per_class: tuple[PerClass, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        first = self.records[0]
        return {
            "dataset": {"name": first.dataset.name, "split": first.dataset.split, "sha256": first.dataset.sha256},
            "threat": first.threat.model_dump(mode="json"),
            "test": TEST,
            "interval": INTERVAL,
            "models": [
                {
                    "letter": letter,
                    "name": record.model.name,
                    "checkpoint": record.training.checkpoint if record.training else None,
                    "model_sha256": record.model.sha256,
                    "record": record.id,
                    "n": record.samples.n,
                }
                for letter, record in zip(LETTERS, self.records, strict=False)
            ],
            "pairs": [asdict(pair) for pair in self.pairs],
            "per_class": [asdict(metric) for metric in self.per_class],
            "notes": list(self.notes),
        }


def compare(records: Sequence[EvaluationRecord], diagnostics: Iterable[Diagnostics] = ()) -> Comparison:
    """Compare evaluations of 2 to 4 models; true classes come from `diagnostics` of the same images, if there are any.

    Raises ConfigError unless they are different evaluations of the same dataset under one threat and share images.
    """
    _refuse_unlike(records)
    everybody = range(len(records))
    pairs = tuple(_pair(records, a, b) for a, b in combinations(everybody, 2))
    labelled = labelling(records[0].dataset, diagnostics)
    per_class = _per_class(records, labelled) if labelled else ()
    notes = [note for a, b in combinations(everybody, 2) for note in _notes(records, a, b)]
    notes += [
        f"{letter} is flagged: {flag.message}"
        for letter, record in zip(LETTERS, records, strict=False)
        for flag in record.flags
    ]
    return Comparison(tuple(records), pairs, per_class, tuple(notes))


def _refuse_unlike(records: Sequence[EvaluationRecord]) -> None:
    if not 2 <= len(records) <= len(LETTERS):
        raise ConfigError(f"{len(records)} models to compare", f"name two to {len(LETTERS)}")
    if len({record.id for record in records}) < len(records):
        raise ConfigError("the same evaluation is named twice", "two checkpoints of a run are two records: name them")
    first = records[0]
    for record in records[1:]:
        for what, one, other in (
            ("dataset", first.dataset.name, record.dataset.name),
            ("split", first.dataset.split, record.dataset.split),
            ("images (SHA-256)", first.dataset.sha256[:12], record.dataset.sha256[:12]),
            ("norm", first.threat.norm, record.threat.norm),
            ("eps", first.threat.eps_text, record.threat.eps_text),
        ):
            if one != other:
                raise ConfigError(
                    f"{first.model.name} and {record.model.name} were not evaluated alike: {what} {one} and {other}",
                    "compare evaluations on the same images under the same threat",
                )


def _common(records: Sequence[EvaluationRecord]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The images that all records share, sorted, and where they stand in each."""
    listed = [
        np.arange(record.samples.n) if record.samples.indices == "first" else np.array(record.samples.indices)
        for record in records
    ]
    common = reduce(np.intersect1d, listed)
    orders = [np.argsort(images, kind="stable") for images in listed]
    return common, [
        order[np.searchsorted(images, common, sorter=order)] for images, order in zip(listed, orders, strict=True)
    ]


def _pair(records: Sequence[EvaluationRecord], a: int, b: int) -> Pair:
    two = (records[a], records[b])
    common, (at_a, at_b) = _common(two)
    if not common.size:
        raise ConfigError(
            f"{two[0].model.name} and {two[1].model.name} were evaluated on different images, none in common"
        )
    shared = sorted(two[0].metrics.keys() & two[1].metrics.keys(), key=place)
    differences = []
    for metric in shared:
        a_N, b_N = two[0].samples.verdicts_N(metric)[at_a], two[1].samples.verdicts_N(metric)[at_b]
        test = mcnemar(a_N, b_N)
        counts = (test.both, test.only_a, test.only_b, test.neither)
        shares = (float(a_N.mean()), float(b_N.mean()))
        differences.append(
            Difference(metric, common.size, *shares, test.difference, newcombe(*counts), test.p_value, *counts)
        )
    return Pair(a, b, tuple(differences))


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95 % interval for the difference of two paired shares, a's minus b's (Newcombe 1998, Stat. Med. 17, method 10).

    The Wilson intervals of both shares, put together as the sides of a triangle whose angle is the correlation of the
    verdicts (with a correction for continuity, so that a slight agreement counts as none).
    """
    n, a, b = both + only_a + only_b + neither, both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b) = wilson_interval(a, n), wilson_interval(b, n)
    down_a, up_a, down_b, up_b = a / n - low_a, high_a - a / n, b / n - low_b, high_b - b / n
    agreement: float = both * neither - only_a * only_b
    if agreement > 0:
        agreement = max(0, agreement - n / 2)
    margins = a * (n - a) * b * (n - b)
    phi = agreement / math.sqrt(margins) if margins else 0.0
    below = math.sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    above = math.sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    return (a - b) / n - below, (a - b) / n + above


def labelling(dataset: DatasetInfo, diagnostics: Iterable[Diagnostics]) -> Diagnostics | None:
    """The diagnosis that knows the true classes of most of the dataset's first images; None if there is none."""
    same = [d for d in diagnostics if (d.dataset.split, d.dataset.sha256) == (dataset.split, dataset.sha256)]
    return min(same, key=lambda d: (-d.dataset.n, d.id), default=None)


def _per_class(records: Sequence[EvaluationRecord], labelled: Diagnostics) -> tuple[PerClass, ...]:
    images, places = _common(records)
    known = images < labelled.dataset.n
    labels = labelled.labels_N()[images[known]]
    present = [(number, name) for number, name in enumerate(labelled.class_names) if (labels == number).any()]
    tables = []
    for metric in (CLEAN, WORST_CASE):
        if present and all(metric in record.metrics for record in records):
            verdicts = [r.samples.verdicts_N(metric)[at][known] for r, at in zip(records, places, strict=True)]
            rows = [
                ClassAccuracy(name, int(here.sum()), tuple(float(right[here].mean()) for right in verdicts))
                for number, name in present
                for here in (labels == number,)
            ]
            tables.append(PerClass(metric, tuple(rows)))
    return tuple(tables)


def _notes(records: Sequence[EvaluationRecord], a: int, b: int) -> Iterable[str]:
    """What makes a pair less alike than it looks."""
    settings = [{attack.name: attack.params for attack in records[which].attacks} for which in (a, b)]
    met = [set(records[which].samples.robust) for which in (a, b)]
    alone = [
        f"{LETTERS[which]} alone met {', '.join(sorted(names, key=place))}"
        for which, names in ((a, met[0] - met[1]), (b, met[1] - met[0]))
        if names
    ]
    if alone:
        yield f"The worst cases of {LETTERS[a]} and {LETTERS[b]} are of different attacks: {' and '.join(alone)}."
    unlike = [name for name in settings[0].keys() & settings[1].keys() if settings[0][name] != settings[1][name]]
    if unlike:
        yield f"{LETTERS[a]} and {LETTERS[b]} met other settings of {', '.join(sorted(unlike, key=place))}."
