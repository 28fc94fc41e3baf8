"""Reading and writing: atomic files, strict JSON, run folders, locks.

A file is written beside its place, flushed to disk, then renamed: a reader sees the old or the new one, never
half of either, and a full disk leaves the old one whole. One record is one file, so writers never meet.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from deatbench.errors import ConfigError, DeatbenchError, MissingError
from deatbench.records import EvaluationRecord, ModelCard

M = TypeVar("M", bound=BaseModel)
MAX_JSON_BYTES = 64 * 2**20
USUAL_JSON_BYTES = 2**18  # room for as much is taken at first


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all. Raises DeatbenchError naming the path and the room it needs."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}{_room(path, len(data), error)}"
        raise DeatbenchError(message, "free space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _room(path: Path, needed: int, error: OSError) -> str:
    """How much room a file needs and how much there is, where that was the trouble."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    with contextlib.suppress(OSError):
        return f", needs {needed / 1e6:.1f} MB of {shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
    return f", needs {needed / 1e6:.1f} MB"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write_bytes(path, text.encode("utf-8"))


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, keys in the order of its fields."""
    atomic_write_text(path, record.model_dump_json(indent=1) + "\n")


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no NaN, no infinity (also not as 1e999), no duplicate keys, no depth bomb. Raises ConfigError."""

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(number: str) -> float:
        value = float(number)
        if math.isinf(value):
            raise ValueError(f"{number} is out of range")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            raise ValueError(f"duplicate key {min(key for key, times in counts.items() if times > 1)!r}")
        return found

    try:
        return json.loads(text, parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid JSON: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file from anybody. Raises MissingError if it cannot be read, ConfigError if it is none of ours."""
    try:
        with path.open("rb") as file:
            data = file.read(USUAL_JSON_BYTES)  # its size on disk says nothing: it may be a link to /dev/zero
            if len(data) == USUAL_JSON_BYTES:
                data += file.read(MAX_JSON_BYTES + 1 - USUAL_JSON_BYTES)
        if len(data) > MAX_JSON_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB: not a record")
        return data.decode("utf-8")
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error


def read_record(path: Path, kind: type[M]) -> M:
    """Load and validate one record. Raises MissingError or ConfigError naming the file and the first fault."""
    text = read_text(path)
    try:
        parse_json(text, str(path))
        return kind.model_validate_json(text, strict=True)  # no booleans or texts as numbers
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise ConfigError(f"{path}: {place}: {first['msg']}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def second_look(record_path: Path, kind: Literal["verifications", "reproductions"], record_id: str) -> Path:
    """Where it is kept that somebody looked again at the evaluation record in `record_path`."""
    return record_path.parent.with_name(kind) / f"{safe_name(record_id, 'record')}.json"


def safe_name(text: str, what: str) -> str:
    """`text` if it is one plain path component. Raises ConfigError on separators, `..` and the like."""
    if text in ("", ".", "..") or any(c in text for c in "/\\\0") or text.startswith("."):
        raise ConfigError(f"{what} {text!r} is not a plain name")
    return text


class RunFolder:
    """The folder of one training run.

    config.yaml             the resolved recipe        metrics.jsonl         one line an epoch
    checkpoint-NNNNNN.pt    resume state (last two)    training.json         TrainingRecord, when finished
    best|last|ema|swa|shifted.safetensors   weights and spec    evaluations/*.json    EvaluationRecords
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.training = path / "training.json"
        self.evaluations = path / "evaluations"

    def weights(self, checkpoint: str) -> Path:
        """Weights of the "best" or "last" epoch, or of an average or DEAT's shifted point."""
        return self.path / f"{checkpoint}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Resume states, oldest first."""
        return sorted(self.path.glob("checkpoint-*.pt"))

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.training.is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second process gets ConfigError at once."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise ConfigError(f"{self.path} is in use by another run", "wait for it, or choose another --out") from None
        except OSError as error:
            raise DeatbenchError(f"cannot write {self.path}: {error.strerror or error}", "choose --out") from error
        try:
            for half in self.path.glob(".*.tmp"):  # what a killed process was writing, as large as a whole file
                with contextlib.suppress(OSError):
                    half.unlink()
            yield
        finally:
            lock.release()


class Home:
    """The working folder: runs/, sweeps/, evaluations/, published/, model_zoo/ and leaderboards/ lie in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path / "runs"
        self.evaluations = path / "evaluations"
        self.zoo = path / "model_zoo"
        self.published = path / "published"
        self.sweeps = path / "sweeps"
        self.leaderboards = path / "leaderboards"

    def run(self, run_id: str) -> RunFolder:
        """The folder of run `run_id`, whether or not it exists."""
        return RunFolder(self.runs / safe_name(run_id, "run"))

    def latest_run(self) -> RunFolder:
        """The run that finished last. Raises MissingError if there is none."""
        finished = sorted(self.runs.glob("*/training.json"), key=lambda path: path.stat().st_mtime)
        if not finished:
            raise MissingError(f"no finished run under {self.runs}", "name a MODEL, or `deatbench run` first")
        return RunFolder(finished[-1].parent)

    def zoo_entries(self) -> list[Path]:
        """Folders of the zoo's models, sorted."""
        return sorted(card.parent for card in self.zoo.glob("*/*/*/card.json"))

    def zoo_entry(self, model_id: str) -> Path:
        """The zoo folder of `model_id`. Raises MissingError with the nearest match."""
        entries = {folder.name: folder for folder in self.zoo_entries()}
        if model_id in entries:
            return entries[model_id]
        near = difflib.get_close_matches(model_id, sorted(entries), n=2, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}?" if near else "`deatbench zoo ls` lists all"
        raise MissingError(f"no model {model_id!r} in {self.zoo}", guess)

    def evaluation_paths(self) -> list[Path]:
        """Files of the evaluations kept in the zoo or made by `deatbench eval`, sorted."""
        return sorted([*self.zoo.glob("*/*/*/evaluations/*.json"), *self.evaluations.glob("*.json")])

    def load_records(self) -> list[EvaluationRecord]:
        """Every evaluation, each id once, sorted by id."""
        records = {record.id: record for record in (read_record(p, EvaluationRecord) for p in self.evaluation_paths())}
        return [records[key] for key in sorted(records)]

    def load_cards(self) -> list[ModelCard]:
        """Every card of the zoo, sorted by id."""
        return [read_record(folder / "card.json", ModelCard) for folder in self.zoo_entries()]
