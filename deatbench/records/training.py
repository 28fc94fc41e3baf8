"""What was trained, and how it went."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deatbench.records.base import Checkpoint, Env, Flag, Identifier, Record, Sha256
from deatbench.records.network import ModelSpec


class TrainingInfo(Record):
    """How the evaluated weights came to be."""

    run_id: str
    method: str
    recipe: str
    digest: str
    optimizer: str
    seed: int
    epochs: int
    checkpoint: Checkpoint
    checkpoint_epoch: int
    seconds: float
    hardware: str
    n_train: int
    n_val: int
    bn_mode: Literal["eval", "train"]
    config: dict[str, Any]


class EpochMetrics(Record):
    """One line of metrics.jsonl: the weights after an epoch. Accuracies in [0, 1]; None where a pass was not made.

    `train_robust_acc` comes from the training passes themselves; the `subset` pair is measured after the epoch
    on as many training images as the validation split has, so that train and validation compare like with like.
    """

    epoch: int
    lr: float
    loss: float
    train_clean_acc: float | None
    train_robust_acc: float | None
    subset_clean_acc: float
    subset_robust_acc: float
    val_clean_acc: float | None
    val_robust_acc: float | None
    seconds: float
    images_per_second: float
    val_fgsm_acc: float | None = None

    @property
    def probed_acc(self) -> tuple[float, float]:
        """(clean, robust) accuracy on the validation split; on the training subset where there is none."""
        if self.val_clean_acc is None or self.val_robust_acc is None:
            return self.subset_clean_acc, self.subset_robust_acc
        return self.val_clean_acc, self.val_robust_acc


class Accuracies(Record):
    """Clean accuracy and that under the training's own attack, of one set of weights on the validation split."""

    clean_acc: float = Field(ge=0, le=1)
    robust_acc: float = Field(ge=0, le=1)


class Throughput(Record):
    """How fast a training ran, epochs alone; a forward is one pass of one image, a full backward counts as two.

    `peak_memory_mb`: the device's, on the CPU the process's, in 10^6 bytes; the largest of all sessions.
    """

    images_per_second: float
    forwards_per_second: float
    peak_memory_mb: float


class TrainingRecord(Record):
    """One finished training run.

    `validation`: what each kept set of weights reaches on the validation split; `chosen` is the one that is published.
    """

    schema_version: Literal[1] = 1
    id: Identifier
    created: str
    config: dict[str, Any]
    digest: str
    model: ModelSpec
    n_params: int
    flops: int
    dataset: str
    dataset_source: str
    n_train: int
    n_val: int
    best_epoch: int
    final: EpochMetrics
    best: EpochMetrics
    seconds: float
    hardware: str
    resumed: int = 0
    weights: dict[Checkpoint, Sha256]
    chosen: Checkpoint = "best"
    validation: dict[Checkpoint, Accuracies] = Field(default_factory=dict)
    throughput: Throughput | None = None
    flags: tuple[Flag, ...] = ()
    env: Env
    command: str
