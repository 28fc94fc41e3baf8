"""From a sweep's points to the runs that they mean; and the file that keeps which point is which run."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import yaml

from deatbench.errors import ConfigError
from deatbench.sweep.spec import NAMES, Point, Settings, Sweep

if TYPE_CHECKING:
    from deatbench.config import RunConfig


LONGEST_LABEL = 120  # in a message


@dataclass(frozen=True)
class Planned:
    """A point and its run: `run_id` names the training, `evaluation` is the digest of the plan to measure it by."""

    run_id: str
    evaluation: str
    label: str
    settings: Settings


@dataclass(frozen=True)
class Surroundings:
    """What beside the sweep decides its configurations: the kind of device, where data sets lie."""

    device: str = "cpu"
    data_dir: Path | None = None


def planned(sweep: Sweep, around: Surroundings) -> list[Planned]:
    """The run of every point, each configured. Raises ConfigError naming the point that cannot be."""
    found, plans = [], dict[str, tuple[str, str]]()
    for point in sweep:
        config = configured(point, around)
        run_id, evaluation = config.run_id, config.evaluation.digest
        before, label = plans.setdefault(run_id, (evaluation, point.label))
        if before != evaluation:
            message = f"points {label!r} and {point.label!r} are one training measured in two ways"
            raise ConfigError(message, "evaluation settings belong into base, or into a sweep of their own")
        found.append(Planned(run_id, evaluation, point.label, point.settings))
    return found


def configured(point: Point, around: Surroundings) -> RunConfig:
    """The complete configuration of a point's run. Raises ConfigError naming the point."""
    import torch

    from deatbench.pipeline import configure

    try:
        names, overrides, flags = _parts(point)
        return configure(
            **names, overrides=overrides, flags=flags, device=torch.device(around.device), data_dir=around.data_dir
        )
    except ConfigError as error:
        raise ConfigError(f"at {shorten(point.label, LONGEST_LABEL)}: {error.message}", error.hint) from error


def command(point: Point) -> str:
    """The `deatbench run` that does what the sweep does at this point."""
    names, overrides, flags = _parts(point)
    words = ["deatbench", "run"]
    for name, value in (*names.items(), *flags.items()):
        words += [f"--{name}", Path(value).name if Path(str(value)).is_absolute() else str(value)]
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)


def _parts(point: Point) -> tuple[dict[str, str], list[str], dict[str, Any]]:
    """Options, `--set` texts, and what is set as it is."""
    asked = dict(point.asked)
    names = {name: asked.pop(name) for name in NAMES if name in asked}
    for name in ("arch", "method", "dataset"):
        if name not in names:
            raise ConfigError(f"no {name}", f"name one in base, or give an axis {name!r}")
    for name, value in names.items():
        if not isinstance(value, str):
            raise ConfigError(f"{name}={value!r} is no name")
    if names["dataset"] == "auto":
        raise ConfigError("dataset=auto", "a sweep says which")
    flags = {"seed": asked.pop("seed")} if "seed" in asked else {}
    return names, [f"{key}={_written(json.dumps(value))}" for key, value in asked.items()], flags


@lru_cache(maxsize=4096)
def _written(value: str) -> str:
    """JSON as one would write it behind `--set key=`."""
    text = yaml.safe_dump(json.loads(value), default_flow_style=True, width=math.inf, sort_keys=False)
    return str(text).rstrip("\n").removesuffix("\n...")


def to_lines(points: list[Planned]) -> str:
    """A line of JSON per point."""
    return "".join(json.dumps(vars(point), ensure_ascii=False) + "\n" for point in points)


def from_lines(lines: Iterable[str], where: str) -> list[Planned]:
    """The inverse of `to_lines`. Raises ConfigError on a line that it did not write."""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            point = Planned(**json.loads(line))
            if [type(value) for value in vars(point).values()] != [str, str, str, dict]:
                raise TypeError("fields of other types")
            found.append(point)
        except (ValueError, TypeError) as error:
            hint = "delete the file; the same command writes it anew"
            raise ConfigError(f"{where}: line {number} is no point", hint) from error
    return found
