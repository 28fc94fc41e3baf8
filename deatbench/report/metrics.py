"""The one table of metrics: what each is called, what it means, which way is better."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from deatbench.report.standings.runs import AUTOATTACK, WORST_CASE

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class MetricInfo:
    """A metric of evaluation records. `pattern` matches its name; groups fill `title` and `description`."""

    pattern: str
    title: str
    description: str
    direction: Direction = "higher"


METRICS = (
    MetricInfo("clean_acc", "Clean", "Share of unmodified test images that are classified correctly."),
    MetricInfo(r"fgsm", "FGSM", "Accuracy after one signed-gradient step of size ε (Goodfellow et al. 2015)."),
    MetricInfo(
        r"pgd-(\d+)",
        r"PGD-\1",
        r"Accuracy after \1 steps of projected gradient ascent on the cross-entropy (Madry et al. 2018).",
    ),
    MetricInfo(
        r"cw-(\d+)",
        r"CW-\1",
        r"Accuracy after \1 steps of projected gradient ascent on the margin loss of Carlini and Wagner (2017): "
        "PGD with their loss, not their optimiser.",
    ),
    MetricInfo(
        AUTOATTACK,
        "AutoAttack",
        "Accuracy after the published standard suite (Croce and Hein 2020): APGD-CE, targeted APGD-DLR, targeted FAB "
        "and Square, each on the images that survived the one before.",
    ),
    MetricInfo(
        f"{AUTOATTACK}-provisional",
        "AutoAttack (provisional)",
        "Accuracy after APGD-CE and targeted APGD alone: an upper bound of an AutoAttack that was not finished.",
    ),
    MetricInfo(r"autoattack-(plus|rand)", r"AutoAttack \1", r"Accuracy after the published suite of version \1."),
    MetricInfo("fmn", "FMN", "Share of images whose nearest adversarial image found is beyond ε (Pintor et al. 2021)."),
    MetricInfo("ddn", "DDN", "Share of images whose nearest adversarial image found is beyond ε (Rony et al. 2019)."),
    MetricInfo("gaussian-noise", "Noise", "Accuracy after draws of Gaussian noise within ε: a control, not an attack."),
    MetricInfo("transfer", "Transfer", "Accuracy on images made adversarial for another network."),
    MetricInfo(
        WORST_CASE,
        "Worst case",
        "Share of images classified correctly clean and after every attack that was run, judged image by image.",
    ),
)


def describe(name: str) -> MetricInfo:
    """The entry for metric `name`, its groups filled in; an unknown metric describes itself by its name."""
    for metric in METRICS:
        found = re.fullmatch(metric.pattern, name)
        if found:
            return MetricInfo(name, found.expand(metric.title), found.expand(metric.description), metric.direction)
    return MetricInfo(name, name, f"Accuracy after the attack {name}.")


def place(name: str) -> tuple[int, str]:
    """Sort key of a metric: the order of METRICS, weaker attacks first, unknown ones behind."""
    known = [index for index, metric in enumerate(METRICS) if re.fullmatch(metric.pattern, name)]
    return (known[0] if known else len(METRICS), name)
