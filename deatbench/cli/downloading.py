"""Data sets, and on stderr how far the download of each file is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deatbench.cli.monitor import make_monitor
from deatbench.data import Dataset, found, load_dataset
from deatbench.data.locate import Progress
from deatbench.pipeline import Machine


@contextmanager
def show_download() -> Iterator[Progress]:
    """A callback progress(file name, bytes done, bytes in all) that shows itself once a download begins."""
    with make_monitor() as monitor:
        seen: dict[str, int] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in seen:
                monitor.start(f"download {name} (MB)", total / 1e6)
            monitor.advance((done - seen.get(name, 0)) / 1e6)
            seen[name] = done
            if done == total:
                monitor.finish()

        yield progress


def load_data(name: str, machine: Machine, *, download: bool = True) -> Dataset:
    """Data set `name`, downloaded where that is allowed and needed. Raises UnknownNameError or MissingError."""
    with show_download() as progress:
        return load_dataset(name, machine.data_dir, download=download, progress=progress)


def fetch_if_missing(name: str, machine: Machine) -> None:
    """Download data set `name`, showing how far it is, unless it is on this machine. Raises MissingError."""
    if found(name, machine.data_dir) is None:
        load_data(name, machine)
