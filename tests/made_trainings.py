"""Trainings with chosen epochs, times and verdicts, and the inputs of pages that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from records_factory import epoch_metrics, evaluation, model_card, sha, threat, training_info, training_record

from deatbench.records import (
    EpochMetrics,
    EvaluationRecord,
    Flag,
    ModelCard,
    ModelSpec,
    Samples,
    digest_of,
    metrics_of,
    pack_bits,
)
from deatbench.report.inputs import Inputs

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
PLAIN_SGD = SGD | {"momentum": 0.0, "lr": 0.5}
DEAT = {"name": "deat", "lr": 0.5, "k1": 1.0, "k2": 0.8, "normalize": True, "weight_decay": 5e-4, "decoupled": False}


@dataclass(frozen=True)
class Made:
    """One training as the zoo holds it, with one evaluation."""

    card: ModelCard
    epochs: tuple[EpochMetrics, ...]
    evaluation: EvaluationRecord


def made(
    method: str = "deat",
    optimizer: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    accuracies: Sequence[float | None] = (0.2, 0.4, 0.6),
    seconds: float = 60.0,
    verdicts: Mapping[str, np.ndarray] | None = None,
    arch: str = "vgg16",
    width: float = 0.25,
    dataset: str = "digits",
    eps: str = "8/255",
    hardware: str = "2-core CPU",
    checkpoint: str = "best",
    flags: Sequence[Flag] = (),
    settings: Mapping[str, Any] | None = None,
) -> Made:
    """A training of as many epochs as there are `accuracies` (robust, on validation images), `seconds` each."""
    optimizer = dict(optimizer or (DEAT if method == "deat" else SGD))
    config = {
        "recipe": "digits", "arch": {"name": arch, "width": width}, "dataset": dataset, "method": {"name": method},
        "optimizer": optimizer, "schedule": {"name": "one-cycle"}, "epochs": len(accuracies), "batch_size": 32,
        "attack": {"steps": 10, "rel_step": 0.25, "bn_mode": "eval"}, "augment": "none", "seed": seed,
        **(settings or {}),
    }  # fmt: skip
    shaping = {key: value for key, value in config.items() if key != "seed"}
    name = f"made-{digest_of([shaping, hardware])}-s{seed}"
    total = seconds * len(accuracies)
    info = training_info(
        seed, method=method, optimizer=str(optimizer["name"]), run_id=name, config=config, epochs=len(accuracies),
        checkpoint=checkpoint, seconds=total, hardware=hardware,
    )  # fmt: skip
    spec = ModelSpec(
        arch=arch, params={"width": width}, num_classes=10, in_channels=1, image_size=8, mean=(0.3,), std=(0.4,)
    )
    record = training_record(
        seed, id=name, config=config, model=spec, dataset=dataset, seconds=total, hardware=hardware, flags=tuple(flags)
    )
    epochs = tuple(
        epoch_metrics(turn).model_copy(update={"val_robust_acc": accuracy, "seconds": seconds})
        for turn, accuracy in enumerate(accuracies, 1)
    )
    record_id = sha(f"{name} {checkpoint}")[:16]
    evaluated = evaluation(
        name, training=info, dataset=dataset, eps=eps, arch=arch, params={"width": width}, id=record_id,
        **_judged(verdicts or {"pgd-20": np.arange(100) < 50, "autoattack": np.arange(100) < 45}),
    )  # fmt: skip
    return Made(model_card(seed, record, threat=threat(eps)), epochs, evaluated)


def _judged(verdicts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of an evaluation that found exactly these verdicts (bool [N]), clean ones under `clean`."""
    robust = {name: verdicts_N for name, verdicts_N in verdicts.items() if name != "clean"}
    n = len(next(iter(verdicts.values())))
    clean_N = verdicts.get("clean", np.ones(n, dtype=bool))
    packed = {name: pack_bits(verdicts_N) for name, verdicts_N in robust.items()}
    return {
        "robust": dict.fromkeys(robust, 0.5),
        "n": n,
        "samples": Samples(n=n, clean=pack_bits(clean_N), robust=packed),
        "metrics": metrics_of(clean_N, robust),
    }


def inputs(*trainings: Made) -> Inputs:
    """The inputs of pages that these trainings make."""
    return Inputs(
        evaluations=tuple(each.evaluation for each in trainings),
        cards=tuple({each.card.id: each.card for each in trainings}.values()),
        histories={each.card.id: each.epochs for each in trainings},
    )
