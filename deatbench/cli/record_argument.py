"""The RECORD argument: which evaluations a name may stand for, on the disk."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deatbench.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from deatbench.store import Home


def evaluation_file(name: str, home: Home) -> Path:
    """The file of the evaluation that `name` stands for. Raises ConfigError if there are several."""
    files = evaluation_files(name, home)
    if len(files) > 1:
        in_home = not Path(name).expanduser().is_dir()  # elsewhere only a path leads to them
        choices = [file.stem if in_home else str(file) for file in files]
        raise ConfigError(f"{name} has {len(files)} evaluations", f"name one: {listed(choices)}")
    return files[0]


def evaluation_files(name: str, home: Home) -> list[Path]:
    """The files of the evaluations that `name` may stand for, each evaluation once.

    It is a record's file or id, a run or its folder, a model of the zoo, or the name of an evaluated model. Raises
    MissingError with the nearest match, or what there is.
    """
    path, plain, entry = Path(name).expanduser(), name.removeprefix("zoo:"), zoo_entry(name, home)
    if path.exists() and not path.is_dir():
        return [path]
    inside = plain not in ("", ".", "..") and not any(separator in plain for separator in "/\\\0")
    named = [path] if name and path.is_dir() else []
    folders = [*named, *([entry] if entry else []), *([home.runs / plain] * inside)]
    files = [file for folder in folders for file in sorted((folder / "evaluations").glob("*.json"))]
    if not files:
        kept = [*home.evaluation_paths(), *sorted(home.runs.glob("*/evaluations/*.json"))]
        files = [file for file in kept if file.stem == plain] or _files_saying(plain, home)
    if not files:
        there = entry is not None or any(folder.is_dir() for folder in folders)
        raise _not_evaluated(name) if there else _unknown(name, plain, home)
    return list({file.stem: file for file in reversed(files)}.values())[::-1]  # of copies the first: it was named


def _files_saying(text: str, home: Home) -> list[Path]:
    """Files of the record whose id is `text`, else of all records of models of that name."""
    from deatbench.records import EvaluationRecord
    from deatbench.store import read_record

    known = {file: read_record(file, EvaluationRecord) for file in home.evaluation_paths()}
    same_id = [file for file, record in known.items() if record.id == text]
    return same_id or [file for file, record in known.items() if record.model.name == text]


def zoo_entry(name: str, home: Home) -> Path | None:
    """The folder of a model of the zoo, if `name` is one."""
    plain = name.removeprefix("zoo:")
    return next((entry for entry in home.zoo_entries() if entry.name == plain), None)


def listed(names: Sequence[str], most: int = 8) -> str:
    """`a, b or c`; of very many the first."""
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most else names
    return " or ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _not_evaluated(name: str) -> MissingError:
    return MissingError(f"{name} has no evaluation", f"deatbench eval {name} --autoattack")


def _unknown(name: str, plain: str, home: Home) -> MissingError:
    names = {entry.name for entry in home.zoo_entries()} | {path.name for path in home.runs.glob("*") if path.is_dir()}
    names |= {record.model.name for record in home.load_records()} | {file.stem for file in home.evaluation_paths()}
    path = Path(name)
    if path.suffix == ".json" or len(path.parts) > 1:
        names |= {str(path.with_name(file.name)) for file in path.expanduser().parent.glob("*.json")}
    near = difflib.get_close_matches(plain, sorted(names), n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}?" if near else f"looked in {home.path}; --home names another folder"
    return MissingError(f"no evaluated model or record {name!r}", guess)
