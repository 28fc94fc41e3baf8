"""Results that somebody else published, for tests."""

from __future__ import annotations

from typing import Any

from records_factory import threat

from deatbench.records import PublishedResult


def published(key: str = "wong2020", *, dataset: str = "digits", eps: str = "8/255", **changes: Any) -> PublishedResult:
    """A published result; `changes` replace fields."""
    fields: dict[str, Any] = {
        "id": key,
        "name": f"{key} as published",
        "dataset": dataset,
        "threat": threat(eps),
        "arch": "preact_resnet18",
        "method": "fgsm-rs",
        "clean_acc": 0.8334,
        "autoattack_acc": 0.4321,
        "source": "RobustBench",
        "url": "https://example.org/paper",
    }
    return PublishedResult(**(fields | changes))
