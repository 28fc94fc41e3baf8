"""Figures that others published, as they come with deatbench: facts to read a board by, never ranked among its rows.

published_results.csv   CIFAR-10, Linf: a row per published model, in percent; empty where its source gives no figure
deat_table2.csv         Table 2 of the DEAT paper: robust accuracy in percent by learning rate, architecture and method
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

from deatbench.records import PublishedResult, Threat, parse_eps
from deatbench.report.reference.percentages import share_of

PUBLISHED_RESULTS = Path(__file__).with_name("published_results.csv")
DEAT_TABLE_2 = Path(__file__).with_name("deat_table2.csv")
DATASET = "cifar10"


@cache
def reference_results() -> tuple[PublishedResult, ...]:
    """The rows of published_results.csv, in its order; accuracies as shares."""
    with PUBLISHED_RESULTS.open(encoding="utf-8", newline="") as file:
        return tuple(_result(row) for row in csv.DictReader(file))


def _result(row: dict[str, str]) -> PublishedResult:
    words = (row["method"], row["arch"], row["checkpoint"], row["source"])
    name = "-".join(word for word in re.split(r"[^a-z0-9]+", " ".join(words).lower()) if word)
    return PublishedResult(
        id=f"reference-{name}",
        name=row["method"],
        dataset=DATASET,
        threat=Threat(norm="Linf", eps=parse_eps(row["eps"]), eps_text=row["eps"]),
        arch=row["arch"],
        method=row["method"],
        epochs=int(row["epochs"]) if row["epochs"] else None,
        checkpoint=row["checkpoint"] or None,
        clean_acc=share_of(row["clean"]),
        pgd_acc=share_of(row["pgd"]),
        pgd_attack=row["pgd_attack"] or None,
        autoattack_acc=share_of(row["autoattack"]),
        source=row["source"],
    )
