"""RobustBench's model_info files: read as published results, and written for runs of ours.

`model_info/<dataset>/<norm>/<Id>.json` is an object whose accuracies are texts in percent; `eps` is a text, and 0.031
is another threat than 8/255. Where the file's `dataset` disagrees with its folder, the folder is right. `external` is
the lowest accuracy that any attack is known to reach, and what they rank by where it is given, else `autoattack_acc`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from deatbench.errors import ConfigError, DeatbenchError, MissingError
from deatbench.records import Norm, PublishedResult, Threat, parse_eps
from deatbench.report.escape import plain
from deatbench.report.reference.percentages import share_of
from deatbench.store import Home, parse_json, write_record

SOURCE = "robustbench"
MAX_BYTES = 2**20
NORMS = get_args(Norm)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")
_EPS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?([eE]-?[0-9]{1,2})?(/[0-9]{1,9})?")
_LINK = re.compile(r"https?://[^\s\"'<>\\]{1,1900}")


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not taken over, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Import:
    """What a checkout holds."""

    results: tuple[PublishedResult, ...]
    skipped: tuple[Skipped, ...]


def read_model_info(path: Path) -> Import:
    """Every result in a checkout of RobustBench, its model_info/ or a folder in it, in the order of paths.

    Nothing is written. Raises MissingError if there is no such folder, or no .json in it.
    """
    root = path.absolute()  # dataset and norm are read off the path, which may be relative
    root = root / "model_info" if (root / "model_info").is_dir() else root
    files = sorted(root.rglob("*.json")) if root.is_dir() else []
    if not files:
        raise MissingError(f"no model_info of RobustBench in {path}", "name a checkout, or a folder of its model_info/")
    results: list[PublishedResult] = []
    skipped: list[Skipped] = []
    folders: Counter[tuple[Path, str]] = Counter()  # where no file is a result, one line is enough for all
    for file in files:
        dataset, norm = file.parent.parent.name, file.parent.name
        if norm.startswith("corruptions"):
            folders[file.parent, "on corruptions, no threat with a norm"] += 1
        elif norm not in NORMS or not _NAME.fullmatch(dataset) or dataset == "model_info":
            folders[root, "not in <dataset>/<norm>/"] += 1
        else:
            try:
                results.append(_read(file, dataset, norm))
            except DeatbenchError as error:
                skipped.append(Skipped(file.relative_to(root.parent), error.message))
    for (folder, why), n in sorted(folders.items()):
        skipped.append(Skipped(folder.relative_to(root.parent), f"{n:,} file{'s' * (n != 1)} {why}"))
    return Import(tuple(results), tuple(skipped))


def write_results(home: Home, results: Sequence[PublishedResult]) -> list[Path]:
    """Each result to <home>/published/robustbench/<dataset>/<norm>/<id>.json; returns the paths."""
    paths = []
    for result in results:
        folder = home.published / SOURCE / result.dataset / result.threat.norm
        paths.append(folder / f"{result.id}.json")
        write_record(paths[-1], result)
    return paths


def _read(file: Path, dataset: str, norm: str) -> PublishedResult:
    """One result. Raises ConfigError or MissingError saying why it cannot be taken."""
    if not _NAME.fullmatch(file.stem):
        raise ConfigError("its name cannot name a record")
    if file.is_symlink() or not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise ConfigError("is a link, or larger than 1 MiB")
    try:
        info = parse_json(file.read_text(encoding="utf-8"), "it")
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"cannot be read: {error}") from error
    if not isinstance(info, dict):
        raise ConfigError("is not an object")
    try:
        return _result(info, file.stem, dataset, norm)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _result(info: Mapping[str, Any], key: str, dataset: str, norm: str) -> PublishedResult:
    accuracies = {name: _share(info, name) for name in ("clean_acc", "autoattack_acc", "external")}
    if accuracies["autoattack_acc"] is None and accuracies["external"] is None:
        raise ConfigError("gives no accuracy under attack")
    title, authors, link = _text(info, "name"), _text(info, "authors"), info.get("link")
    about = f": {title}" if title else ""
    extra, unreliable = info.get("additional_data"), info.get("unreliable")
    return PublishedResult(
        id=f"{SOURCE}-{dataset}-{norm}-{key}",
        name=key,
        dataset=dataset,
        threat=_threat(norm, info.get("eps")),
        arch=_text(info, "architecture") or "unknown",
        method=key.partition("_")[0],
        extra_data=extra if isinstance(extra, bool) else None,
        clean_acc=accuracies["clean_acc"],
        autoattack_acc=accuracies["autoattack_acc"],
        best_known_acc=accuracies["external"],
        unreliable=unreliable in (True, "true", "True"),
        source=plain(f"RobustBench{about}{f' ({authors})' if authors else ''}"),
        venue=_text(info, "venue"),
        url=link if isinstance(link, str) and _LINK.fullmatch(link) else None,
    )


def _share(info: Mapping[str, Any], name: str) -> float | None:
    try:
        return share_of(info.get(name))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def _threat(norm: Any, eps: Any) -> Threat:
    """The threat with the radius as they write it."""
    text = str(eps) if isinstance(eps, int | float) and not isinstance(eps, bool) else eps
    if not isinstance(text, str) or not _EPS.fullmatch(text := text.replace(" ", "")):
        raise ConfigError(f"eps {eps!r} is no radius")
    return Threat(norm=norm, eps=parse_eps(text), eps_text=text)


def _text(info: Mapping[str, Any], name: str) -> str | None:
    """One printable line, None where they say nothing."""
    value = info.get(name)
    return plain(value) if isinstance(value, str) and value.strip() not in ("", "null", "N/A", "-") else None
