"""`deatbench data`: which data sets are on this machine, and fetching one."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from deatbench.cli import options


@click.group()
def data() -> None:
    """See which data sets are on this machine, and fetch one.

    \b
    Examples:
      deatbench data ls
      deatbench data get cifar10
    """


@data.command("ls")
@options.data_dir
@options.as_json
def list_datasets(data_dir: Path | None, as_json: bool) -> None:
    """List the data sets and where each was found.

    \b
    Example:
      deatbench data ls --data-dir ~/data
    """
    from deatbench.cli.tables import print_table
    from deatbench.data import DATASETS, found

    places = {name: found(name, data_dir) for name in DATASETS.names()}
    if as_json:
        rows = [{"name": name, "found": place, "summary": DATASETS.summary(name)} for name, place in places.items()]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print_table(
            ["name", "found", "what it is"],
            [[name, place or "no", DATASETS.summary(name)] for name, place in places.items()],
        )


@data.command()
@click.argument("name")
@options.data_dir
def get(name: str, data_dir: Path | None) -> None:
    """Download a data set, unless it is on this machine.

    Its checksum is verified. It goes to --data-dir, else to the user's cache folder, where every command finds it.

    \b
    Example:
      deatbench data get cifar10
    """
    from deatbench.cli.downloading import show_download
    from deatbench.data import get as get_dataset

    with show_download() as progress:
        place = get_dataset(name, data_dir, progress)
    print(f"{name}: {place}")
