"""How a model was attacked, and what was left."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from deatbench.records.base import Env, Flag, Identifier, Record, Sha256
from deatbench.records.network import ModelInfo
from deatbench.records.threat import Threat
from deatbench.records.training import TrainingInfo
from deatbench.records.verdicts import Metric, Samples, metrics_of, unpack_bits


class DatasetInfo(Record):
    """Which images: the first or listed n of a split, with the split's SHA-256."""

    name: str
    split: str
    n: int
    sha256: Sha256


class AttackResult(Record):
    """What one attack did: accuracy on the images before and after it, both as shares of all n images.

    Members of a suite carry their suite's name in front (`autoattack/apgd-ce`) and start from the survivors of
    the member before; stand-alone attacks start from every correctly classified image. `seconds` is the time of
    its parts, divided by how many were worked on at once; parts done before an interruption count.
    """

    name: str
    params: dict[str, Any]
    seed: int
    engine: str
    robust_before: float = Field(ge=0, le=1)
    robust_after: float = Field(ge=0, le=1)
    seconds: float = Field(ge=0)
    forward_passes: int = Field(ge=0)


class AdversarialArchive(Record):
    """The file beside a record that proves its broken verdicts: adversarial images, per attack how many."""

    file: Identifier
    sha256: Sha256
    images: dict[str, Annotated[int, Field(ge=0)]]


class Certificates(Record):
    """Which images CROWN with branch and bound proves robust against any attack: packed bits, as in `Samples`.

    They met the first attack; our own later attacks were not tried on them.
    """

    method: Literal["crown-bab"] = "crown-bab"
    proved: str
    seconds: float = Field(ge=0)

    def proved_N(self, n: int) -> np.ndarray:
        """True where the image is proved; of n images. Raises ValueError if these are not n bits."""
        return unpack_bits(self.proved, n)


class CurvePoint(Record):
    """Who withstands the worst of all attacks at one radius; `robust` are packed bits, as in `Samples`."""

    eps: float = Field(gt=0)
    eps_text: str
    robust: str


class Generalisation(Record):
    """The same attack on as many training as test images; their difference is the robust generalisation gap."""

    attack: str
    n: int = Field(gt=0)
    train_clean_acc: float = Field(ge=0, le=1)
    train_robust_acc: float = Field(ge=0, le=1)
    test_clean_acc: float = Field(ge=0, le=1)
    test_robust_acc: float = Field(ge=0, le=1)

    @property
    def robust_gap(self) -> float:
        """Train minus test."""
        return self.train_robust_acc - self.test_robust_acc


class EvaluationRecord(Record):
    """One evaluation of one model under one threat.

    Verdicts are made in `precision`; our own attacks searched in `search_precision`, with random numbers that belong to
    each image ("own") or in pyautoattack's order ("published"). `curve` never rises with the radius.
    """

    schema_version: Literal[1] = 1
    id: Identifier
    created: str
    model: ModelInfo
    training: TrainingInfo | None
    dataset: DatasetInfo
    threat: Threat
    metrics: dict[str, Metric]
    attacks: tuple[AttackResult, ...]
    samples: Samples
    adversarials: AdversarialArchive | None = None
    certificates: Certificates | None = None
    flags: tuple[Flag, ...] = ()
    env: Env
    curve: tuple[CurvePoint, ...] = ()
    generalisation: Generalisation | None = None
    precision: Literal["fp32"] = "fp32"
    search_precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    draws: Literal["own", "published"] = "own"
    batch_size: int
    seconds: float
    command: str

    @model_validator(mode="after")
    def _metrics_follow_from_bits(self) -> EvaluationRecord:
        if self.samples.n != self.dataset.n:
            raise ValueError(f"{self.samples.n} verdicts for {self.dataset.n} images")
        expected = metrics_of(self.samples.clean_N(), {a: self.samples.robust_N(a) for a in self.samples.robust})
        if expected != self.metrics:
            wrong = sorted(k for k in expected.keys() | self.metrics.keys() if expected.get(k) != self.metrics.get(k))
            raise ValueError(f"metrics {', '.join(wrong)} do not follow from the verdict bits")
        return self

    @model_validator(mode="after")
    def _proved_are_robust(self) -> EvaluationRecord:
        if self.certificates is not None:
            proved_N = self.certificates.proved_N(self.samples.n)
            robust = [self.samples.clean_N(), *(self.samples.robust_N(attack) for attack in self.samples.robust)]
            if any((proved_N & ~robust_N).any() for robust_N in robust):
                raise ValueError("images are proved robust that are wrong or broken")
        return self

    @model_validator(mode="after")
    def _curve_never_rises(self) -> EvaluationRecord:
        standing_N = self.samples.clean_N()
        for before, point in zip((None, *self.curve), self.curve, strict=False):
            robust_N = unpack_bits(point.robust, self.samples.n)
            if (robust_N & ~standing_N).any() or (before and before.eps >= point.eps):
                raise ValueError(f"the curve rises at eps {point.eps_text}")
            standing_N = robust_N
        return self
