"""What a model's page says below its figures: in one sentence, its recipe, its machines, commands and files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from deatbench.records import Env, ModelCard
from deatbench.report.escape import plain
from deatbench.report.metrics import describe
from deatbench.report.model.subject import Subject
from deatbench.report.wording import count, duration, proved_robust

WEIGHTS = {
    "best": "the epoch that was best on the validation images",
    "last": "the last epoch",
    "ema": "the moving average over the training",
    "swa": "the average over its last epochs",
}


def summary(card: ModelCard) -> str:
    """The model in one sentence."""
    training, config = card.training, card.training.config
    params = ", ".join(f"{key} {_value(value)}" for key, value in card.model.params.items())
    size = ", ".join(filter(None, (params, f"{count(training.n_params)} parameters")))
    method = config.get("method")
    name = _value(method.get("name")) if isinstance(method, Mapping) else "an unknown method"
    return (
        f"{card.model.arch} ({size}), trained with {name} for {training.final.epoch} epochs on {training.n_train:,} "
        f"images of {training.dataset}: {duration(training.seconds)} on {training.hardware}. Kept are the weights of "
        f"{WEIGHTS[card.checkpoint]}" + (f" ({training.best_epoch})." if card.checkpoint == "best" else ".")
    )


def commands(subject: Subject) -> Iterator[tuple[str, str]]:
    """(what it does, the command)."""
    card, kept = subject.card, subject.kept
    if kept is not None:
        record = f"{subject.home}/evaluations/{kept.deciding.id}.json"
        yield "Run the recipe again and compare", f"deatbench reproduce {record}"
        yield "Re-check the record without attacking", f"deatbench verify {record}"
    yield "How it was trained", card.training.command
    if kept is not None and kept.deciding.command != card.training.command:
        yield "How it was evaluated", kept.deciding.command
    yield "Attack it", f"deatbench eval zoo:{card.id} --autoattack"
    yield "Use it in Python", f'model = deatbench.load_model("zoo:{card.id}")'


def recipe(card: ModelCard) -> Iterator[tuple[str, str]]:
    """The configuration in a line per group; what stands alone comes first."""
    config = card.training.config
    alone = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    for group, settings in (("training", alone), *((k, v) for k, v in config.items() if isinstance(v, Mapping))):
        name = _value(settings["name"]) if "name" in settings else ""
        rest = (f"{key.replace('_', ' ')} {_value(value)}" for key, value in settings.items() if key != "name")
        yield group, ": ".join(filter(None, (name, ", ".join(rest))))


def _value(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(part) for part in value)}]"
    return plain(value if isinstance(value, str) else json.dumps(value, default=str))


def environment(subject: Subject) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The machines of training, evaluation and diagnosis: column titles, and rows of (quantity, value in each)."""
    machines: dict[str, Env] = {"training": subject.card.training.env}
    if subject.kept is not None:
        machines["evaluation"] = subject.kept.deciding.env
    if subject.diagnostics is not None:
        machines["diagnosis"] = subject.diagnostics.env
    packages = sorted({name for env in machines.values() for name in env.packages})
    facts = {
        "hardware": [env.hardware for env in machines.values()],
        "device": [env.device for env in machines.values()],
        "threads": [str(env.threads) for env in machines.values()],
        "python": [env.python for env in machines.values()],
        "torch": [env.torch for env in machines.values()],
        "commit": [env.git or "" for env in machines.values()],
        **{name: [env.packages.get(name, "") for env in machines.values()] for name in packages},
    }
    return list(machines), list(facts.items())


def files(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """(file, address relative to the page, what it is)."""
    card, folder = subject.card, "../../../" + quote(subject.home)
    yield "card.json", f"{folder}/card.json", "how to build it, where its weights are, what they must hash to"
    if card.weights_file is not None:
        size = f"{card.weights_bytes / 2**20:.1f} MiB, SHA-256 {card.weights_sha256[:16]}…"
        yield card.weights_file, f"{folder}/{quote(card.weights_file)}", f"weights, {size}"
    for run in subject.runs:
        for record in run.evaluations:
            attacks = ", ".join(describe(name).title for name in record.samples.robust) or "no attack"
            name = f"evaluations/{record.id}.json"
            about = f"{run.training.checkpoint if run.training else ''} weights, {record.created[:10]}: {attacks}"
            proved = f"; {proved}" if (proved := proved_robust(record)) else ""
            yield name, f"{folder}/{quote(name)}", f"{about}, {record.samples.n:,} images, each verdict{proved}"
    if subject.epochs:
        yield "metrics.jsonl", f"{folder}/metrics.jsonl", f"{len(subject.epochs)} epochs of training"
    if subject.given_diagnostics is not None:
        yield "diagnostics.json", f"{folder}/diagnostics.json", "classes of each image, clean and attacked; the gallery"
