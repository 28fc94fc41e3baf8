"""`deatbench ls`: what there is to choose from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import rich_click as click

from deatbench.cli import options

KINDS = ("archs", "methods", "optimizers", "attacks", "datasets", "recipes", "sweeps")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@options.as_json
def ls(kind: str, as_json: bool) -> None:
    """List archs, methods, optimizers, attacks, datasets, recipes or sweeps.

    \b
    Examples:
      deatbench ls archs
      deatbench ls attacks --json
    """
    from deatbench.cli.tables import print_table

    rows = list(_listing(kind))
    if as_json:
        print(json.dumps([{"name": name, "summary": summary} for name, summary in rows], indent=1, ensure_ascii=False))
    else:
        print_table(["name", "what it is"], rows)


def _listing(kind: str) -> Iterator[tuple[str, str]]:
    if kind == "recipes":
        from deatbench.config import load_recipe, recipe_names

        for name in recipe_names():
            yield name, str(load_recipe(name).get("summary", ""))
        return
    if kind == "sweeps":
        from deatbench.sweep.spec import load_sweep, sweep_names

        for name in sweep_names():
            yield name, load_sweep(name).spec.about
        return
    registry = _registry(kind)
    for name in registry.names():
        yield readable(name), registry.summary(name)


def readable(name: str) -> str:
    """A template's fields as capitals: `pgd-{steps:int}` is `pgd-STEPS`."""
    return re.sub(r"\{(\w+)[^}]*\}", lambda field: field.group(1).upper(), name)


def _registry(kind: str):  # type: ignore[no-untyped-def]
    if kind == "archs":
        from deatbench.archs import ARCHS

        return ARCHS
    if kind == "methods":
        from deatbench.methods import METHODS

        return METHODS
    if kind == "optimizers":
        from deatbench.optim import OPTIMIZERS

        return OPTIMIZERS
    if kind == "attacks":
        from deatbench.attacks import ATTACKS

        return ATTACKS
    from deatbench.data import DATASETS

    return DATASETS
