"""Downloads: to a temporary file first, then its MD5, then its place; so a file in place is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from deatbench.data.locate import DataLocation, Progress
from deatbench.data.reading import reason

_TIMEOUT_S = 20
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file on the web.

    Attributes:
        url: where it is.
        md5: of the file.
        members: for a tar archive, the base names to unpack; the archive itself is not kept.
    """

    url: str
    md5: str
    members: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[1]


def download(location: DataLocation, name: str, remedy: str, folder: str, remotes: Sequence[Remote]) -> None:
    """Fetches every remote into `folder` below `location.download_to`.

    Raises MissingError, with `remedy`, where downloading fails or is off (no `download_to`, or DEATBENCH_OFFLINE
    is set).
    """
    if location.download_to is None:
        raise location.missing(name, remedy)
    if os.environ.get("DEATBENCH_OFFLINE", "0") not in ("", "0"):
        raise location.missing(name, remedy, "DEATBENCH_OFFLINE is set")
    target = location.download_to / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".lock"):
            for remote in remotes:
                _fetch(remote, target, location.progress)
    except (OSError, http.client.HTTPException, tarfile.TarError, ValueError) as error:
        cause = getattr(error, "reason", error)  # urllib wraps the error that tells more
        raise location.missing(name, remedy, reason(cause) if isinstance(cause, Exception) else str(cause)) from error


def _fetch(remote: Remote, folder: Path, progress: Progress | None) -> None:
    wanted = remote.members or (remote.file_name,)
    if all((folder / name).is_file() for name in wanted):
        return  # another process was faster
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        archive = Path(scratch) / remote.file_name
        digest = hashlib.md5(usedforsecurity=False)
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT_S) as response, archive.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(remote.file_name, done, total)
        if digest.hexdigest() != remote.md5:
            raise ValueError(f"{remote.url} has MD5 {digest.hexdigest()}, expected {remote.md5}")
        if remote.members:
            unpack(archive, folder, remote.members)
        else:
            archive.replace(folder / remote.file_name)


def unpack(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Copies regular files with these base names out of a tar archive into `folder`, whatever paths it gives them.

    Raises tarfile.TarError if one is missing.
    """
    left = set(members)
    with tarfile.open(archive) as tar:
        for entry in tar:
            base = entry.name.rsplit("/", 1)[-1]
            content = tar.extractfile(entry) if base in left and entry.isreg() else None
            if content is not None:
                part = folder / f".{base}.part"
                with part.open("wb") as file:
                    shutil.copyfileobj(content, file)
                part.replace(folder / base)
                left.remove(base)
    if left:
        raise tarfile.TarError(f"{archive.name} lacks {', '.join(sorted(left))}")
