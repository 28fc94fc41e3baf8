"""`deatbench verify`: re-check a record in one pass, without attacking."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from deatbench.cli import options
from deatbench.cli.record_argument import evaluation_file

if TYPE_CHECKING:
    from deatbench.pipeline import Machine
    from deatbench.pipeline.checks import Check
    from deatbench.records import EvaluationRecord


@dataclass(frozen=True)
class Asked:
    """What the command line asked for, as typed."""

    record: str
    model: str | None
    data_dir: Path | None
    batch_size: int
    sample: int
    attest: bool
    device: str
    threads: int | None
    home: Path
    as_json: bool


@click.command()
@click.argument("record", metavar="RECORD")
@click.argument("model", required=False)
@options.data_dir
@click.option("--batch-size", type=click.IntRange(min=1), default=500, show_default=True, help="Images at a time.")
@click.option(
    "--sample", type=click.IntRange(min=0), default=0, metavar="K", help="Also attack K of the images called robust."
)
@click.option("--attest", is_flag=True, help="Write what was found beside the record, for the pages.")
@options.device
@options.threads
@options.home
@options.as_json
@click.pass_context
def verify(ctx: click.Context, **given: Any) -> None:
    """Re-check an evaluation's record in one pass, without attacking.

    Model and data set must be those of the record, every clean verdict must come out again, and every stored
    adversarial image must lie in the ball and in [0, 1] and be misclassified. Broken verdicts without stored images
    stay unproven (`deatbench eval --save-adversarials` stores them).

    Certified robust verdicts are proved again. For others there is no proof: --sample 300 attacks 300 with the record's
    first attack and a new seed. If none falls, it breaks less than 1 % of them all, with 95 % confidence.

    --attest writes what was found into verifications/ beside the record's folder, failures too; otherwise nothing is
    written. On the pages a record is then

    \b
      self-reported    nobody looked again, or nothing was proven
      re-run           `deatbench reproduce --attest`: the recipe gave the same
                       verdicts, or others within chance
      proof verified   `deatbench verify --attest`: every check passed, so each
                       broken verdict has an adversarial image that holds

    RECORD is the file of an evaluation or its id, or a model of the zoo or a run that was evaluated once. MODEL is as
    for `deatbench eval`; without it, it is the run or zoo model that the record lies beside.
    Exit code 3 if anything does not hold, 4 if model, images or archive are missing.

    \b
    Examples:
      deatbench verify runs/digits-vgg16-deat-3f2a91-s0/evaluations/best-0a1b2c3d.json
      deatbench verify evaluations/my-net-77aa00ff.json ./my.py:net --sample 300
      deatbench verify record.json zoo:digits-vgg16-deat-3f2a91-s0 --json
      deatbench verify evaluations/my-net-77aa00ff.json ./my.py:net --attest
    """
    from deatbench.pipeline.verification import raise_if_failed, read_evaluation
    from deatbench.store import Home

    asked = Asked(**given)
    path = evaluation_file(asked.record, Home(asked.home.expanduser()))
    record = read_evaluation(path)
    checks = _look_again(ctx, asked, path, record)
    _show(record, checks, asked.as_json)
    raise_if_failed(checks, path)


def _look_again(ctx: click.Context, asked: Asked, path: Path, record: EvaluationRecord) -> list[Check]:
    """All checks of the record at `path`; what they found is written beside it where that is asked for."""
    from deatbench.cli.machine import check_writable, make_machine
    from deatbench.pipeline.verification import attestation
    from deatbench.store import second_look, sha256_of, write_record

    record_sha256, beside = sha256_of(path), second_look(path, "verifications", record.id)
    if asked.attest:
        check_writable(beside.parent)
    machine = make_machine(ctx, home=asked.home, device=asked.device, data_dir=asked.data_dir, threads=asked.threads)
    checks = _check(asked, path, record, machine)
    if asked.attest:
        write_record(beside, attestation(record, record_sha256, checks, machine.device))
        print(f"attested: {beside}", file=sys.stderr)
    return checks


def _check(asked: Asked, path: Path, record: EvaluationRecord, machine: Machine) -> list[Check]:
    from deatbench.cli.downloading import load_data
    from deatbench.cli.machine import data_on_stdout
    from deatbench.cli.monitor import make_monitor
    from deatbench.pipeline import verification
    from deatbench.pipeline.provenance import evaluated_model

    with data_on_stdout():
        data = load_data(record.dataset.name, machine)
        loaded = evaluated_model(record, path, data, machine.home, machine.device, asked.model)
        with make_monitor() as monitor:
            return verification.verify(
                record,
                path,
                loaded,
                data,
                machine.device,
                batch_size=asked.batch_size,
                sample=asked.sample,
                monitor=monitor,
            )


def _show(record: EvaluationRecord, checks: Sequence[Check], as_json: bool) -> None:
    from deatbench.cli.tables import print_table

    if as_json:
        print(json.dumps({"record": record.id, "checks": [asdict(found) for found in checks]}, indent=1))
    else:
        print_table(["check", "result", "what was found"], [[c.name, c.status.value, c.detail] for c in checks])
