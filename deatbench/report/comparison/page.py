"""The compare page of a board: every run's verdicts in one file, so that a browser can test any two of them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from deatbench.records import Diagnostics, digest_of, pack_bits
from deatbench.report.comparison.comparison import INTERVAL, TEST, labelling
from deatbench.report.escape import plain
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import describe, place
from deatbench.report.rendering import render
from deatbench.report.standings.boards import Board
from deatbench.report.standings.runs import AUTOATTACK, CLEAN, WORST_CASE, Run

METRICS = (CLEAN, AUTOATTACK, WORST_CASE)
MAX_RUNS = 2000
MAX_VERDICTS = 2_500_000  # characters of packed bits on one page


def compare_pages(board: Board, inputs: Inputs) -> dict[str, str]:
    """The page, by its path below leaderboards/; none for a board without two runs."""
    if len(board.runs) < 2:
        return {}
    text = render(
        "compare.html",
        styles=("compare.css",),
        scripts=("compare_statistics.js", "compare.js"),
        board=board,
        board_page=f"{board.threat.slug}.html",
        test=TEST,
        interval=INTERVAL,
        data=_data(board, inputs),
    )
    return {f"{board.address}-compare.html": text}


def run_key(run: Run) -> str:
    """What names a run in the page's address (`#models=KEY,KEY`): 12 hex digits that follow from its weights."""
    record = run.evaluations[0]
    made = [run.training.run_id, run.training.checkpoint] if run.training else []
    return digest_of([record.dataset.split, record.dataset.sha256, *record.model.function, *made])


def _data(board: Board, inputs: Inputs) -> dict[str, Any]:
    """What the script reads: runs in the board's order, as far as there is room, and what they share, by number."""
    shared = _Shared(board, inputs)
    runs: list[dict[str, Any]] = []
    room = MAX_VERDICTS
    for number, row in enumerate(board.rows):
        for run in row.runs:
            entry = _entry(run, number, shared)
            room -= sum(len(bits) for bits in entry["bits"].values())
            if room < 0 or len(runs) == MAX_RUNS:
                return shared.document(runs, len(board.runs) - len(runs))
            runs.append(entry)
    return shared.document(runs, 0)


def _entry(run: Run, row: int, shared: _Shared) -> dict[str, Any]:
    """One run as its deciding evaluation found it, which `deatbench compare` takes as well."""
    record = run.deciding
    return {
        "key": run_key(run),
        "row": row,
        "name": shared.name(run),
        "record": record.id,
        "n": record.samples.n,
        "indices": None if record.samples.indices == "first" else list(record.samples.indices),
        "images": shared.images(run),
        "attacks": [shared.attack(name, None) for name in sorted(record.samples.robust, key=place)],
        "settings": [shared.attack(attack.name, attack.params) for attack in record.attacks],
        "flags": [plain(flag.message) for flag in run.flags],
        "bits": {m: pack_bits(record.samples.verdicts_N(m)) for m in METRICS if m in record.metrics},
    }


class _Shared:
    """What many runs have in common, each once: sets of images with their true classes, attacks and their settings."""

    def __init__(self, board: Board, inputs: Inputs) -> None:
        self._diagnostics = [inputs.diagnostics[key] for key in sorted(inputs.diagnostics)]
        self._dataset = board.dataset
        self._names = Counter(self._short(run) for run in board.runs)
        self._images: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._attacks: dict[tuple[str, str], int] = {}

    def document(self, runs: list[dict[str, Any]], left_out: int) -> dict[str, Any]:
        """The whole of the page's data."""
        return {
            "metrics": [{"name": name, "title": describe(name).title} for name in METRICS],
            "images": list(self._images.values()),
            "attacks": [plain(name) for name, _ in self._attacks],
            "runs": runs,
            "leftOut": left_out,
        }

    def name(self, run: Run) -> str:
        """The run's name and weights, with its key where another run is called the same."""
        short = self._short(run)
        return short if self._names[short] == 1 else f"{short} {run_key(run)}"

    def _short(self, run: Run) -> str:
        weights = f" ({run.training.checkpoint})" if run.training else ""
        return plain(run.model.name.removeprefix(f"{self._dataset}-"), 120) + weights

    def images(self, run: Run) -> int:
        """Number of the split that the run was tested on."""
        dataset = run.deciding.dataset
        key = (dataset.split, dataset.sha256)
        if key not in self._images:
            self._images[key] = _labels(labelling(dataset, self._diagnostics))
        return list(self._images).index(key)

    def attack(self, name: str, params: dict[str, Any] | None) -> int:
        """Number of an attack, or of it with certain settings."""
        return self._attacks.setdefault((name, json.dumps(params, sort_keys=True)), len(self._attacks))


def _labels(found: Diagnostics | None) -> dict[str, Any] | None:
    """True classes of the first n images, two bytes each, and what the classes are called."""
    if found is None:
        return None
    return {"classes": [plain(name, 60) for name in found.class_names], "labels": found.labels, "n": found.dataset.n}
