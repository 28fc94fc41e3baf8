"""What a network does with each image, beyond right and wrong: predictions under attack, a curve over ε, a gallery.

Made by `deatbench diagnose` from the network and the first test images, for the model's page. Nothing is ranked by it.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from deatbench.records.base import Env, Identifier, Record
from deatbench.records.evaluation import DatasetInfo
from deatbench.records.network import ModelInfo
from deatbench.records.threat import Threat
from deatbench.records.verdicts import Metric

PNG_START = "iVBORw0KGgo"  # the signature of a PNG file in base64
Png = Annotated[str, StringConstraints(pattern=rf"^{PNG_START}[A-Za-z0-9+/]*={{0,2}}$", max_length=2**20)]


def pack_classes(classes_N: np.ndarray) -> str:
    """Class numbers [N] in 0..65535 as base64 of little-endian 16-bit integers."""
    return base64.b64encode(np.asarray(classes_N).astype("<u2").tobytes()).decode("ascii")


def unpack_classes(text: str, n: int) -> np.ndarray:
    """The inverse of pack_classes. Raises ValueError if the length is not that of n classes."""
    packed = base64.b64decode(text, validate=True)
    if len(packed) != 2 * n:
        raise ValueError(f"{len(packed)} bytes of classes for {n} images")
    return np.frombuffer(packed, dtype="<u2").astype(np.int64)


class RadiusPoint(Record):
    """Accuracy under the attack at one radius; `eps` 0 is the clean image."""

    eps: float = Field(ge=0)
    eps_text: str
    accuracy: Metric


class Exhibit(Record):
    """One image of the gallery: its place in the test split, three classes, three pictures (PNG in base64).

    `difference_png` is mid-grey plus ten times x_adv - x. Pictures are rounded to 8 bits; the classes are those of the
    unrounded images.
    """

    index: int = Field(ge=0)
    label: int = Field(ge=0)
    clean_class: int = Field(ge=0)
    adversarial_class: int = Field(ge=0)
    clean_png: Png
    difference_png: Png
    adversarial_png: Png


class Diagnostics(Record):
    """Predictions of one network on the first `dataset.n` images, clean and under `attack` within `threat`.

    `labels`, `clean_classes` and `adversarial_classes` are packed by `pack_classes`; `curve` never rises.
    """

    schema_version: Literal[1] = 1
    id: Identifier
    created: str
    model: ModelInfo
    dataset: DatasetInfo
    threat: Threat
    attack: str
    params: dict[str, Any]
    seed: int
    class_names: tuple[str, ...] = Field(min_length=2)
    labels: str
    clean_classes: str
    adversarial_classes: str
    curve: tuple[RadiusPoint, ...] = ()
    gallery: tuple[Exhibit, ...] = ()
    env: Env
    seconds: float = Field(ge=0)
    command: str

    @model_validator(mode="after")
    def _classes_exist(self) -> Diagnostics:
        for classes_N in (self.labels_N(), self.clean_classes_N(), self.adversarial_classes_N()):
            if classes_N.max(initial=0) >= len(self.class_names):
                raise ValueError(f"class {classes_N.max()} of {len(self.class_names)}")
        shown = [c for e in self.gallery for c in (e.label, e.clean_class, e.adversarial_class)]
        if max(shown, default=0) >= len(self.class_names):
            raise ValueError(f"class {max(shown)} of {len(self.class_names)} in the gallery")
        return self

    @model_validator(mode="after")
    def _curve_never_rises(self) -> Diagnostics:
        for before, point in zip(self.curve, self.curve[1:], strict=False):
            if before.eps >= point.eps or before.accuracy.value < point.accuracy.value:
                raise ValueError(f"the curve rises at eps {point.eps_text}")
        return self

    def labels_N(self) -> np.ndarray:
        """True classes, int64 [n]."""
        return unpack_classes(self.labels, self.dataset.n)

    def clean_classes_N(self) -> np.ndarray:
        """Classes given to the clean images, int64 [n]."""
        return unpack_classes(self.clean_classes, self.dataset.n)

    def adversarial_classes_N(self) -> np.ndarray:
        """Classes given to the attacked images, int64 [n]; the true class where the attack failed."""
        return unpack_classes(self.adversarial_classes, self.dataset.n)
