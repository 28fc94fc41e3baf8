"""What machines read of a model's card: the metadata of the hub, YAML in front of the README."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from deatbench.records import EvaluationRecord, ModelCard
from deatbench.report.escape import plain
from deatbench.report.metrics import describe, place

HUB_DATASETS = {  # by the names that the hub has for them
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
    "svhn": "ufldl-stanford/svhn",
}


def front_matter(card: ModelCard, method: str, evaluations: Iterable[EvaluationRecord]) -> str:
    """The metadata of a model trained by `method`, as YAML; a result for each of `evaluations`, in their order.

    Accuracies are shares, exactly as recorded. All text is one printable line, quoted by YAML.
    """
    dataset = HUB_DATASETS.get(card.dataset, plain(card.dataset))
    kind = ["adversarial-training"] if method != "standard" else []
    document = {
        "license": "mit",
        "library_name": "deatbench",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", *kind, plain(method), plain(card.model.arch)],
        "datasets": [dataset],
        "metrics": ["accuracy"],
        "model-index": [{"name": card.id, "results": [_indexed(r, dataset) for r in evaluations]}],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10**6)


def _indexed(record: EvaluationRecord, dataset: str) -> dict[str, Any]:
    """One evaluation as a result of the hub's model-index."""
    threat = f"{record.threat.norm} {record.threat.eps_text}"
    weights = record.training.checkpoint if record.training else "the"
    metrics = [
        {
            "type": "accuracy",
            "name": f"{plain(describe(name).title)} accuracy, {weights} weights"
            + ("" if name == "clean_acc" else f", {threat}"),
            "value": record.metrics[name].value,
            "args": {"n": record.metrics[name].n, "ci95": list(record.metrics[name].ci95)},
        }
        for name in sorted(record.metrics, key=place)
    ]
    return {
        "task": {"type": "image-classification", "name": "Image classification under attack"},
        "dataset": {"type": dataset, "name": plain(record.dataset.name), "split": plain(record.dataset.split)},
        "metrics": metrics,
    }
