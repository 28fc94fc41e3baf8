"""How a training was set up, in the words of a table cell. Any value of a record's configuration may be strange."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deatbench.report.escape import plain

# Values that go without saying: the update as its paper gives it.
_USUAL: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"nesterov": False},
    "deat": {"k1": 1.0, "k2": 0.8, "normalize": True, "decoupled": False},
}


def part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of a configuration; empty if there is none."""
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """A finite number as float, anything else as None."""
    plain_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain_number and math.isfinite(value) else None


def setting(value: Any) -> str:
    """A value as one short line: `0.1`, `crop-flip`, `[100, 105]`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return plain(", ".join(setting(each) for each in value), 60)
    return plain(str(value), 60)


def network(arch: str, params: Mapping[str, Any]) -> str:
    """An architecture with its parameters: `vgg16, width 0.25`."""
    return ", ".join([plain(arch, 60), *(f"{plain(key, 30)} {setting(params[key])}" for key in sorted(params))])


def optimizer(config: Mapping[str, Any], *, decay: bool = False) -> str:
    """The optimizer: `sgd, lr 0.02, momentum 0.9`; what is usual for it, and weight decay unless asked, is left out."""
    spec = part(config, "optimizer")
    name = spec.get("name")
    usual = _USUAL.get(str(name), {})
    hidden = {"name", "lr", *([] if decay else ["weight_decay"])}
    keys = ["lr", *sorted(key for key in spec if key not in hidden and spec[key] != usual.get(key, ...))]
    words = [f"{plain(key.replace('_', ' '), 30)} {setting(spec[key])}" for key in keys if key in spec]
    return ", ".join([plain(str(name), 60) if name else "?", *words])


def in_short(params: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What tells configurations of one architecture and method apart: `×0.125, lr 0.1, m 0.9`."""
    sizes = [
        f"×{setting(params[key])}" if key == "width" else f"{plain(key, 30)} {setting(params[key])}"
        for key in sorted(params)
    ]
    words = optimizer(config).removeprefix("sgd, ").replace("momentum", "m") if part(config, "optimizer") else ""
    return ", ".join(filter(None, (*sizes, words)))


def method(config: Mapping[str, Any]) -> str:
    """The method's name: `trades`."""
    name = part(config, "method").get("name")
    return plain(str(name), 60) if name else "?"


def inner_attack(config: Mapping[str, Any]) -> str:
    """The attack that the training itself uses: `PGD-10, step 0.25 ε`."""
    attack = part(config, "attack")
    return f"PGD-{setting(attack.get('steps', '?'))}, step {setting(attack.get('rel_step', '?'))} ε"


def steady_step(config: Mapping[str, Any]) -> float | None:
    """How far a step goes per unit of a gradient that stays the same, at the peak learning rate.

    SGD: lr / (1 - momentum). DEAT: lr / sqrt((1 + k1)² + k1²), for its two momenta then differ by nothing; without
    normalisation lr. None for optimizers whose step does not scale with the gradient.
    """
    spec = part(config, "optimizer")
    rate, momentum, k1 = (number(spec.get(key, default)) for key, default in (("lr", None), ("momentum", 0), ("k1", 1)))
    if rate is None or momentum is None or k1 is None:
        return None
    if spec.get("name") == "sgd" and 0 <= momentum < 1:
        return rate / (1 - momentum)
    if spec.get("name") == "deat":
        return rate / ((1 + k1) ** 2 + k1**2) ** 0.5 if spec.get("normalize", True) else rate
    return None
