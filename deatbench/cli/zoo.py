"""`deatbench zoo`: the models that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from deatbench.cli import options


@click.group()
def zoo() -> None:
    """Look into the model zoo.

    It lies in model_zoo/ of the working folder: cards, evaluations, and weights where they are small.

    \b
    Examples:
      deatbench zoo ls
      deatbench zoo show digits-vgg16-deat-3f2a91-s0
    """


@zoo.command("ls")
@options.home
@options.as_json
def list_models(home: Path, as_json: bool) -> None:
    """List the models of the zoo.

    \b
    Example:
      deatbench zoo ls --json
    """
    from deatbench.cli.tables import print_table
    from deatbench.store import Home

    cards = Home(home.expanduser()).load_cards()
    if as_json:
        print(json.dumps([card.model_dump(mode="json") for card in cards], indent=1))
        return
    rows = [
        [
            card.id,
            card.dataset,
            f"{card.threat.norm} {card.threat.eps_text}",
            f"{card.training.n_params:,}",
            f"{card.weights_bytes / 2**20:.1f} MiB" + ("" if card.weights_file else ", not here"),
        ]
        for card in cards
    ]
    print_table(["id", "data set", "threat", "parameters", "weights"], rows)


@zoo.command()
@click.argument("model_id")
@options.home
@options.as_json
def show(model_id: str, home: Path, as_json: bool) -> None:
    """Show a model: its training, its evaluations, how to use it.

    \b
    Example:
      deatbench zoo show digits-vgg16-deat-3f2a91-s0
    """
    from deatbench.cli.tables import print_evaluations, print_table
    from deatbench.records import EvaluationRecord, ModelCard
    from deatbench.store import Home, read_record, safe_name

    entry = Home(home.expanduser()).zoo_entry(safe_name(model_id.removeprefix("zoo:"), "zoo id"))
    card = read_record(entry / "card.json", ModelCard)
    if as_json:
        print(card.model_dump_json(indent=1))
        return
    records = [read_record(path, EvaluationRecord) for path in sorted(entry.glob("evaluations/*.json"))]
    training, config = card.training, card.training.config
    facts = {
        "architecture": f"{card.model.arch} {json.dumps(card.model.params)}",
        "method": f"{config['method']['name']}, recipe {config['recipe']}, seed {config['seed']}",
        "trained on": f"{training.dataset} ({training.n_train:,} images, {training.n_val:,} for validation)",
        "threat": f"{card.threat.norm} {card.threat.eps_text}",
        "checkpoint": f"{card.checkpoint}, epoch {training.best_epoch}",
        "parameters": f"{training.n_params:,}",
        "time": f"{training.seconds:,.0f} s on {training.hardware}",
        "weights": f"{card.weights_file or 'not in the zoo'}, SHA-256 {card.weights_sha256[:16]}…",
        "command": training.command,
        "attack it": f"deatbench eval zoo:{card.id} --autoattack",
    }
    print_table(["", card.id], facts.items())
    if records:
        print()
        print_evaluations(records)
