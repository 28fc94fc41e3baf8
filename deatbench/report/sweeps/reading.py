"""What a report of a sweep follows from, read from the sweep's folder; all but results.jsonl may be missing.

sweep.yaml            what the sweep is about, which figures its report draws
points.jsonl          every point that was planned: by it the report knows what is missing
results.jsonl         a SweepResult per finished run
failures/<run>.json   why a run is missing
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deatbench.errors import ConfigError, MissingError
from deatbench.records import SweepResult
from deatbench.store import Home, parse_json, read_text

RESULTS = "results.jsonl"
MAX_LINE_BYTES = 4 * 2**20
MAX_FILE_BYTES = 2**20  # of sweep.yaml and of a failure
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}")  # it names files
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=-]{0,99}")


@dataclass(frozen=True)
class Swept:
    """A sweep as far as it is done.

    Args:
        name: of its folder and of the pages. about, kind: what sweep.yaml says of it and asks for.
        results: the finished runs, in the order of the plan as far as there is one.
        planned: the labels of every run that was planned; empty where that is not known.
        failed: the error of each run that failed and is not finished.
    """

    name: str
    results: tuple[SweepResult, ...]
    about: str = ""
    kind: str | None = None
    planned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Planned runs that have no result, in the order of the plan."""
        done = {result.run_id for result in self.results}
        return [run_id for run_id in self.planned if run_id not in done]


def read_sweep(folder: Path) -> Swept:
    """The sweep in `folder`, or the one that a results.jsonl belongs to. Raises ConfigError or MissingError."""
    folder = folder.parent if folder.name == RESULTS and not folder.is_dir() else folder
    if not (folder / RESULTS).is_file():
        raise MissingError(f"no {RESULTS} in {folder}", "`deatbench sweep` writes it; name <home>/sweeps/<name>")
    if not _NAME.fullmatch(folder.name):
        raise ConfigError(f"{folder.name!r} cannot name a sweep", "letters, digits, - _ + = only; rename the folder")
    about, kind = _said(folder / "sweep.yaml")
    with _no_garbage():
        planned = _planned(folder / "points.jsonl")
        results = {result.run_id: result for result in _results(folder / RESULTS)}
    place = {run_id: turn for turn, run_id in enumerate(planned)}
    order = sorted(results.values(), key=lambda each: (place.get(each.run_id, len(place)), *_natural(each)))
    failed = {run_id: _error(folder / "failures" / f"{run_id}.json") for run_id in planned if run_id not in results}
    said = {run_id: error for run_id, error in failed.items() if error is not None}
    return Swept(folder.name, tuple(order), about, kind, planned, said)


def read_sweeps(home: Home) -> tuple[Swept, ...]:
    """Every sweep of a working folder that has results, by name."""
    return tuple(read_sweep(path.parent) for path in sorted(home.sweeps.glob(f"*/{RESULTS}")))


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Thousands of records are made and none goes: looking for garbage among them takes as long as reading them."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, and where each stands."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise ConfigError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
                if line.strip():
                    yield line.decode("utf-8"), f"{path}: line {number}"
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error


def _results(path: Path) -> Iterator[SweepResult]:
    for line, where in _lines(path):
        parse_json(line, where)
        try:
            yield SweepResult.model_validate_json(line, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "SweepResult"
            raise ConfigError(f"{where}: {place}: {first['msg']}") from error


def _planned(path: Path) -> dict[str, tuple[str, ...]]:
    planned: dict[str, tuple[str, ...]] = {}
    for line, where in _lines(path) if path.is_file() else ():
        point = parse_json(line, where)
        run_id = point.get("run_id") if isinstance(point, dict) else None
        if not isinstance(run_id, str) or not _RUN.fullmatch(run_id):
            raise ConfigError(f"{where}: no point of a sweep", "the sweep's own command writes the file anew")
        planned[run_id] = (*planned.get(run_id, ()), str(point.get("label", "")))
    return planned


def _error(path: Path) -> str | None:
    """The error that a failed attempt left, None where there is none."""
    if not path.is_file():
        return None
    failure = parse_json(_small(path), str(path))
    return str(failure.get("error", "")) if isinstance(failure, dict) else ""


def _said(path: Path) -> tuple[str, str | None]:
    """`about` and `report` of a sweep's file: its events are read, nothing is built from them."""
    if not path.is_file():
        return "", None
    found: dict[str, str] = {}
    key: str | None = None
    depth = 0
    try:
        for event in yaml.parse(_small(path), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.NodeEvent) and depth == 1:  # keys and values of the file's own mapping
                value = event.value if isinstance(event, yaml.ScalarEvent) else ""
                if key is None:
                    key = value
                else:
                    found[key], key = value, None
            depth += isinstance(event, yaml.CollectionStartEvent)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return found.get("about", ""), found.get("report") or None


def _small(path: Path) -> str:
    text = read_text(path)
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    return text


def _natural(result: SweepResult) -> tuple[Any, ...]:
    """Sort key by settings: numbers by size, then words."""
    values = [value for _, value in sorted(result.settings.items())]
    ranked = [(0, float(v), "") if isinstance(v, int | float) else (1, 0.0, str(v)) for v in values]
    return ranked, result.run_id
