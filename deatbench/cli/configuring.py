"""From the options of `run` and `train` to configurations, one per seed; and what is said about the choices made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli.machine import make_machine
from deatbench.cli.options import Asked, parse_seeds
from deatbench.errors import ConfigError

if TYPE_CHECKING:
    from deatbench.config import RunConfig
    from deatbench.pipeline import Machine


def training_machine(ctx: click.Context, asked: Asked) -> Machine:
    """The machine that `run` and `train` work on."""
    return make_machine(
        ctx, home=asked.out or asked.home, device=asked.device, data_dir=asked.data_dir, threads=asked.threads
    )


def configurations(asked: Asked, machine: Machine) -> list[RunConfig]:
    """The complete configuration of every seed; notices about choices that were not asked for go to stderr.

    Raises ConfigError, UnknownNameError or MissingError before anything is computed or written.
    """
    from deatbench import pipeline

    if asked.resume and asked.fresh:
        raise ConfigError("--resume and --fresh exclude each other", "continuing is the default")
    configs = []
    for seed in parse_seeds(asked.seeds):
        flags = {"seed": seed} | ({} if asked.epochs is None else {"epochs": asked.epochs})
        configs.append(
            pipeline.configure(
                arch=asked.arch,
                method=asked.method,
                dataset=asked.dataset,
                recipe=asked.recipe,
                overrides=asked.overrides,
                flags=flags,
                device=machine.device,
                data_dir=machine.data_dir,
            )
        )
    _notice_choices(asked, configs, machine)
    return configs


def _notice_choices(asked: Asked, configs: list[RunConfig], machine: Machine) -> None:
    first = configs[0]
    if asked.dataset == "auto" and first.dataset == "digits":
        _note(
            "data set digits (8x8, embedded), because CIFAR-10 is not on this machine; "
            "`deatbench data get cifar10` fetches it, --data-dir says where it is"
        )
    elif asked.dataset == "auto":
        _note(f"data set {first.dataset}, found on this machine; --dataset digits is the small embedded one")
    if asked.recipe is None:
        _note(f"recipe {first.recipe}, {first.epochs} epochs, on {machine.device}; --recipe chooses another")
    if asked.resume:
        for config in configs:
            folder = machine.home.run(config.run_id)
            if not folder.finished and not folder.checkpoints():
                _note(f"nothing to resume in {folder.path}; starting")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)
