"""The records: what was trained, how it was attacked, which images survived. Plain data, no torch.

A record is frozen, versioned and complete: every published number can be recomputed from the verdict bits
that it carries, and an `EvaluationRecord` whose metrics disagree with its bits does not load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from deatbench.errors import ConfigError

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}$")]
Checkpoint = Literal["best", "last", "ema", "swa"]
METADATA_KEY = "deatbench"  # under which a weight file carries its ModelSpec
Norm = Literal["Linf", "L2", "L1"]


class Record(BaseModel):
    """Base of all records: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Threat(Record):
    """The set of perturbations a model is tested against: |x_adv - x|_norm <= eps, x_adv in [0, 1].

    `eps_text` is how the user wrote it ("8/255"); 0.031 and 8/255 are different threats.
    """

    norm: Norm
    eps: float = Field(gt=0)
    eps_text: str

    @model_validator(mode="after")
    def _text_is_value(self) -> Threat:
        if self.eps_text != self.eps_text.strip() or parse_eps(self.eps_text) != self.eps:
            raise ValueError(f"eps_text {self.eps_text!r} is not eps {self.eps}")
        return self

    @property
    def slug(self) -> str:
        """Name of its folder and page: `Linf-8_255`."""
        return f"{self.norm}-{self.eps_text.replace('/', '_')}"


def parse_eps(text: str) -> float:
    """The radius written as `8/255`, `0.031` or `1e-3`. Raises ConfigError unless it is finite and > 0."""
    numerator, slash, denominator = text.strip().partition("/")
    try:
        value = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"eps {text!r} is not a number", "write it as 8/255 or 0.03") from None
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"eps {text!r} must be greater than 0", "write it as 8/255 or 0.03")
    return value


class Metric(Record):
    """A share of images in [0, 1] with its Wilson 95 % interval."""

    value: float = Field(ge=0, le=1)
    n: int = Field(gt=0)
    ci95: tuple[float, float]

    @classmethod
    def of(cls, verdicts_N: np.ndarray) -> Metric:
        """The metric of a boolean verdict per image."""
        n, k = int(verdicts_N.size), int(verdicts_N.sum())
        return cls(value=k / n, n=n, ci95=wilson_interval(k, n))


def wilson_interval(k: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of k successes in n trials (Wilson 1927), rounded to 6 places."""
    p, z2 = k / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return round(max(0.0, centre - half), 6), round(min(1.0, centre + half), 6)


def pack_bits(verdicts_N: np.ndarray) -> str:
    """Booleans [N] as base64 of big-endian packed bits."""
    return base64.b64encode(np.packbits(np.asarray(verdicts_N, dtype=bool)).tobytes()).decode("ascii")


def unpack_bits(text: str, n: int) -> np.ndarray:
    """The inverse of pack_bits. Raises ValueError if the length is not that of n bits."""
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if packed.size != (n + 7) // 8:
        raise ValueError(f"{packed.size} bytes of verdicts for {n} images")
    return np.unpackbits(packed, count=n).astype(bool)


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


class Samples(Record):
    """Per-example verdicts as packed bits; `indices` is "first" (0..n-1) or the list of test indices."""

    n: int = Field(gt=0)
    indices: Literal["first"] | tuple[int, ...] = "first"
    clean: str
    robust: dict[str, str]

    @model_validator(mode="after")
    def _indices_are_n(self) -> Samples:
        if self.indices != "first" and not len(self.indices) == len({i for i in self.indices if i >= 0}) == self.n:
            raise ValueError(f"indices must be {self.n} different numbers >= 0")
        return self

    def clean_N(self) -> np.ndarray:
        """True where the clean image is classified correctly."""
        return unpack_bits(self.clean, self.n)

    def robust_N(self, attack: str) -> np.ndarray:
        """True where the image withstands `attack`."""
        return unpack_bits(self.robust[attack], self.n)


class Flag(Record):
    """A reason to doubt a number: a code and a plain sentence."""

    code: str
    message: str


class ModelSpec(Record):
    """Everything needed to build the network again; weights go in separately."""

    arch: str
    params: dict[str, Any] = {}
    num_classes: int = Field(ge=2)
    in_channels: int = Field(ge=1)
    image_size: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ModelInfo(Record):
    """Which network was evaluated. `sha256` is that of its state_dict's bytes in key order."""

    name: str
    arch: str
    params: dict[str, Any] = {}
    source: str
    sha256: Sha256
    n_params: int


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


class DatasetInfo(Record):
    """Which images: the first or listed n of a split, with the split's SHA-256."""

    name: str
    split: str
    n: int
    sha256: Sha256


class Env(Record):
    """The machine and the versions behind a number. Never a host name or a path."""

    python: str
    torch: str
    device: str
    hardware: str
    threads: int
    git: str | None
    packages: dict[str, str]


class AdversarialArchive(Record):
    """The file beside a record that proves its broken verdicts: adversarial images, per attack how many."""

    file: Identifier
    sha256: Sha256
    images: dict[str, Annotated[int, Field(ge=0)]]


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
    def _curve_never_rises(self) -> EvaluationRecord:
        standing_N = self.samples.clean_N()
        for before, point in zip((None, *self.curve), self.curve, strict=False):
            robust_N = unpack_bits(point.robust, self.samples.n)
            if (robust_N & ~standing_N).any() or (before and before.eps >= point.eps):
                raise ValueError(f"the curve rises at eps {point.eps_text}")
            standing_N = robust_N
        return self


def metrics_of(clean_N: np.ndarray, robust: dict[str, np.ndarray]) -> dict[str, Metric]:
    """Metrics from verdicts: `clean_acc`, one per attack, and the per-example `worst_case_acc`."""
    metrics = {"clean_acc": Metric.of(clean_N)}
    metrics |= {name: Metric.of(verdicts_N) for name, verdicts_N in robust.items()}
    if robust:
        metrics["worst_case_acc"] = Metric.of(np.logical_and.reduce([clean_N, *robust.values()]))
    return metrics


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
    validation: dict[Checkpoint, Accuracies] = {}
    throughput: Throughput | None = None
    flags: tuple[Flag, ...] = ()
    env: Env
    command: str


class ModelCard(Record):
    """A model of the zoo: how to build it, where its weights are, what they must hash to."""

    schema_version: Literal[1] = 1
    id: Identifier
    dataset: str
    threat: Threat
    model: ModelSpec
    checkpoint: Checkpoint
    weights_file: str | None
    weights_sha256: Sha256
    weights_bytes: int
    training: TrainingRecord


def digest_of(value: Any) -> str:
    """SHA-256 (first 12 hex digits) of a JSON-like value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
