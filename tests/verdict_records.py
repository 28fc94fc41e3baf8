"""Evaluations with given verdicts, and a diagnosis with given classes, for comparing models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from records_factory import ENV, evaluation, sha, threat

from deatbench.records import (
    DatasetInfo,
    Diagnostics,
    EvaluationRecord,
    ModelInfo,
    Samples,
    metrics_of,
    pack_bits,
    pack_classes,
)


def judged(
    name: str,
    clean_N: np.ndarray,
    robust: Mapping[str, np.ndarray],
    indices: tuple[int, ...] | str = "first",
    dataset: str = "digits",
    **changes: Any,
) -> EvaluationRecord:
    """An evaluation that found exactly these verdicts (bool [N])."""
    n = len(clean_N)
    base = evaluation(name, n=n, robust=dict.fromkeys(robust, 0.5), dataset=dataset)
    packed = {attack: pack_bits(verdicts_N) for attack, verdicts_N in robust.items()}
    fields: dict[str, Any] = {
        "id": sha(f"{name} {indices} {packed} {changes}")[:16],
        "samples": Samples(n=n, indices=indices, clean=pack_bits(clean_N), robust=packed),  # type: ignore[arg-type]
        "metrics": metrics_of(clean_N, dict(robust)),
    }
    return EvaluationRecord(**(dict(base) | fields | changes))


def drawn(
    name: str, seed: int, n: int = 200, clean: float = 0.9, robust: float = 0.5, **changes: Any
) -> EvaluationRecord:
    """An evaluation with random verdicts under PGD-20 and AutoAttack."""
    rng = np.random.default_rng(seed)
    clean_N = rng.random(n) < clean
    pgd_N = clean_N & (rng.random(n) < robust + 0.1)
    return judged(name, clean_N, {"pgd-20": pgd_N, "autoattack": pgd_N & (rng.random(n) < 0.9)}, **changes)


def diagnosis(labels_N: np.ndarray, class_names: tuple[str, ...], dataset: str = "digits") -> Diagnostics:
    """A diagnosis of the first images of `dataset`, whose true classes are these."""
    packed = pack_classes(labels_N)
    return Diagnostics(
        id=f"{dataset}-{len(labels_N)}",
        created="2026-11-22T10:00:00Z",
        model=ModelInfo(name="m", arch="vgg16", source="zoo:m", sha256=sha("m"), n_params=1),
        dataset=DatasetInfo(name=dataset, split="test", n=len(labels_N), sha256=sha(dataset)),
        threat=threat(),
        attack="pgd-20",
        params={"steps": 20},
        seed=0,
        class_names=class_names,
        labels=packed,
        clean_classes=packed,
        adversarial_classes=packed,
        env=ENV,
        seconds=1.0,
        command="deatbench diagnose m",
    )
