"""Made-up diagnostics and epochs for tests of pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from records_factory import ENV, epoch_metrics, sha

from deatbench.records import (
    DatasetInfo,
    Diagnostics,
    EpochMetrics,
    Exhibit,
    Metric,
    ModelInfo,
    RadiusPoint,
    Threat,
    pack_classes,
)


def png(seed: int, channels: int = 1, size: int = 8) -> str:
    """A small noisy picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def diagnostics(
    name: str = "digits-vgg16-deat-abc123-s0",
    *,
    n: int = 100,
    class_names: Sequence[str] = tuple("0123456789"),
    threat: Threat | None = None,
    **changes: Any,
) -> Diagnostics:
    """Classes in turn; nine tenths are right, six tenths withstand, the others are taken for the next class."""
    threat = threat or Threat(norm="Linf", eps=8 / 255, eps_text="8/255")
    labels = np.arange(n) % len(class_names)
    after = (labels + 1) % len(class_names)
    clean = np.where(np.arange(n) < 0.9 * n, labels, after)
    attacked = np.where(np.arange(n) < 0.6 * n, labels, after)
    radii = [(0.0, "0", 0.9), (2 / 255, "2/255", 0.8), (threat.eps, threat.eps_text, 0.6), (16 / 255, "16/255", 0.2)]
    fields: dict[str, Any] = {
        "id": f"{name}-best-12345678",
        "created": "2026-11-22T11:00:00Z",
        "model": ModelInfo(
            name=name, arch="vgg16", params={"width": 0.25}, source=f"zoo:{name}", sha256=sha(name), n_params=924_000
        ),
        "dataset": DatasetInfo(name="digits", split="test", n=n, sha256=sha("digits")),
        "threat": threat,
        "attack": "pgd-20",
        "params": {"steps": 20},
        "seed": 0,
        "class_names": tuple(class_names),
        "labels": pack_classes(labels),
        "clean_classes": pack_classes(clean),
        "adversarial_classes": pack_classes(attacked),
        "curve": tuple(
            RadiusPoint(eps=eps, eps_text=text, accuracy=Metric.of(np.arange(n) < round(share * n)))
            for eps, text, share in radii
        ),
        "gallery": tuple(_exhibit(index, int(labels[index]), int(attacked[index])) for index in range(n - 40, n - 32)),
        "env": ENV,
        "seconds": 2.5,
        "command": f"deatbench diagnose zoo:{name}",
    }
    return Diagnostics(**(fields | changes))


def _exhibit(index: int, label: int, adversarial: int) -> Exhibit:
    return Exhibit(
        index=index,
        label=label,
        clean_class=label,
        adversarial_class=adversarial,
        clean_png=png(index),
        difference_png=png(1000 + index),
        adversarial_png=png(2000 + index),
    )


def epochs(training: Sequence[float], validation: Sequence[float | None]) -> tuple[EpochMetrics, ...]:
    """Epochs with these robust accuracies on training and validation images."""
    return tuple(
        epoch_metrics(epoch).model_copy(
            update={"subset_robust_acc": on_training, "val_robust_acc": on_validation, "val_clean_acc": on_validation}
        )
        for epoch, (on_training, on_validation) in enumerate(zip(training, validation, strict=True), 1)
    )
