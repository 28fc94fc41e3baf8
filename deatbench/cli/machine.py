"""From options to a `Machine`: where to compute, where to write, and the command line as records quote it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.errors import ConfigError, DeatbenchError, MissingError

if TYPE_CHECKING:
    from deatbench.pipeline import Machine

_ABSOLUTE = re.compile(r"(?:~|/|[A-Za-z]:\\|\\\\)")


def make_machine(ctx: click.Context, *, home: Path, device: str, data_dir: Path | None, threads: int | None) -> Machine:
    """The machine that the options describe. Raises ConfigError on a device, MissingError on a folder, not there."""
    import torch

    from deatbench.engine.environment import choose_device
    from deatbench.pipeline import Machine
    from deatbench.store import Home

    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise MissingError(f"there is no folder {data_dir} (--data-dir)")
    if threads and threads > (most := max(64, 4 * (os.cpu_count() or 1))):
        raise ConfigError(f"--threads {threads}: more than {most} are of no use on {os.cpu_count()} cores")
    if threads:
        torch.set_num_threads(threads)
    return Machine(
        home=Home(home.expanduser()),
        device=choose_device(device),
        data_dir=data_dir,
        command=command_line(ctx.find_root().obj or []),
    )


def check_writable(folder: Path) -> None:
    """Raises DeatbenchError unless `folder`, or what will hold it, can be written: better now than after the work."""
    if why := unwritable(folder):
        raise DeatbenchError(f"cannot write into {folder}: {why}", "choose another place")


def unwritable(folder: Path) -> str | None:
    """Why no file could be written there, or in what will hold it; None if one could.

    It is tried: permissions alone do not say (/proc has them).
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        return f"{existing} is not a folder"
    try:
        tempfile.TemporaryFile(dir=existing).close()  # gone with its end
    except OSError as error:
        return "no permission" if isinstance(error, PermissionError) else error.strerror or str(error)
    return None


def command_line(arguments: Sequence[str]) -> str:
    """The command as it is published: absolute paths shrink to their last part, which says nothing of the machine."""
    return shlex.join(["deatbench", *(_without_machine_paths(argument) for argument in arguments)])


def _without_machine_paths(argument: str) -> str:
    return "=".join(re.split(r"[/\\]", part.rstrip("/\\"))[-1] if _ABSOLUTE.match(part) else part
                    for part in argument.split("="))  # fmt: skip


@contextlib.contextmanager
def data_on_stdout() -> Iterator[None]:
    """Send what foreign code prints to stderr: stdout is for the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
