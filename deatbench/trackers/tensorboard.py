"""TensorBoard: event files in the run's folder, for `tensorboard --logdir runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deatbench.records import EpochMetrics
from deatbench.trackers.base import TRACKERS, Tracker, required, values


@TRACKERS.register("tensorboard")
class TensorBoardTracker(Tracker):
    """TensorBoard: event files in <run>/tensorboard."""

    def __init__(self) -> None:
        self._make_writer = required("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path, epoch: int) -> None:
        """Another event file beside the older ones, which tells readers to forget their steps from `epoch` on."""
        begins = epoch == 1
        self._writer = self._make_writer(str(folder / "tensorboard"), purge_step=0 if begins else epoch)
        if begins:
            indented = "\n".join(f"    {line}" for line in json.dumps(config, indent=2).splitlines())
            self._writer.add_text("config", indented, 0)  # Markdown shows indented text as it is

    def epoch(self, metrics: EpochMetrics) -> None:
        """A point on each curve, on disk when this returns."""
        for name, value in values(metrics).items():
            self._writer.add_scalar(name, value, metrics.epoch)
        self._writer.flush()

    def finish(self) -> None:
        """Close the event file."""
        self._writer.close()
