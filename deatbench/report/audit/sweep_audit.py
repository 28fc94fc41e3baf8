"""The sweeps of a working folder: every finished run's numbers worked out again from its verdicts."""

from __future__ import annotations

from pathlib import Path

from deatbench.errors import DeatbenchError
from deatbench.report.audit.arithmetic import record_faults
from deatbench.report.audit.findings import Audit, files_below
from deatbench.report.sweeps.reading import RESULTS, read_sweep


def audit_sweeps(found: Audit) -> None:
    """Look at every results.jsonl below sweeps/, and at the file and the plan beside it."""
    for path in files_below(found, found.home.sweeps):
        if path.name == RESULTS and path.parent.parent == found.home.sweeps:
            _audit_sweep(found, path)


def _audit_sweep(found: Audit, path: Path) -> None:
    try:
        sweep = read_sweep(path.parent)
    except DeatbenchError as error:
        found.checked["sweeps"] += 1
        found.say(path, f"cannot be read: {error}")
        return
    found.checked["sweeps"] += 1
    found.checked["runs of sweeps"] += len(sweep.results)
    for result in sweep.results:
        found.images(path, result.dataset)
        about = result.model_dump(mode="json", include={"threat", "dataset"})
        for name, measured in result.weights.items():
            for fault in record_faults(about | measured.model_dump(mode="json", include={"samples", "metrics"})):
                found.say(path, f"{result.run_id}, {name} weights: {fault}")
