"""`deatbench reproduce`: run a record's recipe again and compare."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from deatbench.cli import options
from deatbench.cli.record_argument import evaluation_file, zoo_entry
from deatbench.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from deatbench.cli.forecast import Stage
    from deatbench.data import Dataset
    from deatbench.engine.distributed import Processes
    from deatbench.models import LoadedModel
    from deatbench.pipeline import Machine
    from deatbench.pipeline.reproduction import Difference
    from deatbench.records import EvaluationRecord
    from deatbench.store import Home


@dataclass(frozen=True)
class Asked:
    """What the command line asked for, as typed."""

    record: str
    model: str | None
    evaluate_only: bool
    attest: bool
    dry_run: bool
    data_dir: Path | None
    device: str
    threads: int | None
    home: Path
    out: Path | None
    fresh: bool
    as_json: bool


@click.command()
@click.argument("record", metavar="RECORD")
@click.argument("model", required=False)
@click.option("--evaluate-only", is_flag=True, help="Evaluate the weights at hand again instead of training anew.")
@click.option("--attest", is_flag=True, help="Write what came out beside the record, for the pages.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it might take; write nothing.")
@options.data_dir
@click.option("--device", help="auto, cpu, cuda or cuda:N; default: the kind that the record was made on.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: as many as on record.")
@options.home
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the second run; default: HOME/reproductions.")
@click.option("--fresh", is_flag=True, help="Start over even if this was begun or finished before.")
@options.as_json
@click.pass_context
def reproduce(ctx: click.Context, **given: Any) -> None:
    """Train and attack a model again as its record says, and say whether the same comes out.

    RECORD is the file or id of an evaluation, or the id of a zoo model, for the evaluation that ranks it. Training
    starts from nothing with the record's recipe and seed; then come its attacks with their seed, images, engine and
    draws.
    What came out is called

    \b
      match             every verdict is equal
      within interval   no accuracy differs by more than chance: exact McNemar
                        tests on the same images, 5 % for all together (Holm)
      mismatch          some accuracy differs by more; exit code 3

    The same bits take the same torch, processor, number of threads and revision of deatbench; what is otherwise here is
    said beforehand.
    --evaluate-only repeats the attacks alone, on the weights of the run or zoo entry that the record lies beside, or on
    MODEL. --attest writes the outcome, whichever it is, into reproductions/ beside the record's folder; see `deatbench
    verify --help` for what the pages make of it. Stopped or killed, the same command continues.

    \b
    Examples:
      deatbench reproduce zoo:digits-vgg16-deat-3f2a91-s0 --dry-run
      deatbench reproduce digits-vgg16-deat-3f2a91-s0 --threads 1 --attest
      deatbench reproduce evaluations/my-net-77aa00ff.json ./my.py:net --evaluate-only
    """
    from deatbench.cli.outcome import say_differences
    from deatbench.cli.together import together
    from deatbench.pipeline.reproduction import differences, recipe_of, request_of
    from deatbench.pipeline.verification import read_evaluation
    from deatbench.store import Home, sha256_of

    asked = Asked(**given)
    if asked.model is not None and not asked.evaluate_only:
        raise ConfigError("MODEL goes with --evaluate-only", "without it, the record's recipe is trained")
    path = _record_path(asked.record, Home(asked.home.expanduser()))
    record, record_sha256 = read_evaluation(path), sha256_of(path)
    request_of(record)
    if not asked.evaluate_only:
        recipe_of(record)
    machine = _machine(ctx, asked, record)
    with together(machine) as team:
        found = differences(record, machine, team)
        say_differences(found, record)
        _run(asked, path, record, record_sha256, machine, found, team)


def _record_path(name: str, home: Home) -> Path:
    """The evaluation that `name` stands for; of a zoo model's the one that ranks it."""
    from deatbench.report.model.zoo import ZooModel

    entry = zoo_entry(name, home)
    if entry is None or Path(name).expanduser().exists():
        return evaluation_file(name, home)
    deciding = ZooModel.read(entry).deciding
    if deciding is None:
        raise MissingError(f"{entry.name} has no evaluation yet", f"deatbench eval zoo:{entry.name} --autoattack")
    return entry / "evaluations" / f"{deciding.id}.json"


def _machine(ctx: click.Context, asked: Asked, record: EvaluationRecord) -> Machine:
    """The machine of the second run: as like the record's as this one can be, with a working folder of its own."""
    from deatbench.cli.machine import make_machine

    device = asked.device or ("cpu" if record.env.device == "cpu" else "auto")
    threads = asked.threads or (min(record.env.threads, os.cpu_count() or 1) if device == "cpu" else None)
    out = asked.out or asked.home / "reproductions"
    return make_machine(ctx, home=out, device=device, data_dir=asked.data_dir, threads=threads)


def _run(
    asked: Asked,
    path: Path,
    record: EvaluationRecord,
    record_sha256: str,
    machine: Machine,
    found: list[Difference],
    team: Processes,
) -> None:
    """Forecast, work, verdict."""
    from deatbench.cli.downloading import load_data
    from deatbench.cli.machine import check_writable, data_on_stdout
    from deatbench.cli.monitor import make_monitor
    from deatbench.cli.outcome import say_cost, show_forecast, show_outcome
    from deatbench.pipeline.reproduction import repeat, reproduction
    from deatbench.store import second_look, write_record

    beside = second_look(path, "reproductions", record.id)
    with data_on_stdout():
        data = load_data(record.dataset.name, machine, download=not asked.dry_run)
        model = _model(asked, path, record, data, machine) if asked.evaluate_only else None
        stages = _forecast(record, data, machine, asked.evaluate_only)
    if asked.dry_run:
        show_forecast(stages, record, found, asked.as_json)
        return
    for folder in (machine.home.path, *([beside.parent] if asked.attest else [])):
        check_writable(folder)
    say_cost(stages)
    with data_on_stdout(), make_monitor() as monitor:
        second, seconds = repeat(
            record, record_sha256, data, machine, model=model, fresh=asked.fresh, monitor=monitor, processes=team
        )
    result = reproduction(record, record_sha256, second, seconds, machine, retrained=not asked.evaluate_only)
    if asked.attest and team.rank == 0:
        write_record(beside, result)
        print(f"attested: {beside}", file=sys.stderr)
    show_outcome(result, record, second, found, asked.as_json)


def _model(asked: Asked, path: Path, record: EvaluationRecord, data: Dataset, machine: Machine) -> LoadedModel:
    from deatbench.pipeline.provenance import evaluated_model
    from deatbench.store import Home

    return evaluated_model(record, path, data, Home(asked.home.expanduser()), machine.device, asked.model)


def _forecast(record: EvaluationRecord, data: Dataset, machine: Machine, evaluate_only: bool) -> list[Stage]:
    """The stages that are to be done, from the beginning; none for a network whose recipe nobody knows."""
    from deatbench.cli.forecast import stages_of
    from deatbench.config import EvaluationPlan
    from deatbench.data import load_dataset
    from deatbench.pipeline.reproduction import recipe_of

    if record.training is None:
        return []
    plan = EvaluationPlan(
        attacks=tuple(record.samples.robust), last_attacks=(), n=record.dataset.n, batch_size=record.batch_size
    )
    config = recipe_of(record).model_copy(update={"evaluation": plan})
    split = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction, download=False)
    stages = {stage.name: stage for stage in stages_of(config, split, machine.device)}
    evaluation = replace(stages["evaluation of best"], name=f"evaluation of {record.training.checkpoint}")
    return [evaluation] if evaluate_only else [stages["training"], stages["validation"], evaluation]
