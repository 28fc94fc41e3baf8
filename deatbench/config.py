"""What a run is told to do: recipes, `--set`, and the digest that names the result.

    defaults  ←  recipe YAML  ←  the recipe's part for this method  ←  --set key=value  ←  flags

The result is one frozen `RunConfig`; its digest is part of the run's name, so another configuration is another run.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from deatbench.errors import ConfigError, MissingError, UnknownNameError
from deatbench.records import Norm, digest_of, parse_eps

MAX_RECIPE_BYTES = 1 << 20
MAX_RECIPE_DEPTH = 20
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


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


class RunConfig(_Config):
    """One training run and its evaluation, complete: nothing else decides the result."""

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
    ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**31)
    evaluation: EvaluationPlan = EvaluationPlan()

    @property
    def digest(self) -> str:
        """Twelve hex digits that stand for everything except the seed and the evaluation plan."""
        return digest_of(self.model_dump(mode="json", exclude={"seed", "evaluation"}))

    @property
    def run_id(self) -> str:
        """Name of the run's folder and of its model in the zoo."""
        arch = self.arch.name.replace("/", "_")
        return f"{self.dataset}-{arch}-{self.method.name}-{self.digest[:6]}-s{self.seed}"


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _shipped().iterdir() if path.name.endswith(".yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path. Raises ConfigError, MissingError or UnknownNameError."""
    if name in recipe_names():
        return parse_yaml((_shipped() / f"{name}.yaml").read_text(encoding="utf-8"), f"recipe {name}")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UnknownNameError("recipe", name, recipe_names(), "`deatbench ls recipes` lists all, or name a .yaml file")
    try:
        text = path.read_bytes()[: MAX_RECIPE_BYTES + 1].decode("utf-8")
    except OSError as error:
        raise MissingError(f"cannot read recipe {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {name} is not UTF-8 text") from error
    return parse_yaml(text, f"recipe {name}")


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """YAML mapping through the safe loader, without aliases (no alias bombs). Raises ConfigError."""
    value = _load_yaml(text, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a mapping of keys to values")
    return value


def _load_yaml(text: str, where: str) -> Any:
    if len(text) > MAX_RECIPE_BYTES:
        raise ConfigError(f"{where} is larger than {MAX_RECIPE_BYTES >> 20} MiB")
    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if isinstance(token, yaml.AliasToken):
                raise ConfigError(f"{where} uses YAML aliases", "write the values out")
            if depth > MAX_RECIPE_DEPTH:
                raise ConfigError(f"{where} is nested more than {MAX_RECIPE_DEPTH} levels deep")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def build_config(
    *,
    recipe: str,
    arch: str,
    dataset: str,
    method: str,
    arch_params: Collection[str],
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration that the layers add up to. Raises ConfigError naming the key and its nearest match.

    A recipe is written for many architectures: of its `arch` settings only those in `arch_params` are taken.
    """
    layers = load_recipe(recipe)
    summary, per_method = layers.pop("summary", None), layers.pop("methods", {})
    if summary is not None and not isinstance(summary, str):
        raise ConfigError(f"recipe {recipe}: summary must be a line of text")
    if not isinstance(per_method, dict):
        raise ConfigError(f"recipe {recipe}: methods must map method names to settings")
    merged: dict[str, Any] = _merge({}, layers)
    if isinstance(merged.get("arch"), dict):
        merged["arch"] = {key: value for key, value in merged["arch"].items() if key in arch_params}
    for_method = per_method.get(method) or {}
    if not isinstance(for_method, dict):
        raise ConfigError(f"recipe {recipe}: methods.{method} must be a mapping of keys to values")
    merged = _merge(merged, for_method)
    merged = _merge(merged, {"arch": {"name": arch}, "method": {"name": method}})
    for text in overrides:
        merged = _merge(merged, _parse_override(text))
    merged = _merge(merged, {"recipe": Path(recipe).stem, "dataset": dataset, **(flags or {})})
    return validate_config(merged)


def validate_config(value: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain data. Raises ConfigError naming the first wrong key, its value and the nearest match."""
    try:
        return RunConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _known_keys(RunConfig), n=1, cutoff=0.5)
            raise ConfigError(f"unknown key {key!r}", f"did you mean {near[0]}?" if near else "") from error
        raise ConfigError(f"{key}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from error


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML, as it stands in a run's folder."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _shipped() -> Any:
    return files("deatbench") / "recipes"


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mappings key by key; a bare name on top of a spec replaces its name only."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        if isinstance(old, dict) and "name" in old and isinstance(value, str):
            value = {"name": value}
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not key=value", "for example --set optimizer.lr=0.1")
    nested: Any = _number(_load_yaml(value, f"--set {key}")) if value.strip() else ""
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; here it is a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
