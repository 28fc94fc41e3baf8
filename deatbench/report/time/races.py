"""How long trainings took to a given robust accuracy: one race per data set, threat and machine.

The accuracy is that after each epoch on held-out validation images, under the training's own attack; the time is the
sum of the epochs' training time up to there. Different machines never meet in one race.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from deatbench.records import EpochMetrics, ModelCard, Threat
from deatbench.report.histories import History, curves_of
from deatbench.report.inputs import Inputs
from deatbench.report.setups import method, network, optimizer
from deatbench.report.standings.rows import Summary
from deatbench.report.standings.runs import AUTOATTACK, Run

STEPS = (5, 2, 1)  # points between targets; the first that gives any
MOST_TARGETS = 6


@dataclass(frozen=True)
class Arrival:
    """When the runs of an entry first reached a target: seconds and epochs of those that did, in the order of runs."""

    seconds: tuple[float, ...]
    epochs: tuple[int, ...]
    runs: int

    @property
    def complete(self) -> bool:
        """Whether every run reached it."""
        return len(self.seconds) == self.runs

    @property
    def mean(self) -> float:
        """Mean seconds of the runs that reached it; only to be asked if any did."""
        return statistics.fmean(self.seconds)


@dataclass(frozen=True)
class Trained:
    """One training run with its epochs, and what the test images say of the weights that it published."""

    card: ModelCard
    epochs: tuple[EpochMetrics, ...]
    run: Run | None

    @cached_property
    def path(self) -> tuple[tuple[float, float, int], ...]:
        """(seconds so far, robust accuracy on validation images, epoch) after each epoch that was validated."""
        clock = accumulate(each.seconds for each in self.epochs)
        both = zip(clock, self.epochs, strict=True)
        return tuple((t, each.val_robust_acc, each.epoch) for t, each in both if each.val_robust_acc is not None)

    @property
    def best(self) -> float:
        """The highest robust accuracy after any epoch."""
        return max(accuracy for _, accuracy, _ in self.path)


@dataclass(frozen=True)
class Entry:
    """Runs that differ in nothing but their seed, on one kind of machine."""

    runs: tuple[Trained, ...]

    @property
    def card(self) -> ModelCard:
        """The card of the first run; the others say the same but for seeds and times."""
        return self.runs[0].card

    @property
    def method(self) -> str:
        """The method's name."""
        return method(self.card.training.config)

    @property
    def network(self) -> str:
        """The architecture with its parameters."""
        return network(self.card.model.arch, self.card.model.params)

    @property
    def update(self) -> str:
        """The optimizer with its learning rate."""
        return optimizer(self.card.training.config)

    @property
    def epochs(self) -> int:
        """How long it was trained: the last epoch of the longest run."""
        return max(run.epochs[-1].epoch for run in self.runs)

    @property
    def seconds(self) -> float:
        """Training time of a whole run, the mean over runs."""
        return statistics.fmean(run.card.training.seconds for run in self.runs)

    @property
    def best(self) -> float:
        """The highest robust accuracy of a run on validation images, the mean over runs."""
        return statistics.fmean(run.best for run in self.runs)

    @property
    def images_per_second(self) -> float | None:
        """Images trained on per second, the mean over the runs that recorded it."""
        known = [run.card.training.throughput for run in self.runs]
        rates = [each.images_per_second for each in known if each is not None]
        return statistics.fmean(rates) if rates else None

    @property
    def autoattack(self) -> Summary | None:
        """AutoAttack's accuracy on test images, over the runs that have it."""
        metrics = [run.run.metrics[AUTOATTACK] for run in self.runs if run.run and AUTOATTACK in run.run.metrics]
        return Summary.of(metrics) if metrics else None

    @property
    def flags(self) -> list[str]:
        """Codes of what training went through and of doubts about the evaluation, each once, sorted."""
        notes = {flag.code for run in self.runs for flag in run.card.training.flags}
        return sorted(notes | {flag.code for run in self.runs if run.run for flag in run.run.flags})

    def arrival(self, target: int) -> Arrival:
        """When the runs first reached `target` percent."""
        firsts = (next(((t, e) for t, acc, e in run.path if acc >= target / 100), None) for run in self.runs)
        reached = [found for found in firsts if found is not None]
        return Arrival(tuple(t for t, _ in reached), tuple(epoch for _, epoch in reached), len(self.runs))

    def mean_path(self) -> tuple[tuple[float, float], ...]:
        """(seconds, robust accuracy) per epoch that every run has, both the mean over runs."""
        known = [{epoch: (t, acc) for t, acc, epoch in run.path} for run in self.runs]
        shared = sorted(set.intersection(*(set(each) for each in known)))
        means = (tuple(zip(*(each[epoch] for each in known), strict=True)) for epoch in shared)
        return tuple((statistics.fmean(times), statistics.fmean(accuracies)) for times, accuracies in means)


@dataclass(frozen=True)
class Race:
    """All entries on one data set, under one threat, on one kind of machine, in the order of their times to `deciding`.

    `deciding` is the highest target that most entries reach with all their runs, the lowest if there is none.
    """

    dataset: str
    threat: Threat
    hardware: str
    entries: tuple[Entry, ...]
    targets: tuple[int, ...]
    deciding: int | None

    @cached_property
    def finishers(self) -> dict[int, list[Entry]]:
        """For each target the entries that reach it with all their runs, by their mean time."""
        found = {}
        for target in self.targets:
            arrivals = [(entry.arrival(target), entry) for entry in self.entries]
            complete = [(arrival.mean, entry) for arrival, entry in arrivals if arrival.complete]
            found[target] = [entry for _, entry in sorted(complete, key=lambda pair: pair[0])]
        return found

    @property
    def cards(self) -> list[ModelCard]:
        """The cards of all runs."""
        return [run.card for entry in self.entries for run in entry.runs]


def races_of(inputs: Inputs, runs: Iterable[Run]) -> list[Race]:
    """Races in the order of data set, threat and hardware; a card without validated epochs takes no part."""
    tested = {run.card.id: run for run in runs if run.card and run.training and _published(run)}
    groups: dict[tuple[str, str, float, str, str], list[Trained]] = defaultdict(list)
    for card in sorted(inputs.cards, key=lambda card: card.id):
        trained = Trained(card, tuple(inputs.histories.get(card.id, ())), tested.get(card.id))
        if trained.path:
            threat = card.threat
            key = (card.dataset, threat.norm, threat.eps, threat.eps_text, card.training.hardware)
            groups[key].append(trained)
    return [_race(groups[key]) for key in sorted(groups)]


def _published(run: Run) -> bool:
    """Whether the run's weights are those that its card is about."""
    assert run.training is not None
    assert run.card is not None
    record = run.evaluations[0]
    same_task = (record.dataset.name, record.threat) == (run.card.dataset, run.card.threat)
    return same_task and run.training.checkpoint == run.card.checkpoint


def _race(runs: Sequence[Trained]) -> Race:
    card = runs[0].card
    entries = _entries({run.card.id: run for run in runs})
    targets = targets_of(max(run.best for run in runs), card.model.num_classes)
    deciding = _deciding(entries, targets)

    def order(entry: Entry) -> tuple[float, float, float, str]:
        arrival = entry.arrival(deciding) if deciding is not None else Arrival((), (), len(entry.runs))
        missing = 1 - len(arrival.seconds) / arrival.runs
        return (missing, arrival.mean if arrival.seconds else 0.0, -entry.best, entry.card.id)

    return Race(card.dataset, card.threat, card.training.hardware, tuple(sorted(entries, key=order)), targets, deciding)


def _entries(runs: Mapping[str, Trained]) -> tuple[Entry, ...]:
    histories = [History(key, run.card.training.config, run.epochs, None) for key, run in runs.items()]
    return tuple(Entry(tuple(runs[each.name] for each in curve.runs)) for curve in curves_of(histories))


def targets_of(best: float, num_classes: int) -> tuple[int, ...]:
    """Round targets in percent above chance, up to the best accuracy in [0, 1]: the highest few, ascending."""
    for step in STEPS:
        found = [target for target in range(step, 101, step) if 100 / num_classes < target <= 100 * best + 1e-9]
        if found:
            return tuple(found[-MOST_TARGETS:])
    return ()


def _deciding(entries: Sequence[Entry], targets: Sequence[int]) -> int | None:
    for target in reversed(targets):
        if 2 * sum(entry.arrival(target).complete for entry in entries) > len(entries):
            return target
    return targets[0] if targets else None
