"""Recipes and `--set`: the layers that a configuration is built from.

    defaults  ←  recipe YAML  ←  the recipe's part for this method  ←  --set key=value  ←  flags

Recipes are strangers' files: safe loader, no aliases, bounded size and depth.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from deatbench.config.run_config import RunConfig, validate_config
from deatbench.errors import ConfigError, MissingError, UnknownNameError

MAX_RECIPE_BYTES = 1 << 20
MAX_RECIPE_DEPTH = 20
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    return list(shipped("recipes"))


def load_recipe(name: str) -> dict[str, Any]:
    """A shipped recipe by name, or a YAML file by path. Raises ConfigError, MissingError or UnknownNameError."""
    if name in shipped("recipes"):
        return parse_yaml(shipped("recipes")[name], f"recipe {name}")
    if Path(name).suffix not in (".yaml", ".yml"):
        raise UnknownNameError("recipe", name, recipe_names(), "`deatbench ls recipes` lists all, or name a .yaml file")
    return parse_yaml(read_text(Path(name), f"recipe {name}"), f"recipe {name}")


def read_text(path: Path, what: str) -> str:
    """The start of a stranger's file, one byte longer than is taken. Raises ConfigError or MissingError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECIPE_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise MissingError(f"cannot read {what}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text") from error


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """YAML mapping through the safe loader, without aliases (no alias bombs). Raises ConfigError."""
    value = _load_yaml(text, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a mapping of keys to values")
    return value


class _Loader(yaml.SafeLoader):
    """The safe loader; a key that stands twice is a fault, not a choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load_yaml(text: str, where: str) -> Any:
    return copy.deepcopy(_parsed(text, where))


@lru_cache(maxsize=1024)  # a sweep reads the same recipe and settings thousands of times
def _parsed(text: str, where: str) -> Any:
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
        return yaml.load(text, Loader=_Loader)
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


@cache
def shipped(folder: str) -> dict[str, str]:
    """The YAML files in a folder of the package: names and texts, sorted by name."""
    paths = sorted((files("deatbench") / folder).iterdir(), key=lambda path: path.name)
    return {p.name.removesuffix(".yaml"): p.read_text(encoding="utf-8") for p in paths if p.name.endswith(".yaml")}


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
    nested: Any = as_number(_load_yaml(value, f"--set {key}")) if value.strip() else ""
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; here it is a number. Other values stay as they are."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
