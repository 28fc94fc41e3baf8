"""Trackio: a data base on this machine, looked at with `trackio show`; or a Space, if TRACKIO_SPACE_ID names one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deatbench.records import EpochMetrics
from deatbench.trackers.base import TRACKERS, Tracker, required, values


@TRACKERS.register("trackio")
class TrackioTracker(Tracker):
    """Trackio: project deatbench, a run by the run's id."""

    def __init__(self) -> None:
        self._trackio = required("trackio", "trackio")
        self._run: Any = None

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path, epoch: int) -> None:
        """Epochs that are told again get the same points again: what is written cannot be taken back."""
        self._run = self._trackio.init(
            project="deatbench",
            name=run_id,
            config=dict(config),
            resume="never" if epoch == 1 else "allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def epoch(self, metrics: EpochMetrics) -> None:
        """Metrics at the epoch as step."""
        self._run.log(values(metrics), step=metrics.epoch)

    def finish(self) -> None:
        """Wait until all is written."""
        self._run.finish()
