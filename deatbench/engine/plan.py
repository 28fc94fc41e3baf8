"""What a training run is, fixed from its first step to its last; what changes is in state.py."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.data.augment import Augment
from deatbench.engine.distributed import Processes
from deatbench.engine.state import TrainState
from deatbench.methods import Method
from deatbench.methods.base import Inner
from deatbench.records import ModelSpec


@dataclass(frozen=True)
class Plan:
    """What training needs besides its state.

    Attributes:
        config: the run's configuration, complete.
        method: how a batch is perturbed and what is minimised.
        inner: the attack of the training itself, at the full radius.
        data: its splits train and val; test is for the end.
        spec: how the network is built.
        augment: what is done to a batch before the attack.
        device: where the network computes.
        peak_lr: the learning rate that the schedule scales.
        processes: who shares every batch.
    """

    config: RunConfig
    method: Method
    inner: Inner
    data: Dataset
    spec: ModelSpec
    augment: Augment
    device: torch.device
    peak_lr: float
    processes: Processes = field(default_factory=Processes)

    @property
    def batches_per_epoch(self) -> int:
        """Full batches only, so that batch norm never sees a batch of one; at least one batch."""
        return max(1, len(self.data.train) // self.config.batch_size)

    def position(self, state: TrainState) -> int:
        """How many batches have been done since the run began."""
        return state.epoch * self.batches_per_epoch + state.batch

    def inner_at(self, position: int) -> tuple[Inner, bool]:
        """The inner attack at batch `position`, and whether its radius is full: warming up, it grows from 0."""
        warmup = self.config.eps_warmup * self.batches_per_epoch
        if position + 1 >= warmup:
            return self.inner, True
        return replace(self.inner, threat=self.inner.threat.scaled((position + 1) / warmup)), False
