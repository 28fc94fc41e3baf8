"""The one frozen `RunConfig` that decides a result; its digest is part of the run's name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from deatbench.errors import ConfigError
from deatbench.records import Norm, check_radius, digest_of, parse_eps

M = TypeVar("M", bound=BaseModel)

LONGEST_VALUE = 80  # of a wrong value, in a message

# Younger than the first published runs: left out of the digest at their defaults, so that those runs keep their names.
YOUNGER = ("label_smoothing", "eps_warmup", "swa_start", "shifted", "guard", "lr_batch")


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("yes and no are no value for this key")
        return value


class Spec(BaseModel):
    """A registered thing and its hyper-parameters: `vgg16`, or `{name: vgg16, width: 0.25}`."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _finite(self) -> Spec:
        for key, value in self.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} must be a finite number")
        return self

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters, without the name."""
        return dict(self.model_extra or {})


class ThreatConfig(_Config):
    """The threat a model is trained for and evaluated under."""

    norm: Norm = "Linf"
    eps: str = "8/255"

    @field_validator("eps", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> str:
        text = str(value)
        try:
            parse_eps(text)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return text.strip()

    @model_validator(mode="after")
    def _possible(self) -> ThreatConfig:
        try:
            check_radius(self.norm, self.eps)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


class InnerAttack(_Config):
    """The attack inside adversarial training, also used on the validation split (PGD, cross-entropy).

    `rel_step` is the step in units of eps (2/255 at 8/255 is 0.25); `bn_mode` is the mode of batch norm inside it.
    """

    steps: int = Field(default=10, ge=1)
    rel_step: float = Field(default=0.25, gt=0)
    random_start: bool = True
    bn_mode: Literal["eval", "train"] = "eval"


class Schedule(_Config):
    """Learning rate over the run, set at every iteration; t runs from 0 to `epochs`.

    piecewise: lr times `gamma` at each of `milestones` (epochs). cosine: to 0. one-cycle: linear up during
    `warmup` (share of the run), then linear down to 0. constant: lr.
    """

    name: Literal["piecewise", "cosine", "one-cycle", "constant"] = "piecewise"
    milestones: tuple[float, ...] = (100.0, 105.0)
    gamma: float = Field(default=0.1, gt=0)
    warmup: float = Field(default=0.3, ge=0, le=1)


class EvaluationPlan(_Config):
    """What `run` measures: `attacks` on the best checkpoint, `last_attacks` on the last one.

    `engine` is whose code runs AutoAttack: ours ("fast") or pyautoattack ("reference"). `precision` is that of our
    attacks' search; verdicts are float32. `batch_size` null: chosen for the device.
    """

    attacks: tuple[str, ...] = ("pgd-20", "cw-20", "autoattack")
    last_attacks: tuple[str, ...] = ("pgd-20", "cw-20")
    engine: Literal["reference", "fast"] = "fast"
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    n: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)

    @property
    def digest(self) -> str:
        """Eight hex digits that stand for the plan; they name the records that it leads to."""
        return digest_of(self.model_dump(mode="json"))[:8]


class RunConfig(_Config):
    """One training run and its evaluation, complete: nothing else decides the result.

    `augment` joins parts with "+": crop-flip+cutmix. `label_smoothing` is the share of the target that is spread
    over all classes. `eps_warmup`: epochs in which the training's eps grows from 0, linearly. `ema`: decay of the
    average of weights after every update, 0 for none. `swa_start`: share of the run after which weights are
    averaged epoch by epoch; null for none. `shifted`: keep the end of DEAT's update at its shifted point too.
    `lr_batch`: lr is meant for batches of this size and grows with `batch_size`; null: as it is. `guard`: what to
    do about catastrophic overfitting, a collapse to chance or a loss that is not finite: say so in the record and
    go on where there is a way, stop, or go back to the last sound epoch with half the learning rate.
    """

    recipe: str = "paper"
    arch: Spec
    dataset: str
    method: Spec
    optimizer: Spec = Spec(name="auto")
    schedule: Schedule = Schedule()
    threat: ThreatConfig = ThreatConfig()
    attack: InnerAttack = InnerAttack()
    epochs: int = Field(default=110, ge=1)
    batch_size: int = Field(default=128, ge=2)
    augment: str = "auto"
    val_fraction: float = Field(default=0.02, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    eps_warmup: float = Field(default=0.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    swa_start: float | None = Field(default=None, ge=0, lt=1)
    shifted: bool = False
    lr_batch: int | None = Field(default=None, ge=1)
    guard: Literal["flag", "stop", "rollback"] = "flag"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**31)
    evaluation: EvaluationPlan = EvaluationPlan()

    @property
    def digest(self) -> str:
        """Twelve hex digits that stand for everything except the seed and the evaluation plan."""
        fields = self.model_dump(mode="json", exclude={"seed", "evaluation"})
        default = {name: type(self).model_fields[name].default for name in YOUNGER}
        return digest_of({key: value for key, value in fields.items() if key not in default or value != default[key]})

    @property
    def run_id(self) -> str:
        """Name of the run's folder and of its model in the zoo."""
        arch = self.arch.name.replace("/", "_")
        return f"{self.dataset}-{arch}-{self.method.name}-{self.digest[:6]}-s{self.seed}"


def validate_config(value: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain data. Raises ConfigError naming the first wrong key, its value and the nearest match."""
    return validated(RunConfig, value)


def validated(model: type[M], value: Mapping[str, Any]) -> M:
    """A `model` from plain data. Raises ConfigError naming the first wrong key, its value and the nearest match."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known_keys(model), n=1, cutoff=0.5)
            raise ConfigError(f"unknown key {key!r}", f"did you mean {near[0]}?" if near else "") from error
        raise ConfigError(
            f"{key}={_shortened(first['input'])}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML, as it stands in a run's folder."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys += known_keys(part, f"{prefix}{name}.")
    return keys
