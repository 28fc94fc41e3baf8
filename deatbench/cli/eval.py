"""`deatbench eval`: attack a model and record what it withstood."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rich_click as click

from deatbench.cli import options
from deatbench.errors import ConfigError

if TYPE_CHECKING:
    from deatbench.engine.distributed import Processes
    from deatbench.models import LoadedModel
    from deatbench.pipeline import EvaluationRequest, Machine
    from deatbench.records import Checkpoint, EvaluationRecord

DEFAULT_ATTACKS = ("pgd-20", "cw-20")


@dataclass(frozen=True)
class Asked:
    """What the command line asked for, as typed."""

    model: str | None
    dataset: str | None
    data_dir: Path | None
    norm: str | None
    eps: str | None
    autoattack: bool
    attacks: str | None
    engine: Literal["reference", "fast"]
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    compiled: bool | None
    draws: Literal["own", "published"]
    eps_sweep: str | None
    certificates: bool
    surrogate: str | None
    save_adversarials: bool
    n: int | None
    batch_size: int | None
    seed: int
    checkpoint: Checkpoint | None
    arch: str | None
    overrides: tuple[str, ...]
    device: str
    threads: int | None
    home: Path
    out: Path | None
    fresh: bool
    as_json: bool


@click.command("eval")
@click.argument("model", required=False)
@options.model_dataset
@options.data_dir
@options.norm
@options.eps
@click.option("--autoattack", is_flag=True, help="Also AutoAttack, the standard version.")
@click.option("--attacks", metavar="LIST", help="Instead of pgd-20,cw-20; `deatbench ls attacks` lists all.")
@click.option("--eps-sweep", metavar="LIST", help="More radii, for a robustness curve, such as 2/255,4/255,16/255.")
@click.option("--surrogate", metavar="MODEL", help="For --attacks transfer: the network its images are made on.")
@click.option(
    "--save-adversarials", is_flag=True, help="Store adversarial images: `verify` then proves broken verdicts."
)
@click.option(
    "--engine",
    type=click.Choice(["fast", "reference"]),
    default="fast",
    show_default=True,
    help="Whose code runs AutoAttack: fast is ours, reference is pyautoattack.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic in which our attacks search; float32 decides every verdict.",
)
@click.option(
    "--compile/--no-compile", "compiled", default=None, help="torch.compile; default: on a GPU where it pays."
)
@click.option(
    "--draws",
    type=click.Choice(["own", "published"]),
    default="own",
    show_default=True,
    help="Random numbers: each image's own, or pyautoattack's, for its verdicts one by one at equal --batch-size.",
)
@click.option(
    "--certificates/--no-certificates",
    default=True,
    show_default=True,
    help="Spare images the attacks that a bound proves robust: the same verdicts, sooner (Linf, small networks, CPU).",
)
@click.option("--n", "--images", "n", type=click.IntRange(min=1), help="The first N test images; default: all.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images, or (image, target) pairs, at once; default: 500, GPU 4000.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="For the attacks.")
@click.option(
    "--checkpoint",
    type=click.Choice(["best", "last", "ema", "swa", "shifted"]),
    help="Which weights of a run; default: best.",
)
@click.option("--arch", metavar="A", help="Architecture of a weight file that does not say it itself.")
@click.option("--set", "overrides", multiple=True, metavar="arch.KEY=VALUE", help="A parameter of --arch.")
@options.device
@options.threads
@options.home
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the record; default: beside the model.")
@click.option("--fresh", is_flag=True, help="Start over instead of continuing a stopped evaluation.")
@options.as_json
@click.pass_context
def evaluate(ctx: click.Context, **given: Any) -> None:
    """Attack a model and record which images withstood.

    Without MODEL it is the run that finished last. MODEL is a run folder or its name, a .safetensors or .pt file,
    zoo:ID, pkg.module:factory, ./file.py:factory (a function without arguments that returns a torch module taking
    [0, 1] images), robustbench:Key@cifar10/Linf, or timm:NAME. What a model was trained for is its default data set,
    norm and eps.

    Stopped or killed, the same command continues and ends with the same verdicts.

    \b
    Examples:
      deatbench eval --autoattack
      deatbench eval ./my.py:net --dataset cifar10 --eps 8/255 --autoattack --n 1000 --json
      deatbench eval net.pt --arch resnet18 --dataset cifar10 --eps 8/255 --attacks pgd-100
      deatbench eval zoo:digits-vgg16-deat-3f2a91-s0 --eps 0.1 --eps-sweep 0.05,0.2 --save-adversarials
      torchrun --nproc-per-node 4 -m deatbench eval --autoattack --images 1000     (four processes share it)
    """
    from deatbench.cli.machine import make_machine
    from deatbench.cli.together import together
    from deatbench.errors import InterruptedRun

    asked = Asked(**given)
    request = _request(asked)
    machine = make_machine(ctx, home=asked.home, device=asked.device, data_dir=asked.data_dir, threads=asked.threads)
    with together(machine) as team:
        record, path, interrupted = _measure(machine, asked, request, team)
        print(f"record: {path}", file=sys.stderr)
        _show(record, asked.as_json)
        if interrupted:
            raise InterruptedRun("evaluation stopped: the record is provisional", "the same command continues")


def _measure(
    machine: Machine, asked: Asked, request: EvaluationRequest, team: Processes
) -> tuple[EvaluationRecord, Path, bool]:
    """(record, where it was written, whether it was interrupted)."""
    from deatbench import pipeline
    from deatbench.cli.downloading import load_data
    from deatbench.cli.machine import data_on_stdout
    from deatbench.cli.model_argument import check_arch, check_checkpoint, dataset_for, load_named, threat_for
    from deatbench.cli.monitor import make_monitor
    from deatbench.engine.shards import shards
    from deatbench.records import check_radius

    with data_on_stdout():
        data = load_data(asked.dataset, machine) if asked.dataset else None
        checkpoint = asked.checkpoint or "best"
        loaded = load_named(asked.model, machine, checkpoint, asked.arch, asked.overrides, data)
        check_checkpoint(asked.checkpoint, loaded)
        threat = threat_for(loaded, asked.norm, asked.eps)
        for text in request.eps_sweep:
            check_radius(threat.norm, text)
        folders = _record_folders(loaded, machine, asked.out)
        data = data or load_data(dataset_for(loaded, asked.dataset), machine)
        if request.n is not None and request.n > len(data.test):
            print(f"note: {data.name} has {len(data.test)} test images, all are taken", file=sys.stderr)
        if asked.surrogate is not None:
            surrogate = load_named(asked.surrogate, machine, checkpoint, asked.arch, asked.overrides, data)
            surrogate.module.to(machine.device)
            request = replace(request, surrogate=surrogate)
        check_arch(asked.arch, *filter(None, (loaded, request.surrogate)))
        with make_monitor() as monitor:
            done = pipeline.evaluate(loaded, data, threat, request, machine, monitor=monitor, shards=shards(team))
        path = done.write(folders) if team.rank == 0 else folders[0]
    return done.record, path, done.interrupted


def _request(asked: Asked) -> EvaluationRequest:
    """The request, with every name and number in it checked before anything is loaded."""
    from deatbench.attacks import make_attack
    from deatbench.pipeline import EvaluationRequest
    from deatbench.records import parse_eps

    names = chosen_attacks(asked.attacks, asked.autoattack)
    radii = options.parse_names(asked.eps_sweep)
    for text in (*radii, *([] if asked.eps is None else [asked.eps])):
        parse_eps(text)
    if ("transfer" in names) != (asked.surrogate is not None):
        raise ConfigError("--attacks transfer and --surrogate MODEL go together", "name both")
    for name in names:
        if name != "transfer":
            make_attack(name)
    return EvaluationRequest(
        tuple(names),
        n=asked.n,
        seed=asked.seed,
        batch_size=asked.batch_size,
        engine=asked.engine,
        precision=asked.precision,
        compiled=asked.compiled,
        draws=asked.draws,
        certificates=asked.certificates,
        eps_sweep=tuple(radii),
        save_adversarials=asked.save_adversarials,
        fresh=asked.fresh,
    )


def _show(record: EvaluationRecord, as_json: bool) -> None:
    if as_json:
        print(record.model_dump_json(indent=1))
        return
    from deatbench.cli.tables import print_evaluations
    from deatbench.report.wording import proved_robust

    print_evaluations([record])
    if proved := proved_robust(record):
        print(f"certificates: {proved}; no attack can break them", file=sys.stderr)


def chosen_attacks(attacks: str | None, autoattack: bool) -> list[str]:
    """The attacks to run: those listed, else the default ones, and AutoAttack where asked for."""
    names = options.parse_names(attacks) if attacks is not None else list(DEFAULT_ATTACKS)
    if not names:
        raise ConfigError("--attacks names no attack", "for example --attacks pgd-20,autoattack")
    return [*names, "autoattack"] if autoattack and "autoattack" not in names else names


def _record_folders(model: LoadedModel, machine: Machine, out: Path | None) -> list[Path]:
    """Beside the model, and in the zoo if the model is there, so that the leaderboards see it."""
    from deatbench.cli.machine import check_writable

    folders = [out or model.evaluations or machine.home.evaluations]
    if out is None and model.evaluations is not None:
        folders += [entry / "evaluations" for entry in machine.home.zoo_entries() if entry.name == model.name]
    for folder in folders:
        check_writable(folder)
    return list({folder.resolve(): folder for folder in folders}.values())
