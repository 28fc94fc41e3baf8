"""Everything that changes while training, in one place; what is not here is not resumed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deatbench.errors import CheckpointError
from deatbench.records import EpochMetrics

LAYOUT = 1  # of the dumped state; another number means that what is below has changed its meaning
TOTALS = ("images", "loss", "clean_correct", "clean_seen", "robust_correct", "robust_seen")


@dataclass
class TrainState:
    """Weights, optimizer, average, position, the running epoch's sums, and the past epochs' metrics.

    `batch` counts the batches of the current epoch that are done. Randomness needs no state: see seeding.py.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    epoch: int = 0
    batch: int = 0
    totals: Tensor = field(default_factory=lambda: torch.zeros(len(TOTALS), dtype=torch.float64))
    epoch_seconds: float = 0.0
    history: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = -1
    resumed: int = 0

    @classmethod
    def fresh(cls, model: nn.Module, optimizer: torch.optim.Optimizer, ema: float) -> TrainState:
        """The state before the first step; `ema` is the decay of the weight average, 0 for none."""
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
        device = next(model.parameters()).device
        return cls(model, optimizer, average, totals=torch.zeros(len(TOTALS), dtype=torch.float64, device=device))

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured and published: the average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def dump(self) -> dict[str, Any]:
        """The state as tensors and plain data, fit for torch.save and `weights_only=True`."""
        return {
            "layout": LAYOUT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": self.totals,
            "epoch_seconds": self.epoch_seconds,
            "history": [metrics.model_dump() for metrics in self.history],
            "best_epoch": self.best_epoch,
            "resumed": self.resumed,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put a dumped state back; the inverse of `dump`. Raises CheckpointError on a state of another layout."""
        if saved.get("layout") != LAYOUT:
            raise CheckpointError("the saved state is from another version of deatbench", "--fresh starts over")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        self.epoch, self.batch, self.best_epoch = saved["epoch"], saved["batch"], saved["best_epoch"]
        self.totals = saved["totals"].to(self.totals.device)
        self.epoch_seconds = saved["epoch_seconds"]
        self.history = [EpochMetrics.model_validate(metrics) for metrics in saved["history"]]
        self.resumed = saved["resumed"] + 1
