"""`deatbench zoo`: the models that are kept."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options

if TYPE_CHECKING:
    from deatbench.pipeline.checks import Check
    from deatbench.records import ModelCard
    from deatbench.report.model.zoo import ZooModel
    from deatbench.store import Home, RunFolder


@click.group()
def zoo() -> None:
    """Look into the model zoo, check it, add to it.

    It lies in model_zoo/ of the working folder: cards, evaluations, and weights where they are small. In Python:
    `from deatbench import load_model; model = load_model("zoo:ID")`.

    \b
    Examples:
      deatbench zoo ls --dataset digits --method deat
      deatbench zoo show digits-vgg16-deat-3f2a91-s0
      deatbench zoo verify
      deatbench zoo add digits-vgg16-deat-3f2a91-s0
    """


@zoo.command("ls")
@click.option("--dataset", metavar="D", help="Only models of this data set.")
@click.option("--method", metavar="M", help="Only models trained by this method.")
@click.option("--arch", metavar="A", help="Only models of this architecture.")
@options.existing_home
@options.as_json
def list_models(dataset: str | None, method: str | None, arch: str | None, home: Path, as_json: bool) -> None:
    """List the models of the zoo, the most robust of each data set and threat first.

    Accuracies are those of the weights that the zoo keeps, under the threat on their card. Without AutoAttack a worst
    case is but an upper bound.

    \b
    Examples:
      deatbench zoo ls
      deatbench zoo ls --dataset digits --arch vgg16 --json
    """
    from deatbench.cli.tables import print_models
    from deatbench.report.model.zoo import ZooModel
    from deatbench.store import Home

    models = [ZooModel.read(folder) for folder in Home(home.expanduser()).zoo_entries()]
    wanted = (dataset, method, arch)
    found = [
        model for model in models if all(text in (None, its) for text, its in zip(wanted, _names(model), strict=True))
    ]
    found.sort(key=lambda model: model.order)
    if as_json:
        print(json.dumps([model.document() for model in found], indent=1))
        return
    if not found:
        print(f"note: no such model in {home / 'model_zoo'}", file=sys.stderr)
    print_models(found)


@zoo.command()
@click.argument("model_id", metavar="ID")
@options.existing_home
@options.as_json
def show(model_id: str, home: Path, as_json: bool) -> None:
    """Show a model: its training, its evaluations, how to use it.

    \b
    Example:
      deatbench zoo show digits-vgg16-deat-3f2a91-s0
    """
    from deatbench.cli.tables import print_evaluations, print_table
    from deatbench.report.escape import plain
    from deatbench.report.model.zoo import ZooModel

    (entry,) = _named([model_id], home)
    model = ZooModel.read(entry)
    if as_json:
        print(json.dumps(model.document(), indent=1))
        return
    print_table(["", model.card.id], [[key, plain(value, 2000)] for key, value in _facts(model.card).items()])
    if model.evaluations:
        print()
        print_evaluations(model.evaluations)


def _names(model: ZooModel) -> tuple[str, str, str]:
    return model.card.dataset, model.method, model.card.model.arch


def _facts(card: ModelCard) -> dict[str, str]:
    training, config = card.training, card.training.config
    return {
        "architecture": f"{card.model.arch} {json.dumps(card.model.params)}",
        "method": f"{config['method']['name']}, recipe {config['recipe']}, seed {config['seed']}",
        "trained on": f"{training.dataset} ({training.n_train:,} images, {training.n_val:,} for validation)",
        "threat": f"{card.threat.norm} {card.threat.eps_text}",
        "checkpoint": card.checkpoint + (f", epoch {training.best_epoch}" if card.checkpoint == "best" else ""),
        "parameters": f"{training.n_params:,}",
        "time": f"{training.seconds:,.0f} s on {training.hardware}",
        "weights": f"{card.weights_file or 'not in the zoo'}, SHA-256 {card.weights_sha256[:16]}…",
        "command": training.command,
        "use it": f'from deatbench import load_model; model = load_model("zoo:{card.id}")',
        "attack it": f"deatbench eval zoo:{card.id} --autoattack",
        "train it again": f"deatbench reproduce zoo:{card.id}",
    }


def _named(ids: list[str], home: Path) -> list[Path]:
    """Folders of the entries called so. Raises ConfigError or MissingError for the first that is none."""
    from deatbench.store import Home, safe_name

    return [Home(home.expanduser()).zoo_entry(safe_name(text.removeprefix("zoo:"), "zoo id")) for text in ids]


@zoo.command()
@click.argument("model_ids", metavar="[ID]...", nargs=-1)
@options.existing_home
@options.as_json
def verify(model_ids: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Check entries of the zoo, all without ID: card, weights, evaluations, archives. No attack is run.

    The card must fit its own recipe and its place; the weights its SHA-256 and its architecture; every evaluation its
    verdict bits, this run and these weights; every archive of adversarial images its SHA-256. Weights that are not kept
    here are NOT PROVEN, which is no failure. Exit code 3 if anything does not hold.

    \b
    Examples:
      deatbench zoo verify
      deatbench zoo verify digits-vgg16-deat-3f2a91-s0 --json
    """
    from deatbench.errors import MismatchError
    from deatbench.pipeline.checks import Status
    from deatbench.pipeline.zoo import verify_entry
    from deatbench.store import Home

    place = Home(home.expanduser())
    entries = _named(list(model_ids), home) if model_ids else place.zoo_entries()
    if not entries:
        print(f"note: no model in {place.zoo}", file=sys.stderr)
    found = {entry.name: verify_entry(entry, place) for entry in entries}
    _show_checks(found, as_json)
    bad = [name for name, checks in found.items() if any(check.status is Status.FAIL for check in checks)]
    if bad:
        first = next(check for check in found[bad[0]] if check.status is Status.FAIL)
        others = f"; {len(bad) - 1} more of {len(found)} entries fail" if len(bad) > 1 else ""
        raise MismatchError(f"{bad[0]}: {first.name}: {first.detail}{others}")


def _show_checks(found: dict[str, list[Check]], as_json: bool) -> None:
    """A line per entry: what is wrong with it, else what is not proven, else all that was found."""
    from deatbench.cli.tables import print_table
    from deatbench.pipeline.checks import Status
    from deatbench.report.escape import plain

    if as_json:
        document = [
            {"id": name, "checks": [{"name": c.name, "status": c.status.value, "detail": c.detail} for c in checks]}
            for name, checks in found.items()
        ]
        print(json.dumps({"models": document}, indent=1))
        return
    rows = []
    for name, checks in found.items():
        worst = next(
            (s for s in (Status.FAIL, Status.UNPROVEN) if any(check.status is s for check in checks)), Status.PASS
        )
        said = "; ".join(f"{check.name}: {check.detail}" for check in checks if check.status is worst)
        rows.append([plain(name), worst.value, plain(said, 1000)])
    print_table(["id", "result", "what was found"], rows)


@zoo.command()
@click.argument("run", metavar="RUN")
@options.home
def add(run: str, home: Path) -> None:
    """Enter a finished run into the zoo: RUN is its name under runs/, or its folder.

    `deatbench run` does this by itself; `add` is for what `deatbench train` and `deatbench eval` made, or another
    working folder. A foreign network has no entry: `deatbench eval ./net.py:net --dataset D --eps E --autoattack` puts
    its record where `deatbench leaderboard build` finds it.

    \b
    Examples:
      deatbench zoo add digits-vgg16-deat-3f2a91-s0
      deatbench zoo add ../elsewhere/runs/digits-vgg16-deat-3f2a91-s0
    """
    from deatbench.pipeline.zoo import add_run
    from deatbench.store import Home

    place = Home(home.expanduser())
    folder = _run_folder(run, place)
    entry, evaluations = add_run(place, folder)
    at = "" if home == Path() else f" --home {shlex.quote(str(home))}"
    print(entry)
    if not (entry / "model.safetensors").is_file():
        print(f"note: its weights are large and stay in {folder.path}", file=sys.stderr)
    following = [] if evaluations else [f"eval zoo:{entry.name} --autoattack"]
    following += [] if (entry / "diagnostics.json").is_file() else [f"diagnose zoo:{entry.name}"]
    following.append("leaderboard build")
    print(f"next: {' · '.join(f'deatbench {command}{at}' for command in following)}", file=sys.stderr)


def _run_folder(text: str, home: Home) -> RunFolder:
    """The run called so, or in that folder. Raises ConfigError for a file or factory, MissingError for nothing."""
    from deatbench.errors import ConfigError, MissingError
    from deatbench.store import RunFolder

    path = Path(text).expanduser()
    if path.is_file() or ":" in text:
        raise ConfigError(
            f"{text!r} is no run", "a foreign network is published by attacking it: "
            "deatbench eval ./net.py:net --dataset D --eps E --autoattack, then deatbench leaderboard build"
        )  # fmt: skip
    named = [home.runs / text] if text not in ("", ".", "..") and not set(text) & set("/\\") else []
    for folder in (*named, path):
        if folder.is_dir():
            return RunFolder(folder)
    raise MissingError(f"no run {text!r} in {home.runs}", "RUN is the name of a folder there, or any run's folder")
