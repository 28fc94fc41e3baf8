"""A sweep file: around what is varied, what is varied, and what the report shows.

    about: Does DEAT beat PGD-AT with standard momentum?
    base: {recipe: digits, dataset: digits, arch: vgg16, set: {epochs: 15}}
    axes:                                  # the grid is their product
      optimizer.lr: [0.01, 0.03]           # a list: values of a key
      update:                              # a mapping: variants, each a bundle of settings
        pgd-at m=0: {method: pgd-at, optimizer.momentum: 0}
        deat: {method: deat}
      seed: [0, 1, 2]
    points: [{method: trades, seed: 0}]    # single points beside the grid
    sample: {n: 8, seed: 0}                # of the grid, at random
    report: table2
    resources: {cpus: 1, gpus: 0}          # of one run

Sweeps are strangers' files, read as recipes are: safe loader, no aliases, bounded size and depth.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deatbench.config import as_number, parse_yaml, read_text, shipped, validated
from deatbench.errors import ConfigError, UnknownNameError

MAX_POINTS = 100_000
NAMES = ("arch", "method", "dataset", "recipe")  # settings that are options of `deatbench run`, not `--set`
LABEL = "label"  # of a single point: no setting
_KEY = re.compile(r"[a-z][A-Za-z0-9_.]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=-]{0,99}")

Settings = dict[str, Any]  # by recipe key (optimizer.lr), or arch, method, dataset, recipe, seed


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Base(_Part):
    """What all points have in common; `set` holds any recipe keys."""

    recipe: str | None = None
    dataset: str | None = None
    arch: str | None = None
    method: str | None = None
    set: Settings = Field(default_factory=dict)


class Sample(_Part):
    """A random choice of `n` points of the grid; the same `seed` chooses the same."""

    n: int = Field(ge=1)
    seed: int = 0


class Resources(_Part):
    """What one run is given; half a GPU is 0.5."""

    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)


class SweepSpec(_Part):
    """The file as it is written."""

    about: str = ""
    base: Base = Base()
    axes: dict[str, Any] = Field(default_factory=dict)
    points: list[Settings] = Field(default_factory=list)
    sample: Sample | None = None
    report: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=50)] | None = None
    resources: Resources = Resources()


@dataclass(frozen=True)
class Axis:
    """A direction of the grid: what each of its values is called there, and what it sets."""

    name: str
    values: tuple[tuple[Any, Settings], ...]


@dataclass(frozen=True)
class Point:
    """One point: `settings` say where in the sweep it lies, `asked` is all that is asked of its run."""

    label: str
    settings: Settings
    asked: Settings


@dataclass(frozen=True)
class Sweep:
    """A sweep that makes sense as far as can be seen without configuring its runs."""

    name: str
    text: str
    spec: SweepSpec
    axes: tuple[Axis, ...]

    @property
    def grid(self) -> int:
        """Points of the whole grid."""
        return math.prod(len(axis.values) for axis in self.axes) if self.axes else 0

    @property
    def count(self) -> int:
        """How many points it has: any number, where the file has not been checked."""
        return (self.spec.sample.n if self.spec.sample else self.grid) + len(self.spec.points)

    def __iter__(self) -> Iterator[Point]:
        """Its points: those of the grid, the last axis turning fastest, then the single ones."""
        base = {name: getattr(self.spec.base, name) for name in NAMES if getattr(self.spec.base, name) is not None}
        base |= _plain(self.spec.base.set, "base.set")
        for place in _choice(self.grid, self.spec.sample) if self.spec.sample else range(self.grid):
            yield self._grid_point(place, base)
        for single in self.spec.points:
            settings = _plain({key: value for key, value in single.items() if key != LABEL}, "points")
            yield Point(str(single.get(LABEL, _label(settings))), settings, base | settings)

    def _grid_point(self, place: int, base: Settings) -> Point:
        found: list[tuple[Any, Settings]] = []
        for axis in reversed(self.axes):
            place, digit = divmod(place, len(axis.values))
            found.append(axis.values[digit])
        settings, asked = {}, dict(base)
        for axis, (value, sets) in zip(self.axes, reversed(found), strict=True):
            settings[axis.name] = value
            asked |= sets
        return Point(_label(settings), settings, asked)


def sweep_names() -> list[str]:
    """Sweeps that ship with the package."""
    return list(shipped("sweeps"))


def load_sweep(name: str) -> Sweep:
    """A shipped sweep by name, or a YAML file by path. Raises ConfigError, MissingError or UnknownNameError."""
    if name in shipped("sweeps"):
        return parse_sweep(shipped("sweeps")[name], name)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UnknownNameError("sweep", name, sweep_names(), "`deatbench ls sweeps` lists all, or name a .yaml file")
    return parse_sweep(read_text(path, f"sweep {name}"), path.stem)


def parse_sweep(text: str, name: str) -> Sweep:
    """A sweep from its YAML; results will lie in a folder called `name`. Raises ConfigError naming what is wrong."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a sweep", "letters, digits, - _ + = only; rename the file")
    try:
        spec = validated(SweepSpec, parse_yaml(text, "the file"))
        axes = tuple(_axis(axis, given) for axis, given in spec.axes.items())
        sweep = Sweep(name, text, spec, axes)
        _check(sweep)
    except ConfigError as error:
        raise ConfigError(f"sweep {name}: {error.message}", error.hint) from error
    return sweep


def _axis(name: str, given: Any) -> Axis:
    if not given and isinstance(given, list | dict):
        raise ConfigError(f"empty grid: axis {name!r} has no values")
    if isinstance(given, list):
        sets = [_plain({name: value}, "axes") for value in given]
        counts = Counter(json.dumps(settings[name]) for settings in sets)
        value, times = counts.most_common(1)[0]
        if times > 1:
            raise ConfigError(f"axis {name!r} has the value {value} {times} times")
        return Axis(name, tuple((settings[name], settings) for settings in sets))
    if not isinstance(given, dict):
        raise ConfigError(f"axis {name!r} must be a list of values or a mapping of variants, not {given!r:.60}")
    for variant, settings in given.items():
        if not isinstance(variant, str) or not isinstance(settings, dict):
            raise ConfigError(f"variant {variant!r} of axis {name!r} must be a name with a mapping of settings")
    return Axis(name, tuple((variant, _plain(settings, f"axis {name!r}")) for variant, settings in given.items()))


def _plain(settings: Mapping[Any, Any], where: str) -> Settings:
    """Settings whose keys can be recipe keys and whose values JSON knows. Raises ConfigError on others."""
    found = {}
    for key, value in settings.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ConfigError(f"{where}: {key!r:.60} is no recipe key", "for example optimizer.lr")
        found[key] = as_number(value)
        try:
            json.dumps(found[key], allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: {key}={value!r:.60} is no number, text, list or mapping") from None
    return found


def _choice(total: int, sample: Sample) -> list[int]:
    """Places in a grid of any size, sorted."""
    draws, chosen = random.Random(sample.seed), set[int]()
    while len(chosen) < sample.n:
        chosen.add(draws.randrange(total))
    return sorted(chosen)


def _check(sweep: Sweep) -> None:
    """Raises ConfigError on what no point could make good: before any is looked at, however many there are."""
    spec = sweep.spec
    _plain(spec.base.set, "base.set")
    for single in spec.points:
        if LABEL in single and not isinstance(single[LABEL], str):
            raise ConfigError(f"points: {LABEL}={single[LABEL]!r:.60} is no text")
        _plain({key: value for key, value in single.items() if key != LABEL}, "points")
    if not sweep.count:
        raise ConfigError("empty grid: there are neither axes nor points")
    if spec.sample and spec.sample.n > sweep.grid:
        raise ConfigError(f"a sample of {spec.sample.n:,} points from a grid of {sweep.grid:,}")
    if sweep.count > MAX_POINTS:
        hint = "`sample: {n: 100}` takes some at random"
        raise ConfigError(f"{sweep.count:,} points are more than the limit of {MAX_POINTS:,}", hint)
    setters: dict[str, str] = {}
    for axis in sweep.axes:
        for key in {key for _, settings in axis.values for key in settings}:
            if key in setters:
                raise ConfigError(f"axes {setters[key]!r} and {axis.name!r} both set {key}")
            setters[key] = axis.name


def _label(settings: Mapping[str, Any]) -> str:
    """`optimizer.lr=0.03 update=deat seed=0`."""
    return " ".join(f"{key}={value}" for key, value in settings.items())
