"""`deatbench diagnose`: what a model takes each image for, for its page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options

if TYPE_CHECKING:
    from deatbench.models import LoadedModel
    from deatbench.pipeline import Machine
    from deatbench.records import Diagnostics
    from deatbench.store import Home


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@options.model_dataset
@options.data_dir
@options.norm
@options.eps
@click.option(
    "--n",
    "--images",
    "n",
    type=click.IntRange(min=1),
    help="The first N test images; default: 1000, or what a CPU can.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="For the attack.")
@options.device
@options.threads
@options.home
@options.as_json
@click.pass_context
def diagnose(
    ctx: click.Context,
    models: tuple[str, ...],
    dataset: str | None,
    data_dir: Path | None,
    norm: str | None,
    eps: str | None,
    n: int | None,
    seed: int,
    device: str,
    threads: int | None,
    home: Path,
    as_json: bool,
) -> None:
    """See what models take each image for, clean and under PGD-20; seconds for a small one.

    For a model of the zoo this is kept beside its card as diagnostics.json: the model's page then shows accuracy over
    the radius, which classes fall and into what, and adversarial images. `deatbench run` does it by itself.
    Other models are shown only. MODEL is as for `deatbench eval`.

    \b
    Examples:
      deatbench diagnose zoo:digits-vgg16-deat-3f2a91-s0
      deatbench diagnose zoo:A zoo:B zoo:C && deatbench leaderboard build
      deatbench diagnose ./my.py:net --dataset cifar10 --eps 8/255 --images 500 --json
    """
    from deatbench.cli.downloading import load_data
    from deatbench.cli.machine import check_writable, data_on_stdout, make_machine
    from deatbench.cli.model_argument import dataset_for, threat_for
    from deatbench.cli.monitor import make_monitor
    from deatbench.models import ModelRequest, load_model
    from deatbench.models.zoo import PREFIX
    from deatbench.pipeline.diagnosis import diagnose as look

    machine = make_machine(ctx, home=home, device=device, data_dir=data_dir, threads=threads)
    found: list[Diagnostics] = []
    for text in models:
        with data_on_stdout():
            model = load_model(ModelRequest(text, machine.home, machine.device))
            name, threat = dataset_for(model, dataset), threat_for(model, norm, eps)
            if model.source.startswith(PREFIX):
                check_writable(machine.home.zoo_entry(model.name))
            data = load_data(name, machine)
            with make_monitor() as monitor:
                found.append(
                    look(model, data, threat, _told(ctx, text, models, machine), n=n, seed=seed, monitor=monitor)
                )
        _keep(model, found[-1], machine.home)
    if as_json:
        print(json.dumps([diagnostics.model_dump(mode="json") for diagnostics in found], indent=1))
    else:
        _show(found)


def _told(ctx: click.Context, model: str, models: tuple[str, ...], machine: Machine) -> Machine:
    """The machine, told by a command for this model alone."""
    from deatbench.cli.machine import command_line

    arguments: list[str] = ctx.find_root().obj or []
    return replace(machine, command=command_line([word for word in arguments if word == model or word not in models]))


def _keep(model: LoadedModel, diagnostics: Diagnostics, home: Home) -> None:
    """Write them into the model's zoo entry, if it has one and they are about the threat that it is kept for."""
    from deatbench.models.zoo import PREFIX
    from deatbench.pipeline.publication import DIAGNOSTICS
    from deatbench.store import write_record

    why = ""
    if not model.source.startswith(PREFIX):
        why = "it is no zoo:ID"
    elif (model.dataset, model.threat) != (diagnostics.dataset.name, diagnostics.threat):
        why = "its zoo entry is about another data set or threat"
    if why:
        print(f"note: nothing is kept of {model.source}: {why}; --json prints it", file=sys.stderr)
        return
    path = home.zoo_entry(model.name) / DIAGNOSTICS
    write_record(path, diagnostics)
    print(f"diagnostics: {path}", file=sys.stderr)


def _show(found: Iterable[Diagnostics]) -> None:
    """Accuracy over the radius, a row each."""
    from deatbench.cli.tables import print_table

    rows = [
        [
            diagnostics.model.name,
            f"{diagnostics.threat.norm} {point.eps_text}",
            diagnostics.attack if point.eps else "clean",
            f"{100 * point.accuracy.value:.2f} %",
            f"{100 * point.accuracy.ci95[0]:.1f}..{100 * point.accuracy.ci95[1]:.1f}",
            str(point.accuracy.n),
        ]
        for diagnostics in found
        for point in diagnostics.curve
    ]
    print_table(["model", "radius", "attack", "accuracy", "95 % interval", "images"], rows)
