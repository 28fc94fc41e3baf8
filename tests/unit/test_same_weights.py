"""Weights that a run keeps under two names are attacked once; the record is the one that attacking them would give."""

from pathlib import Path

import torch

from deatbench.data import load_dataset
from deatbench.engine.monitor import Monitor
from deatbench.models.runs import trained_model
from deatbench.pipeline import EvaluationRequest, Machine, configure, evaluate
from deatbench.pipeline import run as run_whole
from deatbench.records import EvaluationRecord
from deatbench.store import Home
from deatbench.threats import make_threat

CPU = torch.device("cpu")
VERDICTS = ("id", "model", "training", "metrics", "samples", "attacks", "flags")


class Notes(Monitor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def run_of_one_epoch(home: Path, last: str) -> tuple[dict[str, EvaluationRecord], list[str], Machine]:
    """A run whose best weights are its last, evaluated by pgd-3 and, under the name `last`, by another plan."""
    settings = ["epochs=1", "batch_size=128", "attack.steps=2", "arch.width=0.125", "evaluation.n=40"]
    plan = ["evaluation.attacks=[pgd-3]", f"evaluation.last_attacks=[{last}]"]
    config = configure(arch="resnet8", method="pgd-at", dataset="digits", overrides=[*settings, *plan], device=CPU)
    notes, machine = Notes(), Machine(Home(home), CPU)
    done = run_whole(config, machine, publish=False, monitor=notes)
    return {r.training.checkpoint: r for r in done.evaluations if r.training}, notes.lines, machine


def test_they_are_attacked_once_and_the_record_is_the_one_of_attacking_them(tmp_path: Path) -> None:
    records, notes, machine = run_of_one_epoch(tmp_path, "pgd-3")
    assert sum("attacking" in line for line in notes) == 1
    assert sum("evaluated already" in line for line in notes) == 1
    folder = next(iter(machine.home.runs.iterdir()))
    model = trained_model(machine.home.run(folder.name), "last", CPU)
    data = load_dataset("digits", None, val_fraction=0.1)
    again = evaluate(model, data, make_threat("Linf", "0.2"), EvaluationRequest(("pgd-3",), n=40), machine).record
    for field in VERDICTS:
        ours, theirs = getattr(records["last"], field), getattr(again, field)
        if field == "attacks":
            ours, theirs = ([a.model_copy(update={"seconds": 0.0}) for a in each] for each in (ours, theirs))
        assert ours == theirs, field
    assert records["last"].generalisation == records["best"].generalisation
    assert records["last"].id != records["best"].id


def test_another_attack_is_made(tmp_path: Path) -> None:
    records, notes, _ = run_of_one_epoch(tmp_path, "pgd-2")
    assert sum("attacking" in line for line in notes) == 2
    assert [attack.name for attack in records["last"].attacks] == ["pgd-2"]
