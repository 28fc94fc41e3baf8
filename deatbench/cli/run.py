"""`deatbench run`: train, evaluate, enter into the zoo, write the pages."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options

if TYPE_CHECKING:
    from deatbench.config import RunConfig
    from deatbench.engine.distributed import Processes
    from deatbench.pipeline import Machine, RunResult
    from deatbench.records import EvaluationRecord
    from deatbench.trackers import Tracker


@click.command()
@options.training
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it might take; write nothing.")
@click.pass_context
def run(ctx: click.Context, asked: options.Asked, dry_run: bool) -> None:
    """Train a model, attack it, publish the result.

    Best and last weights, and averages where there are any, are all evaluated: by PGD-20 and CW-20, those that
    validation prefers by AutoAttack too. Everything lands in the working folder: runs/, model_zoo/, leaderboards/. The
    same command continues a run that was interrupted.

    \b
    Examples:
      deatbench run --arch vgg16 --method deat
      deatbench run --arch preact_resnet18 --method pgd-at --dataset cifar10 --data-dir ~/data --seed 0,1,2
      deatbench run --arch vgg16 --method trades --set method.beta=3 --set arch.width=0.5 --epochs 10
      deatbench run --arch vgg16 --method deat --recipe paper --dry-run
    """
    from deatbench.cli.configuring import configurations, training_machine
    from deatbench.cli.machine import data_on_stdout
    from deatbench.cli.together import together
    from deatbench.trackers import make_trackers

    machine = training_machine(ctx, asked)
    with together(machine) as team:
        with data_on_stdout():
            configs = configurations(asked, machine)
            trackers = make_trackers(options.parse_names(asked.track))
        if dry_run:
            from deatbench.cli.forecast import print_forecast

            print_forecast(configs, machine, asked.as_json)
            return
        with data_on_stdout():
            results = _run_all(configs, machine, asked.fresh, trackers, team)
        _show([record for result in results for record in result.evaluations], asked.as_json)
        _say_where(results, machine)


def _show(records: list[EvaluationRecord], as_json: bool) -> None:
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
    else:
        from deatbench.cli.tables import print_evaluations

        print_evaluations(records)


def _run_all(
    configs: list[RunConfig], machine: Machine, fresh: bool, trackers: dict[str, Tracker], team: Processes
) -> list[RunResult]:
    """Every seed in turn, then the pages."""
    from deatbench import pipeline
    from deatbench.cli.downloading import fetch_if_missing
    from deatbench.cli.machine import check_writable
    from deatbench.cli.monitor import make_monitor
    from deatbench.report import build_leaderboards
    from deatbench.trackers import Trackers

    check_writable(machine.home.runs)
    team.first(lambda: fetch_if_missing(configs[0].dataset, machine))
    results = []
    for config in configs:
        with make_monitor(f"seed {config.seed}  " if len(configs) > 1 else "") as monitor:
            following = Trackers(trackers, monitor.note)
            results.append(
                pipeline.run(config, machine, fresh=fresh, monitor=monitor, trackers=following, processes=team)
            )
    team.first(lambda: build_leaderboards(machine.home))
    return results


def _say_where(results: list[RunResult], machine: Machine) -> None:
    for result in results:
        print(f"zoo entry: {result.zoo_entry}", file=sys.stderr)
    at = "" if machine.home.path == Path() else f" --home {shlex.quote(str(machine.home.path))}"
    print(f"pages: {machine.home.leaderboards / 'index.html'}", file=sys.stderr)
    print(f"next: deatbench leaderboard serve{at} · deatbench eval --autoattack{at}", file=sys.stderr)
