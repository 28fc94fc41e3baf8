"""Sweeps in tests: a small file whose runs take two seconds, and folders of runs that nobody has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from records_factory import epoch_metrics, evaluation, training_info, training_record

from deatbench.records import SweepResult
from deatbench.store import Home
from deatbench.sweep import Planned

TINY = """
about: does it run?
base:
  {recipe: digits, dataset: digits, arch: resnet8, method: pgd-at,
   set: {arch.width: 0.25, epochs: 2, attack.steps: 2, batch_size: 128, evaluation.n: 60,
         evaluation.attacks: [pgd-2, apgd-ce], evaluation.last_attacks: [fgsm]}}
"""


def make_run(home: Home, point: Planned, clean: float = 0.9) -> None:
    """The folder of a finished run of `point`, as far as a sweep reads it."""
    folder = home.run(point.run_id)
    info = training_info(0, run_id=point.run_id, epochs=2, checkpoint_epoch=1)
    record = training_record(0, id=point.run_id, best_epoch=1)
    folder.evaluations.mkdir(parents=True, exist_ok=True)
    lines = [epoch_metrics(epoch).model_dump_json() for epoch in (1, 2)]
    folder.metrics.write_text("\n".join(lines) + "\n")
    for name in record.weights:
        training = info.model_copy(update={"checkpoint": name})
        found = evaluation(f"{point.run_id}-{name}", training=training, clean=clean)
        (folder.evaluations / f"{name}-{point.evaluation}.json").write_text(found.model_dump_json())
    folder.training.write_text(record.model_dump_json())


def results(path: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl, each a sound record, without the seconds."""
    found = []
    for line in path.read_text().splitlines():
        SweepResult.model_validate_json(line, strict=True)
        result = json.loads(line)
        result.pop("seconds")
        for weights in result["weights"].values():
            weights.pop("seconds")
        found.append(result)
    return found
