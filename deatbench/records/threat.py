"""The set of perturbations a model is tested against, and the text of its radius."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from deatbench.errors import ConfigError
from deatbench.records.base import Norm, Record


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


def check_radius(norm: str, text: str) -> None:
    """Raises ConfigError where `parse_eps` does, and on an Linf radius that lets every pixel be anything."""
    if parse_eps(text) > 1 and norm == "Linf":
        hint = "" if "/" in text else f"did you mean {text.strip()}/255?"
        raise ConfigError(f"eps {text!r} is more than pixels of [0, 1] can change in Linf", hint)
