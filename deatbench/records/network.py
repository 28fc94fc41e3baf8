"""Which network: how it is built, and which weights."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deatbench.records.base import Record, Sha256


class ModelSpec(Record):
    """Everything needed to build the network again; weights go in separately."""

    arch: str
    params: dict[str, Any] = Field(default_factory=dict)
    num_classes: int = Field(ge=2)
    in_channels: int = Field(ge=1)
    image_size: int = Field(ge=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ModelInfo(Record):
    """Which network was evaluated. `sha256` is that of its state_dict's bytes in key order."""

    name: str
    arch: str
    params: dict[str, Any] = Field(default_factory=dict)
    source: str
    sha256: Sha256
    n_params: int
