"""A number that others published: shown beside measured ones, never ranked among them unasked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from deatbench.records.base import Identifier, Record
from deatbench.records.threat import Threat

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\"'<>\\]+$", max_length=2000)]
Share = Annotated[float, Field(ge=0, le=1)]


class PublishedResult(Record):
    """One row of someone else's table. Accuracies are shares in [0, 1]; None where they gave none.

    `pgd_attack` names the attack of `pgd_acc` ("pgd-20"); `best_known_acc` is the lowest accuracy that any attack is
    known to reach (RobustBench's "external"). `unreliable`: those who published it doubt it themselves.
    """

    schema_version: Literal[1] = 1
    id: Identifier
    name: str
    dataset: str
    threat: Threat
    arch: str
    method: str
    epochs: int | None = None
    checkpoint: str | None = None
    extra_data: bool | None = None
    clean_acc: Share | None = None
    pgd_acc: Share | None = None
    pgd_attack: str | None = None
    autoattack_acc: Share | None = None
    best_known_acc: Share | None = None
    unreliable: bool = False
    source: str
    venue: str | None = None
    url: Url | None = None
