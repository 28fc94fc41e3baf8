"""Where data may lie: a folder the user names, DEATBENCH_DATA, the user's cache; each with its usual sub-folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from deatbench.errors import ConfigError, MissingError

Progress = Callable[[str, int, int], None]


def cache_dir() -> Path:
    """The user's cache folder for downloaded data; it need not exist yet."""
    return platformdirs.user_cache_path("deatbench") / "data"


@dataclass(frozen=True)
class DataLocation:
    """Where a data set is looked for, and whether it may be downloaded.

    Attributes:
        data_dir: the folder the user named; searched first.
        download_to: where a download is put; None forbids downloading.
        progress: called as progress(file name, bytes done, bytes in all) while downloading.
    """

    data_dir: Path | None = None
    download_to: Path | None = None
    progress: Progress | None = None

    def roots(self) -> list[Path]:
        """The folders searched, in order."""
        return list(dict.fromkeys([*self._named().values(), cache_dir()]))

    def _named(self) -> dict[str, Path]:
        """The folders that the user named, by where."""
        given = {"--data-dir": self.data_dir, "DEATBENCH_DATA": os.environ.get("DEATBENCH_DATA")}
        return {where: Path(folder).expanduser() for where, folder in given.items() if folder}

    def folders(self, *sub_folders: str) -> Iterator[Path]:
        """Every root's existing sub-folders of these names ("." is the root itself), roots first.

        Raises ConfigError if the user named a folder that is not there: other data than meant might be found.
        """
        for where, root in list(self._named().items())[:1]:  # the first speaks louder
            if not root.is_dir() and root != self.download_to:
                raise ConfigError(f"{root}, named by {where}, is no folder", "correct the path, or leave it out")
        for root in self.roots():
            for sub_folder in sub_folders:
                folder = root / sub_folder
                if folder.is_dir():
                    yield folder

    def missing(self, name: str, remedy: str, reason: str = "") -> MissingError:
        """The error for a data set that is nowhere: where it was sought, how to get it, what works without it.

        Args:
            remedy: what to put where ("put cifar-10-batches-bin/ from https://… under --data-dir").
            reason: why a download failed.
        """
        places = ", ".join(str(root) for root in self.roots())
        failed = f"; download failed: {reason}" if reason else ""
        return MissingError(
            f"data set {name!r} not found in {places}{failed}",
            f"{remedy}; or use the embedded data: --dataset digits",
        )
