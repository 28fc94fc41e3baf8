"""`deatbench sweep`: many runs from one file; `deatbench sweep status`: how far they are."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options
from deatbench.errors import DeatbenchError, InterruptedRun, MissingError, UnknownNameError

if TYPE_CHECKING:
    from deatbench.sweep import Executor, Ledger, Standing, Surroundings, Sweep


class _RunUnlessNamed(click.RichGroup):
    """`deatbench sweep FILE` is `deatbench sweep run FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with the command that is meant put in front."""
        return super().parse_args(ctx, args if args[:1] and args[0] in self.commands else ["run", *args])


@click.group(cls=_RunUnlessNamed)
def sweep() -> None:
    """Do many runs from one file."""


@sweep.command()
@click.argument("name", metavar="SWEEP")
@click.option("--executor", default="local", show_default=True, metavar="E", help="Who does the runs.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Runs at once; default: as many as fit.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Of a run that failed; none of one that diverged.",
)
@options.device
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a run; default: its share of the cores.")
@options.data_dir
@options.home
@click.option("--dry-run", is_flag=True, help="Say how many runs are left and how long they take; write nothing.")
@options.as_json
def run(
    name: str,
    executor: str,
    jobs: int | None,
    retries: int,
    device: str,
    threads: int | None,
    data_dir: Path | None,
    home: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Do all runs of a sweep: a grid, a list or a random sample of points.

    SWEEP is a shipped one (`deatbench ls sweeps`) or a .yaml file. Each point is trained and attacked like any other
    run, in runs/; what came out of all lies in sweeps/. Interrupted, killed or failed, the same command does what is
    missing. `deatbench sweep status SWEEP` says how far it is.

    \b
    Examples:
      deatbench sweep deat-k1k2-digits --dry-run
      deatbench sweep deat-k1k2-digits --jobs 2
      deatbench sweep mine.yaml --device cuda --home /scratch/me
      RAY_ADDRESS=head:6379 deatbench sweep mine.yaml --executor ray
      DEATBENCH_SLURM="partition=gpu time=120" deatbench sweep mine.yaml --executor slurm
      deatbench sweep status deat-k1k2-digits
    """
    from deatbench.cli.machine import data_on_stdout
    from deatbench.store import Home
    from deatbench.sweep import EXECUTORS, Ledger, Needs, Surroundings, load_sweep

    asked = load_sweep(name)
    _check_report(asked)
    ledger, resources = Ledger(Home(home.expanduser()), asked.name), asked.spec.resources
    make = EXECUTORS[executor]
    with data_on_stdout():
        device = _device(device, executor, resources.gpus)
        around = Surroundings(device.partition(":")[0], _folder(data_dir))
        workers = make(Needs(ledger.folder, jobs, threads, device, resources.cpus, resources.gpus))
    if dry_run:
        from deatbench.cli.sweep_forecast import forecast, print_forecast

        with data_on_stdout(), workers:
            found = forecast(asked, ledger, around, workers)
        print_forecast(found, as_json)
        return
    with data_on_stdout():
        standing = _done(asked, ledger, around, workers, retries)
    _tell(name, ledger, standing, as_json)


def _check_report(asked: Sweep) -> None:
    """Raises UnknownNameError on a report that nobody writes: better now than after the runs."""
    from deatbench.report.sweeps.page import KINDS

    kind = asked.spec.report
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("report", kind, KINDS, f"known: {', '.join(KINDS)}; without one, a table per axis")


def _device(device: str, executor: str, gpus: float) -> str:
    """The device asked for, auto resolved. Raises ConfigError if it is not on this machine, where that matters."""
    from deatbench.engine.environment import choose_device

    if executor == "local":
        return str(choose_device(device))
    return ("cuda" if gpus else "cpu") if device == "auto" else device  # nobody knows yet where it will be done


def _folder(data_dir: Path | None) -> Path | None:
    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise MissingError(f"there is no folder {data_dir} (--data-dir)")
    return data_dir and data_dir.expanduser()


def _done(asked: Sweep, ledger: Ledger, around: Surroundings, workers: Executor, retries: int) -> Standing:
    """Do what is missing. Raises InterruptedRun when told to stop, all that is done being kept."""
    import torch

    from deatbench.cli.downloading import fetch_if_missing
    from deatbench.cli.machine import check_writable
    from deatbench.cli.sweep_screen import counts, watching
    from deatbench.pipeline import Machine
    from deatbench.sweep import Driver

    check_writable(ledger.folder)
    if ledger.differs(asked):
        print(f"note: {ledger.sweep} was another file: its results give way, its runs are kept", file=sys.stderr)
    plan = ledger.plan(asked, around)  # all that can be wrong is, before anything is written
    for dataset in sorted({str(point.asked["dataset"]) for point in asked}):
        fetch_if_missing(dataset, Machine(ledger.home, torch.device("cpu"), around.data_dir))
    with ledger.locked():
        try:
            with watching(asked.name) as watch, workers:
                driver = Driver(asked, plan, ledger, around, retries=retries, watch=watch)
                return driver.run(workers)
        except KeyboardInterrupt:
            standing = ledger.standing()
            raise InterruptedRun(f"stopped: {counts(standing)}", "the same command continues") from None


def _tell(name: str, ledger: Ledger, standing: Standing, as_json: bool) -> None:
    """What has come of it. Raises DeatbenchError where runs have failed."""
    from deatbench.cli.sweep_screen import print_standing

    print_standing(ledger, standing, as_json)
    if standing.failed:
        message = f"{len(standing.failed)} of {standing.runs} runs failed; the others are finished"
        if all(failure.lasting for failure in standing.failed.values()):
            hint = (
                f"they would fail alike again: {ledger.failures} says why; without its file there a run is tried anew"
            )
            raise DeatbenchError(message, hint)
        again = f"deatbench sweep {shlex.quote(name)} tries again what may go well"
        raise DeatbenchError(message, f"{again}, {ledger.failures} says why")
    print(f"results: {ledger.results}", file=sys.stderr)


@sweep.command()
@click.argument("name", metavar="SWEEP|DIR")
@options.home
@options.as_json
def status(name: str, home: Path, as_json: bool) -> None:
    """Say how far a sweep is: finished, running, failed, left. Writes nothing.

    \b
    Examples:
      deatbench sweep status deat-k1k2-digits
      deatbench sweep status sweeps/mine --json
    """
    from deatbench.cli.sweep_screen import print_standing
    from deatbench.store import Home
    from deatbench.sweep import Ledger, load_sweep

    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        ledger = Ledger(Home(folder.parent.parent), folder.name)
        if ledger.folder != folder:
            raise MissingError(f"{name} is no sweep's folder", "it is <home>/sweeps/<name>")
    else:
        asked = load_sweep(name)
        ledger = Ledger(Home(home.expanduser()), asked.name)
        if ledger.differs(asked):
            print(f"note: {name} has changed since; this is the sweep as it was begun", file=sys.stderr)
    print_standing(ledger, ledger.standing(), as_json)
