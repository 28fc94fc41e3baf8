"""Runs of ours as RobustBench's model_info files: those that its boards could take, and why not the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deatbench.report.escape import plain
from deatbench.report.reference.percentages import percent_of
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row, Section
from deatbench.report.standings.runs import AUTOATTACK, WORST_CASE, Run

DATASETS = ("cifar10", "cifar100", "imagenet")
NORMS = ("Linf", "L2")
LEAST_IMAGES = 1000


@dataclass(frozen=True)
class LeftOut:
    """A run that is not written, and why."""

    board: str
    name: str
    why: str


@dataclass(frozen=True)
class Export:
    """Files by their path below model_info/, and what is left out."""

    files: Mapping[str, dict[str, Any]]
    left_out: tuple[LeftOut, ...]


def export(boards: list[Board]) -> Export:
    """A file for each run of a ranked row whose AutoAttack saw at least 1,000 images. A pure function.

    Accuracies are texts in percent, as they keep them; what nobody has published about the run (authors, venue, a
    figure of a paper's own) stays empty.
    """
    files: dict[str, dict[str, Any]] = {}
    left_out: list[LeftOut] = []
    for board in boards:
        for row in board.rows:
            for run in row.runs:
                why = _unfit(board, row, run)
                path = f"{board.dataset}/{board.threat.norm}/{_identifier(run)}.json"
                if not why and path in files:
                    why = "another run of this name is written already"
                if why:
                    left_out.append(LeftOut(board.address, plain(run.model.name), why))
                else:
                    files[path] = _info(board, run)
    return Export(files, tuple(left_out))


def _unfit(board: Board, row: Row, run: Run) -> str:
    """Why a run cannot be written; empty if it can."""
    metric = run.metrics.get(AUTOATTACK)
    if board.dataset not in DATASETS or board.threat.norm not in NORMS:
        return f"RobustBench has no board of {plain(board.dataset)}, {board.threat.norm}"
    if row.section is Section.FLAGGED:
        return "flagged"
    if metric is None:
        return "not attacked by AutoAttack"
    if metric.n < LEAST_IMAGES:
        return f"AutoAttack saw {metric.n:,} images, fewer than {LEAST_IMAGES:,}"
    if run.training is None:
        return "whether its training used additional data is not known"
    return ""


def _identifier(run: Run) -> str:
    """A file name: the training's, and which of its weights where they are not the best."""
    training = run.training
    kept = "" if training is None or training.checkpoint == "best" else f"-{training.checkpoint}"
    name = f"{training.run_id if training else run.model.name}{kept}"
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", name).strip("-._+=")[:100] or "run"


def _info(board: Board, run: Run) -> dict[str, Any]:
    """The object of one file, their keys in their order; all accuracies from one evaluation, on the same images."""
    record, training = run.sources[AUTOATTACK], run.training
    assert training is not None
    clean, robust, worst = (record.metrics[name].value for name in ("clean_acc", AUTOATTACK, WORST_CASE))
    engine = next((attack.engine for attack in record.attacks if attack.name.startswith(AUTOATTACK)), "?")
    images = "the first" if record.samples.indices == "first" else "a listed choice of"
    return {
        "link": "",
        "name": plain(f"{training.method}, recipe {training.recipe}, {training.epochs} epochs, seed {training.seed}"),
        "authors": "",
        "additional_data": training.config.get("dataset", board.dataset) != board.dataset,
        "number_forward_passes": 1,
        "dataset": board.dataset,
        "venue": "N/A",
        "architecture": plain(run.model.arch),
        "eps": board.threat.eps_text,
        "clean_acc": percent_of(clean),
        "reported": "",
        "autoattack_acc": percent_of(robust),
        **({"external": percent_of(worst)} if worst < robust else {}),
        "footnote": plain(f"AutoAttack by {engine} on {images} {record.samples.n:,} test images; record {record.id}."),
        "unreliable": False,
    }
