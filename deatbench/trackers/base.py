"""What a tracker is, and how several follow one training run without ever being able to stop it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from deatbench.errors import MissingError
from deatbench.records import EpochMetrics
from deatbench.registry import Registry


class Tracker(ABC):
    """A place that shows the metrics of training runs, one run after the other.

    Making one imports its package: what is missing is said before any work begins.
    """

    @abstractmethod
    def start(self, run_id: str, config: Mapping[str, Any], folder: Path, epoch: int) -> None:
        """A run begins to be followed, or is continued: `epoch` is the next whose metrics will come, 1 at its start.

        What is known of that epoch or later ones is of a past that was not saved. `folder` is the run's.
        """

    @abstractmethod
    def epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is over. Its number is the step; a kill afterwards must not lose it."""

    @abstractmethod
    def finish(self) -> None:
        """The run is over or interrupted; another may start."""


TRACKERS: Registry[Callable[[], Tracker]] = Registry("tracker", "deatbench.trackers")


def make_trackers(names: Iterable[str]) -> dict[str, Tracker]:
    """The trackers of these names. Raises UnknownNameError, MissingError if a package is not installed."""
    return {name: TRACKERS[name]() for name in names}


def required(module: str, extra: str) -> Any:
    """The module, imported now. Raises MissingError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(
            f"--track {extra} cannot import {module}: {error}", f"pip install 'deatbench[{extra}]'"
        ) from error


def values(metrics: EpochMetrics) -> dict[str, float]:
    """The numbers of an epoch by the names that metrics.jsonl has for them; what was not measured is left out."""
    return {key: value for key, value in metrics.model_dump(exclude={"epoch"}).items() if value is not None}


class Trackers:
    """The trackers of one training run. One that fails is reported once through `note` and dropped.

    They are opened by the first epoch that ends: only then is it known where a continued run goes on. Where the
    next epoch is none that follows (training went back to an earlier state), they are opened again.
    """

    def __init__(self, trackers: Mapping[str, Tracker], note: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._note = note
        self._run: tuple[str, Mapping[str, Any], Path] | None = None
        self._told: int | None = None  # the last epoch; None while closed

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """The run to follow: its id, its configuration as plain data, its folder."""
        self._run, self._told = (run_id, config, folder), None

    def epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is over. After a kill the first one told may be one that was told before."""
        if self._run is None:
            raise RuntimeError("epoch() before start()")
        run_id, config, folder = self._run
        if self._told is None or metrics.epoch <= self._told:
            self._close()
            self._tell(lambda tracker: tracker.start(run_id, config, folder, metrics.epoch))
        self._tell(lambda tracker: tracker.epoch(metrics))
        self._told = metrics.epoch

    def finish(self) -> None:
        """The run is over or interrupted."""
        self._close()
        self._run = None

    def _close(self) -> None:
        if self._told is not None:
            self._tell(lambda tracker: tracker.finish())
        self._told = None

    def _tell(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(tracker)
            except Exception as error:  # whatever it is: it is foreign, and hours of training are not
                del self._trackers[name]
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._note(f"tracker {name} failed and is left out from here on: {reason}")
