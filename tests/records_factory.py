"""Valid records for tests. Everything follows from a few arguments; names stand in for weights.

evaluation("vgg16-deat-s0", n=200, clean=0.9, robust={"pgd-20": 0.6, "autoattack": 0.55})
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deatbench.records import (
    AdversarialArchive,
    AttackResult,
    Certificates,
    DatasetInfo,
    Env,
    EpochMetrics,
    EvaluationRecord,
    Flag,
    ModelCard,
    ModelInfo,
    ModelSpec,
    Samples,
    Threat,
    TrainingInfo,
    TrainingRecord,
    digest_of,
    metrics_of,
    pack_bits,
    parse_eps,
)

ENV = Env(
    python="3.12.0",
    torch="2.11.0",
    device="cpu",
    hardware="2-core CPU",
    threads=2,
    git="0123abc",
    packages={"numpy": "2.0.0", "pyautoattack": "0.2.0"},
)
ROBUST = {"pgd-20": 0.6, "cw-20": 0.58, "autoattack": 0.55}


def sha(text: str) -> str:
    """A SHA-256 that stands for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def threat(eps: str = "8/255", norm: str = "Linf") -> Threat:
    """A threat from the text of its radius."""
    return Threat(norm=norm, eps=parse_eps(eps), eps_text=eps)  # type: ignore[arg-type]


def training_info(seed: int = 0, **changes: Any) -> TrainingInfo:
    """How a made-up run was trained; `changes` replace fields."""
    method, epochs = changes.get("method", "deat"), changes.get("epochs", 30)
    config = {"method": {"name": method, "k1": 1.0}, "epochs": epochs, "seed": seed}
    fields: dict[str, Any] = {
        "run_id": f"digits-vgg16-{method}-abc123-s{seed}",
        "method": method,
        "recipe": "digits",
        "digest": digest_of({"method": method, "epochs": epochs}),
        "optimizer": "deat" if method == "deat" else "sgd",
        "seed": seed,
        "epochs": epochs,
        "checkpoint": "best",
        "checkpoint_epoch": epochs - 2,
        "seconds": 71.0 + seed,
        "hardware": "2-core CPU",
        "n_train": 1149,
        "n_val": 288,
        "bn_mode": "eval",
        "config": config,
    }
    return TrainingInfo(**(fields | changes))


def evaluation(
    name: str = "digits-vgg16-deat-abc123-s0",
    *,
    n: int = 100,
    clean: float = 0.9,
    robust: Mapping[str, float] | None = None,
    dataset: str = "digits",
    eps: str = "8/255",
    norm: str = "Linf",
    training: TrainingInfo | None = None,
    flags: Sequence[Flag] = (),
    arch: str = "vgg16",
    params: Mapping[str, Any] | None = None,
    **changes: Any,
) -> EvaluationRecord:
    """An evaluation in which the first images survive: of `n`, the share `clean`, then each share of `robust`."""
    robust = ROBUST if robust is None else robust

    def first(share: float) -> np.ndarray:
        return np.arange(n) < round(share * n)

    verdicts = {attack: first(share) for attack, share in robust.items()}
    fields: dict[str, Any] = {
        "id": sha(f"{name} {dataset} {eps} {norm} {n} {sorted(robust.items())} {training}")[:16],
        "created": "2026-11-22T10:00:00Z",
        "model": ModelInfo(
            name=name,
            arch=arch,
            params=dict(params or {"width": 0.25}),
            source=f"zoo:{name}",
            sha256=sha(name),
            n_params=924_000,
        ),
        "training": training,
        "dataset": DatasetInfo(name=dataset, split="test", n=n, sha256=sha(dataset)),
        "threat": threat(eps, norm),
        "metrics": metrics_of(first(clean), verdicts),
        "attacks": tuple(_attack(attack, clean, share) for attack, share in robust.items()),
        "samples": Samples(
            n=n, clean=pack_bits(first(clean)), robust={attack: pack_bits(bits) for attack, bits in verdicts.items()}
        ),
        "flags": tuple(flags),
        "env": ENV,
        "batch_size": 100,
        "seconds": 186.0,
        "command": f"deatbench eval zoo:{name} --dataset {dataset} --norm {norm} --eps {eps} --autoattack",
    }
    return EvaluationRecord(**(fields | changes))


def certified(record: EvaluationRecord, count: int) -> EvaluationRecord:
    """The record as if so many of its robust images were proved robust."""
    n = record.samples.n
    proved_N = np.isin(np.arange(n), np.flatnonzero(record.samples.worst_case_N())[:count])
    return record.model_copy(update={"certificates": Certificates(proved=pack_bits(proved_N), seconds=1.0)})


def with_images(record: EvaluationRecord) -> EvaluationRecord:
    """The record as if it had stored an adversarial image for each verdict that an attack broke."""
    broken = {name: record.samples.n - int(record.samples.robust_N(name).sum()) for name in record.samples.robust}
    archive = AdversarialArchive(file=f"{record.id}.adv", sha256=sha(record.id), images=broken)
    return record.model_copy(update={"adversarials": archive})


def _attack(name: str, before: float, after: float) -> AttackResult:
    return AttackResult(
        name=name,
        params={"steps": 20, "rel_step": 0.1},
        seed=0,
        engine="deatbench",
        robust_before=before,
        robust_after=after,
        seconds=3.0,
        forward_passes=2000,
    )


def seeds(values: Sequence[float], method: str = "deat", **changes: Any) -> list[EvaluationRecord]:
    """One configuration trained with seeds 0, 1, … whose AutoAttack accuracies are `values`."""
    made = []
    for seed, value in enumerate(values):
        training = training_info(seed, method=method)
        robust = {"pgd-20": min(1.0, value + 0.05), "cw-20": min(1.0, value + 0.03), "autoattack": value}
        made.append(evaluation(training.run_id, robust=robust, training=training, **changes))
    return made


def epoch_metrics(epoch: int = 29) -> EpochMetrics:
    """One line of metrics.jsonl."""
    return EpochMetrics(
        epoch=epoch,
        lr=0.01,
        loss=1.2,
        train_clean_acc=0.9,
        train_robust_acc=0.6,
        subset_clean_acc=0.91,
        subset_robust_acc=0.61,
        val_clean_acc=0.9,
        val_robust_acc=0.58,
        seconds=2.4,
        images_per_second=500.0,
    )


def training_record(seed: int = 0, **changes: Any) -> TrainingRecord:
    """The record of the run that `training_info(seed)` speaks of."""
    info = training_info(seed)
    fields: dict[str, Any] = {
        "id": info.run_id,
        "created": "2026-11-22T09:00:00Z",
        "config": info.config,
        "digest": info.digest,
        "model": ModelSpec(
            arch="vgg16", params={"width": 0.25}, num_classes=10, in_channels=1, image_size=8, mean=(0.3,), std=(0.4,)
        ),
        "n_params": 924_000,
        "flops": 1_000_000,
        "dataset": "digits",
        "dataset_source": "scikit-learn",
        "n_train": info.n_train,
        "n_val": info.n_val,
        "best_epoch": info.checkpoint_epoch,
        "final": epoch_metrics(),
        "best": epoch_metrics(info.checkpoint_epoch),
        "seconds": info.seconds,
        "hardware": info.hardware,
        "weights": {"best": sha(f"{info.run_id} best"), "last": sha(f"{info.run_id} last")},
        "env": ENV,
        "command": f"deatbench run --arch vgg16 --method deat --dataset digits --seed {seed}",
    }
    return TrainingRecord(**(fields | changes))


def model_card(seed: int = 0, training: TrainingRecord | None = None, **changes: Any) -> ModelCard:
    """The zoo card of that run's best checkpoint."""
    record = training or training_record(seed)
    fields: dict[str, Any] = {
        "id": record.id,
        "dataset": record.dataset,
        "threat": threat(),
        "model": record.model,
        "checkpoint": "best",
        "weights_file": "model.safetensors",
        "weights_sha256": record.weights["best"],
        "weights_bytes": 3_700_000,
        "training": record,
    }
    return ModelCard(**(fields | changes))
