"""Where data may lie: a folder the user names, DEATBENCH_DATA, the user's cache; each with its usual sub-folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from deatbench.errors import MissingError

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
        env = os.environ.get("DEATBENCH_DATA")
        named = [self.data_dir, Path(env) if env else None, cache_dir()]
        return list(dict.fromkeys(Path(root).expanduser() for root in named if root is not None))

    def folders(self, *sub_folders: str) -> Iterator[Path]:
        """Every root's existing sub-folders of these names ("." is the root itself), roots first."""
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
