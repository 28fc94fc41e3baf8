"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import rich_click as click

from deatbench.errors import ConfigError, MissingError


def _home(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    """The command's own --home, else the one before the command (which also reads DEATBENCH_HOME)."""
    inherited: Path = ctx.find_root().params.get("home") or Path()
    return value or inherited


def _existing_home(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    """As `_home`. Raises MissingError if there is no such folder: one mistyped has no fault and no models either."""
    folder = _home(ctx, parameter, value)
    if not folder.expanduser().is_dir():
        raise MissingError(f"no folder {folder}", "--home names the working folder")
    return folder


def _home_option(callback: Callable[[click.Context, click.Parameter, Path | None], Path]) -> Callable[..., Any]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        callback=callback,
        help="Working folder (also DEATBENCH_HOME; default: here).",
    )


home = _home_option(_home)
existing_home = _home_option(_existing_home)
data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder that holds data sets (also DEATBENCH_DATA)."
)
model_dataset = click.option(
    "--dataset", metavar="D", help="Data set; default: the one that the model was trained for."
)
norm = click.option(
    "--norm",
    type=click.Choice(["Linf", "L2", "L1"]),
    help="Norm of the ball; default: the one trained for, else Linf.",
)
eps = click.option(
    "--eps", metavar="E", help="Radius, for pixels in [0, 1], such as 8/255; default: the one trained for."
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: torch's own choice.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of a table.")


@dataclass(frozen=True)
class Asked:
    """What the command line of `run` or `train` asked for, as typed."""

    arch: str
    method: str
    dataset: str
    data_dir: Path | None
    recipe: str | None
    overrides: tuple[str, ...]
    epochs: int | None
    seeds: str
    device: str
    threads: int | None
    home: Path
    out: Path | None
    resume: bool
    fresh: bool
    track: str
    as_json: bool


def training(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what is trained: those of `run` and `train`, handed over as one `asked`."""

    @functools.wraps(command)
    def function(**given: Any) -> None:
        asked = Asked(**{field.name: given.pop(field.name) for field in fields(Asked)})
        command(asked=asked, **given)

    for option in reversed(
        (
            click.option("--arch", required=True, metavar="A", help="Architecture; `deatbench ls archs`."),
            click.option("--method", required=True, metavar="M", help="Training method; `deatbench ls methods`."),
            click.option(
                "--dataset",
                default="auto",
                show_default=True,
                metavar="D",
                help="Data set; auto is CIFAR-10 where it is found, else the embedded digits.",
            ),
            data_dir,
            click.option("--recipe", metavar="R", help="Recipe by name or .yaml file; default: fits data and device."),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe."
            ),
            click.option("--epochs", type=int, metavar="N", help="Length of the training."),
            click.option("--seed", "seeds", default="0", show_default=True, metavar="S", help="One or more: 0,1,2."),
            device,
            threads,
            home,
            click.option("--out", type=click.Path(path_type=Path), help="Working folder of this command, as --home."),
            click.option("--resume", is_flag=True, help="Continue an interrupted run (also done without asking)."),
            click.option("--fresh", is_flag=True, help="Start over even if this run was begun or finished before."),
            click.option(
                "--track", default="", metavar="LIST", help="Show every epoch's metrics in tensorboard, trackio, wandb."
            ),
            as_json,
        )
    ):
        function = option(function)
    return function


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as numbers. Raises ConfigError unless they are distinct whole numbers >= 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--seed {text!r} is not a list of whole numbers", "for example --seed 0,1,2")
    if len({int(part) for part in parts}) < len(parts):
        raise ConfigError(f"--seed {text!r} names a seed twice")
    return [int(part) for part in parts]


def parse_names(text: str | None) -> list[str]:
    """`pgd-20,cw-20` as names, without repeats."""
    names = [name.strip() for name in (text or "").split(",")]
    return list(dict.fromkeys(name for name in names if name))
