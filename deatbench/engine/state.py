"""Everything that changes while training, in one place; what is not here is not resumed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deatbench.engine.interruption import Stopped
from deatbench.errors import CheckpointError
from deatbench.records import Checkpoint, EpochMetrics, Flag

LAYOUT = 2  # of the dumped state; another number means that what is below has changed its meaning
TOTALS = ("images", "loss", "clean_correct", "clean_seen", "robust_correct", "robust_seen")
FORMS_OF_AN_UPDATE = ("fused", "foreach", "capturable")  # settings of torch's optimizers that change no result


@dataclass
class TrainState:
    """Weights, optimizer, averages, position, the running epoch's sums, and the past epochs' metrics.

    `batch` counts the batches of the current epoch that are done. `memory` is the method's own, made before its first
    batch. `lr_factor` falls when an epoch is taken back to `sound`, the dumped state after the last epoch that was in
    order, kept only if asked for. `made_with` lists the versions and thread counts that the weights have seen.
    Randomness needs no state: see seeding.py.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None
    swa: AveragedModel | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    totals: Tensor = field(default_factory=lambda: torch.zeros(len(TOTALS), dtype=torch.float64))
    epoch_seconds: float = 0.0
    history: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = -1
    resumed: int = 0
    lr_factor: float = 1.0
    flags: list[Flag] = field(default_factory=list)
    made_with: list[str] = field(default_factory=lambda: [surroundings()])
    peak_bytes: int = 0
    sound: dict[str, Any] | None = None

    @classmethod
    def fresh(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, ema: float = 0.0, swa: bool = False
    ) -> TrainState:
        """The state before the first step; `ema` is the decay of the moving average of weights, 0 for none."""
        moving = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
        totals = torch.zeros(len(TOTALS), dtype=torch.float64, device=next(model.parameters()).device)
        return cls(model, optimizer, moving, AveragedModel(model) if swa else None, totals=totals)

    @property
    def averages(self) -> dict[Checkpoint, AveragedModel]:
        """The averages of weights that this run keeps."""
        kept: dict[Checkpoint, AveragedModel | None] = {"ema": self.ema, "swa": self.swa}
        return {name: average for name, average in kept.items() if average is not None}

    def dump(self) -> dict[str, Any]:
        """The state as tensors and plain data, fit for torch.save and `weights_only=True`."""
        return {
            "layout": LAYOUT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "memory": self.memory,
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": self.totals,
            "epoch_seconds": self.epoch_seconds,
            "history": [metrics.model_dump() for metrics in self.history],
            "best_epoch": self.best_epoch,
            "resumed": self.resumed,
            "lr_factor": self.lr_factor,
            "flags": [flag.model_dump() for flag in self.flags],
            "made_with": self.made_with,
            "peak_bytes": self.peak_bytes,
            "sound": self.sound,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put a dumped state back; the inverse of `dump`. Raises CheckpointError on a state of another layout."""
        if saved.get("layout") != LAYOUT:
            raise CheckpointError("the saved state is from another version of deatbench", "--fresh starts over")
        self._put_back(saved)
        self.flags = [Flag.model_validate(flag) for flag in saved["flags"]]
        self.lr_factor, self.peak_bytes, self.sound = saved["lr_factor"], saved["peak_bytes"], saved["sound"]
        self.resumed = saved["resumed"] + 1
        self.made_with = list(dict.fromkeys([*saved["made_with"], surroundings()]))

    @property
    def finite(self) -> bool:
        """Whether the epoch's sums and all weights still are finite numbers."""
        tensors = (self.totals, *self.model.state_dict().values())
        return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What the block has changed is put back if a signal ends it."""
        before = copy.deepcopy(self.dump() | {"sound": None})
        try:
            yield
        except Stopped:
            self._put_back(before)
            raise

    def flag_once(self, flag: Flag) -> None:
        """Note what went wrong; epoch after epoch of the same is one reason to doubt the run."""
        if all(known.code != flag.code for known in self.flags):
            self.flags.append(flag)

    def mark_sound(self) -> None:
        """Remember this state to come back to."""
        self.sound = copy.deepcopy(self.dump() | {"sound": None})

    def take_back(self, flag: Flag) -> None:
        """Go back to the last sound state, with half the learning rate; `flag` says why."""
        assert self.sound is not None
        self._put_back(self.sound)
        self.lr_factor /= 2
        self.flags.append(flag)

    def _put_back(self, saved: dict[str, Any]) -> None:
        """All that training computes. The optimizer's tensors move: a captured step must be captured anew."""
        self.model.load_state_dict(saved["model"])
        self._load_optimizer(copy.deepcopy(saved["optimizer"]))
        for name, average in self.averages.items():
            average.load_state_dict(saved["averages"][name])
        memory = saved["memory"].items()  # empty before the first step, which makes it
        self.memory = {name: self.memory.get(name, torch.empty_like(tensor)).copy_(tensor) for name, tensor in memory}
        self.epoch, self.batch, self.best_epoch = saved["epoch"], saved["batch"], saved["best_epoch"]
        self.totals.copy_(saved["totals"])
        self.epoch_seconds = saved["epoch_seconds"]
        self.history = [EpochMetrics.model_validate(metrics) for metrics in saved["history"]]

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        """Its tensors and settings, but for the form of the update: that is this device's, not the saved one's."""
        for group, ours in zip(saved["param_groups"], self.optimizer.param_groups, strict=True):
            group.update({name: ours[name] for name in FORMS_OF_AN_UPDATE if name in ours})
        self.optimizer.load_state_dict(saved)


def surroundings() -> str:
    """What float rounding depends on besides the code: torch's version, the number of threads and of processes."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    threads = f"{torch.get_num_threads()} threads" + (f" in each of {processes} processes" if processes > 1 else "")
    return f"torch {torch.__version__}, {threads}"
