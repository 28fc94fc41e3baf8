"""What an evaluation has found so far, kept on disk: killed at any instant, it loses seconds and changes no verdict.

key.json                     what decides the verdicts; another key is another evaluation
SSS-UUUUU.safetensors        outcome of unit U of stage S: a part of the images under one attack
SSS-UUUUU.place.safetensors  where the search of a unit stood a few seconds ago
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from filelock import FileLock, Timeout

from deatbench.attacks.journal import FORGETFUL, Journal, Place
from deatbench.errors import CheckpointError, ConfigError, DeatbenchError
from deatbench.store import atomic_write_bytes, atomic_write_text, parse_json

LAYOUT = 4  # of the files; another number means that they have changed their meaning
KEEP_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """What was found for the U images of a unit.

    `found_U` says which are broken, or proved robust where that is looked for; `x_adv` [b, C, H, W] float32 holds an
    adversarial image for each of these b, or is empty where images are not kept. `interrupted` means that the model
    gave no gradient; `promise_U` how promising a proof is, where that is all that is asked.
    """

    found_U: np.ndarray
    x_adv: np.ndarray
    seconds: float = 0.0
    passes: int = 0
    interrupted: bool = False
    promise_U: np.ndarray = field(default_factory=lambda: np.empty(0))


class Progress:
    """Keeps nothing: for evaluations of seconds."""

    def recall(self, unit: str) -> Outcome | None:
        """The outcome of a unit that is done."""
        return None

    def keep(self, unit: str, outcome: Outcome) -> None:
        """A unit is done."""

    def journal(self, unit: str) -> Journal:
        """Where the search of a unit keeps its place."""
        return FORGETFUL


class SavedProgress(Progress):
    """Keeps everything in a folder that belongs to one evaluation."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        """Raises ConfigError if the folder's progress is of another evaluation or another version of the code."""
        self.folder = folder
        self.key = json.dumps({"layout": LAYOUT, **key}, indent=1, sort_keys=True) + "\n"
        path = folder / "key.json"
        if not path.exists():
            return
        found = parse_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
        asked = parse_json(self.key, "key")
        if found != asked:
            keys = found.keys() | asked.keys() if isinstance(found, dict) else ()
            parts = ", ".join(sorted(name for name in keys if found.get(name) != asked.get(name)))
            raise ConfigError(
                f"{folder} holds progress of another evaluation (differs in {parts or 'everything'})",
                "--fresh starts over",
            )

    @property
    def begun(self) -> int:
        """How many units are done."""
        return len([path for path in self.folder.glob("*.safetensors") if ".place." not in path.name])

    def recall(self, unit: str) -> Outcome | None:
        path = self._path(unit)
        if not path.exists():
            return None
        with _readable(path):
            parts = safetensors.numpy.load(path.read_bytes())
            seconds, passes, interrupted = parts["figures"].tolist()
            return Outcome(
                parts["found"].astype(bool), parts["x_adv"], seconds, int(passes), bool(interrupted), parts["promise"]
            )

    def keep(self, unit: str, outcome: Outcome) -> None:
        figures = np.array([outcome.seconds, outcome.passes, outcome.interrupted], dtype=np.float64)
        parts = {
            "found": outcome.found_U,
            "x_adv": outcome.x_adv,
            "figures": figures,
            "promise": outcome.promise_U,
        }
        self.write(self._path(unit), safetensors.numpy.save(parts))
        self._place(unit).unlink(missing_ok=True)

    def journal(self, unit: str) -> Journal:
        return _FileJournal(self, self._place(unit))

    def write(self, path: Path, data: bytes) -> None:
        """Write one of the folder's files; the first one brings the key along."""
        if not (self.folder / "key.json").exists():
            atomic_write_text(self.folder / "key.json", self.key)
        atomic_write_bytes(path, data)

    def clear(self) -> None:
        """Forget everything: the evaluation is on record."""
        self.forget(self.folder)

    @staticmethod
    def forget(folder: Path) -> None:
        """Remove the progress in `folder`, whatever it is of, and the folder around it if that is empty now."""
        shutil.rmtree(folder, ignore_errors=True)
        _remove_if_empty(folder.parent)

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit}.safetensors"

    def _place(self, unit: str) -> Path:
        return self.folder / f"{unit}.place.safetensors"


class _FileJournal(Journal):
    """Writes the place of a search every few seconds."""

    def __init__(self, progress: SavedProgress, path: Path) -> None:
        self.progress, self.path = progress, path
        self.kept_at = time.monotonic()

    def recall(self) -> Place | None:
        if not self.path.exists():
            return None
        with _readable(self.path):
            return safetensors.torch.load(self.path.read_bytes())

    def keep(self, place: Callable[[], Place]) -> None:
        if time.monotonic() - self.kept_at < KEEP_EVERY_SECONDS:
            return
        parts = {name: value.detach().cpu().contiguous().clone() for name, value in place().items()}
        self.progress.write(self.path, safetensors.torch.save(parts))
        self.kept_at = time.monotonic()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong while `path` is read becomes one clear line."""
    try:
        yield
    except Exception as error:  # safetensors, numpy and the file system each have their own
        raise CheckpointError(f"{path} is not progress of an evaluation: {error}", "--fresh starts over") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an evaluation's folder for this process; a second one gets ConfigError at once. Leaves no lock behind."""
    path = folder.with_name(f"{folder.name}.lock")
    try:
        lock = _acquired(path)
    except Timeout:
        raise ConfigError(f"{folder.name} is being evaluated by another process", "wait for it") from None
    except OSError as error:
        raise DeatbenchError(f"cannot write {folder.parent}: {error.strerror or error}", "choose --home") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # where an open file cannot be removed it stays
            path.unlink()
        lock.release()
        _remove_if_empty(folder.parent)


def _acquired(path: Path) -> FileLock:
    """The lock on `path`. Who held it before may have removed the file meanwhile: a lock on no name holds nobody off.

    Raises Timeout if another process has it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except FileNotFoundError:  # the folder went with the last evaluation in it
            continue
        descriptor = lock._context.lock_file_fd
        with contextlib.suppress(FileNotFoundError):
            if descriptor is None or os.path.samestat(os.fstat(descriptor), path.stat()):
                return lock
        lock.release()


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
