"""`deatbench run`: train, evaluate, enter into the zoo, write the pages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import rich_click as click

from deatbench.cli import options


@click.command()
@options.training
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it might take; write nothing.")
@click.pass_context
def run(
    ctx: click.Context,
    arch: str,
    method: str,
    dataset: str,
    data_dir: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    epochs: int | None,
    seeds: str,
    device: str,
    threads: int | None,
    home: Path,
    out: Path | None,
    resume: bool,
    fresh: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Train a model, measure its robustness, and put it on the leaderboards.

    The best and the last checkpoint are both evaluated: PGD-20, CW-20, and AutoAttack on the best. Everything lands
    in the working folder: runs/, model_zoo/, leaderboards/. A run that was interrupted is continued by the same command.

    \b
    Examples:
      deatbench run --arch vgg16 --method deat
      deatbench run --arch preact_resnet18 --method pgd-at --dataset cifar10 --data-dir ~/data --seed 0,1,2
      deatbench run --arch vgg16 --method trades --set method.beta=3 --set arch.width=0.5 --epochs 10
      deatbench run --arch vgg16 --method deat --recipe paper --dry-run
    """
    from deatbench.cli.configuring import Asked, configurations
    from deatbench.cli.machine import data_on_stdout, make_machine
    from deatbench.cli.monitor import make_monitor

    machine = make_machine(ctx, home=out or home, device=device, data_dir=data_dir, threads=threads)
    asked = Asked(arch, method, dataset, recipe, overrides, epochs, seeds, resume, fresh)
    with data_on_stdout():
        configs = configurations(asked, machine)
    if dry_run:
        from deatbench.cli.forecast import print_forecast

        print_forecast(configs, machine, as_json)
        return

    from deatbench import pipeline
    from deatbench.report import build_leaderboards

    results = []
    with data_on_stdout():
        for config in configs:
            with make_monitor(f"seed {config.seed}  " if len(configs) > 1 else "") as monitor:
                results.append(pipeline.run(config, machine, fresh=fresh, monitor=monitor))
        pages = build_leaderboards(machine.home)
    records = [record for result in results for record in result.evaluations]
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
    else:
        from deatbench.cli.tables import print_evaluations

        print_evaluations(records)
    for result in results:
        print(f"zoo entry: {result.zoo_entry}", file=sys.stderr)
    index = next((page for page in pages if page.name == "index.html"), machine.home.leaderboards)
    print(f"pages:     {index}  (deatbench leaderboard serve shows them)", file=sys.stderr)
