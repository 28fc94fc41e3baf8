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
    """Which network was evaluated. `sha256` is that of its state_dict's bytes in key order.

    `code_sha256` is that of the source files of a user's factory; weights alone do not say which function they are of.
    """

    name: str
    arch: str
    params: dict[str, Any] = Field(default_factory=dict)
    source: str
    sha256: Sha256
    n_params: int
    code_sha256: Sha256 | None = None

    @property
    def function(self) -> tuple[str, ...]:
        """What tells it from every other network: its weights; if a factory made it, also the code and the name."""
        return (self.sha256, self.code_sha256, self.source) if self.code_sha256 else (self.sha256,)
