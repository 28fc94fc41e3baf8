"""`deatbench train`: the first half of `run`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options

if TYPE_CHECKING:
    from deatbench.pipeline import Machine
    from deatbench.records import TrainingRecord


@click.command()
@options.training
@click.pass_context
def train(ctx: click.Context, asked: options.Asked) -> None:
    """Train a model and keep its best and last weights.

    It is the first half of `deatbench run`, which then measures and publishes. Killed at any moment, the same command
    continues it and ends with the same weights.

    \b
    Examples:
      deatbench train --arch resnet8 --method standard --dataset digits
      deatbench train --arch vgg16 --method deat --seed 0,1,2 --set optimizer.lr=0.3
      deatbench train --arch vgg16 --method pgd-at --track tensorboard
      torchrun --nproc-per-node 4 -m deatbench train --arch vgg16      (four processes share each batch)
    """
    from deatbench import pipeline
    from deatbench.cli.configuring import configurations, training_machine
    from deatbench.cli.downloading import fetch_if_missing
    from deatbench.cli.machine import check_writable, data_on_stdout
    from deatbench.cli.monitor import make_monitor
    from deatbench.cli.together import together
    from deatbench.records import TrainingRecord
    from deatbench.store import read_record
    from deatbench.trackers import Trackers, make_trackers

    machine = training_machine(ctx, asked)
    with together(machine) as team:
        records = []
        with data_on_stdout():
            configs = configurations(asked, machine)
            trackers = make_trackers(options.parse_names(asked.track))
            check_writable(machine.home.runs)
            team.first(lambda: fetch_if_missing(configs[0].dataset, machine))
            for config in configs:
                with make_monitor() as monitor:
                    following = Trackers(trackers, monitor.note)
                    folder = pipeline.train(
                        config, machine, fresh=asked.fresh, monitor=monitor, trackers=following, processes=team
                    )
                records.append(read_record(folder.training, TrainingRecord))
        _show(records, machine, asked.as_json)


def _show(records: list[TrainingRecord], machine: Machine, as_json: bool) -> None:
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
    else:
        from deatbench.cli.tables import print_trainings

        print_trainings(records)
    print(f"runs: {machine.home.runs}  (deatbench eval --autoattack measures the latest)", file=sys.stderr)
