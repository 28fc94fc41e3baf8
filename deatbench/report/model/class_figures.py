"""Figures by class of a model's page: accuracy of each class, and what attacked images are taken for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deatbench.records import Diagnostics, EvaluationRecord, wilson_interval
from deatbench.report.charts import NARROW, BarRow, bars, heatmap
from deatbench.report.escape import plain
from deatbench.report.metrics import describe
from deatbench.report.model.figures import Figure
from deatbench.report.wording import percent

SHOWN = 30  # classes of the bar chart; of more, the least robust ones
PAIRS = 100  # confusions of the table


@dataclass(frozen=True)
class _PerClass:
    """Images of one class: how many there are, are classified correctly clean, and still under attack."""

    name: str
    n: int
    clean: int
    robust: int


def class_figure(diagnostics: Diagnostics, record: EvaluationRecord | None) -> Figure:
    """Clean and robust accuracy of each class: by the evaluation where it speaks of the same images.

    Without such an evaluation, by the diagnosis itself.
    """
    labels_N = diagnostics.labels_N()
    if record is not None and _same_images(diagnostics, record):
        n = min(len(labels_N), record.samples.n)
        clean_N, robust_N = record.samples.clean_N()[:n], record.samples.worst_case_N()[:n]
        under = "the worst case of all attacks"
    else:
        n = len(labels_N)
        clean_N, robust_N = diagnostics.clean_classes_N() == labels_N, diagnostics.adversarial_classes_N() == labels_N
        under = describe(diagnostics.attack).title
    classes = _per_class(diagnostics.class_names, labels_N[:n], clean_N, clean_N & robust_N)
    weakest = sorted(classes, key=lambda each: each.robust / each.n)
    shown = classes if len(classes) <= SHOWN else weakest[:SHOWN]
    first, last = weakest[0], weakest[-1]
    lowest, highest = percent(first.robust / first.n), percent(last.robust / last.n)
    span = f"from {lowest} % ({first.name}) to {highest} % ({last.name})" if lowest != highest else f"each {lowest} %"
    words = f"Accuracy clean and under {under} by class, on {n:,} images: {span} robust."
    if len(classes) > SHOWN:
        words += f" Shown are the {SHOWN} least robust of {len(classes)} classes; the data has all."
    drawing = bars(
        [_bar(each) for each in shown], key="classes", title="Accuracy by class", description=words, width=NARROW
    )
    columns = ("class", "images", "clean", "robust")
    rows = tuple((each.name, str(each.n), str(each.clean), str(each.robust)) for each in classes)
    return Figure("classes", "By class", words, drawing, columns, rows)


def _same_images(diagnostics: Diagnostics, record: EvaluationRecord) -> bool:
    """Whether both speak of the first images of one split."""
    ours, theirs = diagnostics.dataset, record.dataset
    first = record.samples.indices == "first"
    return first and (ours.name, ours.split, ours.sha256) == (theirs.name, theirs.split, theirs.sha256)


def _per_class(
    names: tuple[str, ...], labels_N: np.ndarray, clean_N: np.ndarray, robust_N: np.ndarray
) -> list[_PerClass]:
    """The classes that have images, in the order of labels."""
    n, clean, robust = (np.bincount(labels_N[mask], minlength=len(names)) for mask in (..., clean_N, robust_N))
    return [
        _PerClass(plain(name, 40), int(n[label]), int(clean[label]), int(robust[label]))
        for label, name in enumerate(names)
        if n[label]
    ]


def _bar(each: _PerClass) -> BarRow:
    ends = tuple(wilson_interval(count, each.n) for count in (each.clean, each.robust))
    return BarRow(each.name, (each.clean / each.n, each.robust / each.n), ends)


def confusion_figure(diagnostics: Diagnostics) -> Figure:
    """What the images of each class are taken for under attack."""
    names = [plain(name, 40) for name in diagnostics.class_names]
    counts_KK = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts_KK, (diagnostics.labels_N(), diagnostics.adversarial_classes_N()), 1)
    wrong = [(int(counts_KK[t, p]), t, p) for t, p in zip(*np.nonzero(counts_KK), strict=True) if t != p]
    wrong.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    often = ", ".join(f"{names[true]} as {names[taken]} ({count})" for count, true, taken in wrong[:3])
    words = (
        f"What {diagnostics.dataset.n:,} images are taken for under {describe(diagnostics.attack).title}, in percent "
        f"of their class{f'; most often {often}' if often else ''}. An image that is wrong anyway is not attacked."
    )
    drawing = heatmap(
        counts_KK.tolist(), names, key="confusion", title="Confusion under attack", description=words, width=NARROW
    )
    rows = tuple((names[true], names[taken], str(count)) for count, true, taken in wrong[:PAIRS])
    return Figure("confusion", "Taken for, under attack", words, drawing, ("class", "taken for", "images"), rows)
