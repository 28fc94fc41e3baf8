"""Weights & Biases. WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE=offline mean what they mean elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deatbench.errors import ConfigError
from deatbench.records import EpochMetrics
from deatbench.trackers.base import TRACKERS, Tracker, required, values

PATIENCE_SECONDS = 30.0  # for a server that does not answer: training waits meanwhile


@TRACKERS.register("wandb")
class WandbTracker(Tracker):
    """Weights & Biases: a run by the run's id, its files in <run>/wandb."""

    def __init__(self) -> None:
        self._wandb = required("wandb", "wandb")
        self._run: Any = None
        online = self._wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
        if online and not self._wandb.login(prompt=False, verify=False):  # else it asks in the middle of training
            raise ConfigError("wandb has no API key", "`wandb login`, or WANDB_MODE=offline")

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path, epoch: int) -> None:
        """A new run of that id, or the one there is; it keeps the first of two values for a step."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "deatbench"),
            id=run_id,
            name=run_id,
            dir=str(folder),
            config=dict(config),
            resume=None if epoch == 1 else "allow",
            settings=self._wandb.Settings(console="off", quiet=True, init_timeout=PATIENCE_SECONDS),
        )

    def epoch(self, metrics: EpochMetrics) -> None:
        """Metrics at the epoch as step."""
        self._run.log(values(metrics), step=metrics.epoch)

    def finish(self) -> None:
        """Upload what is left."""
        self._run.finish()
