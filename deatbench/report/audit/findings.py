"""What an audit has looked at and found: files read without trust, each fault in one line with its file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deatbench.errors import ConfigError, DeatbenchError
from deatbench.records import DatasetInfo, EvaluationRecord, Reproduction, Verification
from deatbench.report.audit.arithmetic import radius_faults, record_faults
from deatbench.report.audit.attack_settings import attack_faults
from deatbench.report.audit.training_claims import config_faults
from deatbench.report.escape import plain
from deatbench.store import MAX_JSON_BYTES, Home, parse_json, read_record, sha256_of

M = TypeVar("M", bound=BaseModel)
LOOKS: dict[str, type[Verification] | type[Reproduction]] = {
    "verifications": Verification,
    "reproductions": Reproduction,
}
ARCHIVE = ".adv"
MAX_COMPLAINTS = 20  # about the form of one file
CLOCKS_DIFFER = timedelta(days=1)  # and time zones are forgotten
HASH_START = 16  # of a hash's digits, in a message
ANY_IMAGES = "folder"  # the name of a data set that is whatever lies in a folder
_OWN = (".gitignore", ".gitkeep", ".lock", ".unfinished")  # no records, and known


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one line, and in which file (below the working folder)."""

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass
class Audit:
    """What was looked at, of each kind how many, and every fault.

    `absent` counts what records name that is kept elsewhere: that they are too large to keep is no fault.
    """

    home: Home
    checked: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    absent: Counter[str] = field(default_factory=Counter)
    _ids: dict[tuple[str, str], Path] = field(default_factory=dict)
    _images: dict[tuple[str, str, str], dict[Path, set[str]]] = field(default_factory=lambda: defaultdict(dict))

    def say(self, path: Path, message: str) -> None:
        """Note a fault; text from files loses what could disguise it."""
        below = path.relative_to(self.home.path).as_posix()
        self.faults.append(Fault(plain(below, limit=500), plain(message)))

    @property
    def summary(self) -> str:
        """How much was looked at, in one line."""
        absent = {called: f" ({n:,} more are kept elsewhere)" for called, n in self.absent.items()}
        kinds = sorted(self.checked.keys() | absent.keys())
        counts = [f"{self.checked[called]:,} {called}{absent.get(called, '')}" for called in kinds]
        return f"checked {', '.join(counts) or 'nothing'}: {self.verdict}"

    @property
    def verdict(self) -> str:
        """How many faults, in how many files."""
        n, files = len(self.faults), len({fault.file for fault in self.faults})
        where = f" in {files:,} file{'s' * (files != 1)}" if n else ""
        return f"{n:,} fault{'s' * (n != 1)}{where}"

    def load(self, path: Path, kind: type[M], called: str) -> M | None:
        """A record, None if it is not one. Its id must be its file's name, and its own."""
        self.checked[called] += 1
        record, complaints = None, []
        try:
            record = read_record(path, kind)
        except DeatbenchError as error:
            complaints = list(_complaints(error, path))
        raw = _json(path)
        doubts = [*(record_faults(raw) if kind is EvaluationRecord else radius_faults(raw.get("threat"), "threat"))]
        said = {kind.__name__, *(doubt.partition(":")[0] for doubt in doubts)} if doubts else set()
        for message in (*(c for c in complaints if c.partition(":")[0] not in said), *doubts):
            self.say(path, message)
        if record is not None and isinstance(own_id := getattr(record, "id", None), str):
            self._name(path, own_id, called)
        self._date(path, record)
        if isinstance(images := getattr(record, "dataset", None), DatasetInfo):
            self.images(path, images)
        return record

    def _date(self, path: Path, record: BaseModel | None) -> None:
        """Nothing was made after now. A card's date is that of its training."""
        for where, part in (("", record), ("training.", getattr(record, "training", None))):
            if not isinstance(created := getattr(part, "created", None), str):
                continue
            try:
                made = datetime.fromisoformat(created)
                late = made.replace(tzinfo=made.tzinfo or UTC) - datetime.now(UTC) > CLOCKS_DIFFER
            except (ValueError, OverflowError):
                self.say(path, f"{where}created {plain(created, 40)!r} is no time")
                continue
            if late:
                self.say(path, f"{where}created {plain(created, 40)} lies in the future")

    def images(self, path: Path, images: DatasetInfo) -> None:
        """Remember which images a file speaks of, for `compare_images`."""
        if images.name.partition("-")[0] != ANY_IMAGES:
            for what, of, value in (("sha256", images.split, images.sha256), ("split", images.sha256, images.split)):
                self._images[images.name, what, of].setdefault(path, set()).add(value)

    def compare_images(self) -> None:
        """A split of a data set is the same images in all files: its SHA-256 is of all of it, whatever n is.

        Where they differ, what most files say is taken for right.
        """
        for (name, what, of), files in self._images.items():
            counts = Counter(value for path in sorted(files) for value in files[path])
            usual, n = counts.most_common(1)[0]
            for path, odd in ((path, value) for path, found in files.items() for value in sorted(found - {usual})):
                others = f"{n:,} other file{'s' * (n != 1)}"
                same = f"{_short(odd)} of {name} {_short(of)}"
                self.say(path, f"dataset.{what} {same} is {_short(usual)} in {others}")

    def _name(self, path: Path, own_id: str, called: str) -> None:
        name = path.parent.name if path.name == "card.json" else path.stem
        if called != "diagnoses" and name != own_id:
            self.say(path, f"its id is {own_id!r}, its name {name!r}")
        first = self._ids.setdefault((called, own_id), path)
        if first != path:
            self.say(path, f"its id {own_id!r} is also that of {first.relative_to(self.home.path).as_posix()}")

    def evaluation(self, path: Path, num_classes: int | None = None) -> EvaluationRecord | None:
        """An evaluation and the archive that it names; of a network with so many classes, if that is known."""
        record = self.load(path, EvaluationRecord, "evaluations")
        for fault in (*config_faults(record), *attack_faults(record, num_classes)) if record is not None else ():
            self.say(path, fault)
        if record is None or record.adversarials is None:
            return record
        archive = path.parent / record.adversarials.file
        if archive.name != path.stem + ARCHIVE:
            self.say(path, f"its archive is called {archive.name!r}")
        elif not is_file(archive):
            self.absent["archives"] += 1
        elif sha256_of(archive) != record.adversarials.sha256:
            self.say(archive, "its SHA-256 is not the one on record")
        return record

    def archive(self, path: Path) -> None:
        """An archive belongs to a record that names it."""
        self.checked["archives"] += 1
        named = _json(path.with_suffix(".json")).get("adversarials")
        if not isinstance(named, Mapping) or named.get("file") != path.name:
            self.say(path, "no record beside it names it")

    def look(self, path: Path) -> None:
        """A verification or reproduction speaks of a record beside it, and of its bytes."""
        look = self.load(path, LOOKS[path.parent.name], path.parent.name)
        if look is None:
            return
        record = path.parent.with_name("evaluations") / f"{look.record}.json"
        if look.record != path.stem:
            self.say(path, f"it speaks of {look.record!r}, its name of {path.stem!r}")
        elif not is_file(record):
            self.say(path, f"there is no evaluation {look.record!r} beside it")
        elif sha256_of(record) != look.record_sha256:
            self.say(path, "the evaluation that it speaks of has been changed since")
        elif isinstance(look, Verification) and look.proven and not _json(record).get("adversarials"):
            self.say(path, "it claims a proof, but the evaluation has no adversarial images that could be one")


def files_below(found: Audit, folder: Path) -> list[Path]:
    """Every file below a folder, sorted; links below it are faults and not followed."""
    files, folders = [], [folder] if folder.is_dir() else []
    while folders:
        for path in folders.pop().iterdir():
            if path.name in _OWN or (path.name.startswith(".") and path.name.endswith(".tmp")):
                continue
            if path.is_symlink():
                found.say(path, "is a link")
            elif path.is_dir():
                folders.append(path)
            elif path.is_file():
                files.append(path)
            else:
                found.say(path, "is no file")
    return sorted(files)


def is_file(path: Path) -> bool:
    """A file that lies here, not a link to one that lies anywhere."""
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:  # a name that no file can have
        return False


def _complaints(error: DeatbenchError, path: Path) -> Iterator[str]:
    """Why a file is no record: each field that is wrong, else the one reason."""
    if not isinstance(error.__cause__, ValidationError):
        yield error.message.replace(f"{path}: ", "").replace(f"{path} ", "").replace(str(path), path.name)
        return
    wrong = error.__cause__.errors(include_url=False)
    for one in wrong[:MAX_COMPLAINTS]:
        place = ".".join(str(part) for part in one["loc"]) or error.__cause__.title
        yield f"{place}: {one['msg']}"
    if len(wrong) > MAX_COMPLAINTS:
        yield f"and {len(wrong) - MAX_COMPLAINTS:,} more fields are wrong"


def _short(text: str) -> str:
    """A hash by its beginning."""
    return text if len(text) <= HASH_START else f"{text[:HASH_START]}…"


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file, empty where there is none to read."""
    try:
        readable = is_file(path) and path.stat().st_size <= MAX_JSON_BYTES
        raw = parse_json(path.read_text(encoding="utf-8"), str(path)) if readable else {}
    except (ConfigError, OSError, UnicodeDecodeError):
        return {}
    return raw if isinstance(raw, dict) else {}
