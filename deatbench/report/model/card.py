"""A zoo model's card for people: README.md beside card.json, in the form of the hub's model cards.

GitHub renders it, so it is the Markdown twin of the model's page: YAML in front for machines, then Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote

from deatbench.records import Env, EvaluationRecord, Flag, ModelCard, Reproduction, Verification
from deatbench.report.inputs import Inputs
from deatbench.report.metrics import describe, place
from deatbench.report.model.explanations import meaning
from deatbench.report.model.front_matter import front_matter
from deatbench.report.rendering import render
from deatbench.report.standings.runs import unique
from deatbench.report.wording import count, duration, interval, percent, proved_robust
from deatbench.store import safe_name

KEPT = {
    "best": "the epoch that was best on the validation images",
    "last": "the last epoch",
    "ema": "the moving average of the weights over the training",
    "swa": "the average of the weights over the last epochs",
}


class Result(NamedTuple):
    """A line of the table of results: one accuracy of one set of weights."""

    weights: str
    threat: str
    attack: str
    accuracy: str
    interval: str
    n: str
    record: str
    address: str


def card_pages(inputs: Inputs) -> dict[str, str]:
    """The README.md of every entry, by path below model_zoo/. A pure function.

    Raises ConfigError for a card whose data set, threat or id is no plain name.
    """
    return {f"{_folder(card)}/README.md": _page(Entry(card, inputs)) for card in inputs.cards}


def _folder(card: ModelCard) -> str:
    parts = {"data set": card.dataset, "threat": card.threat.slug, "model": card.id}
    return "/".join(safe_name(part, what) for what, part in parts.items())


@dataclass(frozen=True)
class Entry:
    """An entry with all that is known of it."""

    card: ModelCard
    inputs: Inputs

    @cached_property
    def evaluations(self) -> list[EvaluationRecord]:
        """Those of its run; of the weights that the zoo keeps first, and among these the card's threat."""
        card = self.card
        mine = [r for r in self.inputs.evaluations if r.training is not None and r.training.run_id == card.training.id]

        def order(record: EvaluationRecord) -> tuple[Any, ...]:
            checkpoint = record.training.checkpoint if record.training else ""
            return checkpoint != card.checkpoint, checkpoint, record.threat != card.threat, record.created, record.id

        return sorted(mine, key=order)

    @property
    def config(self) -> dict[str, Any]:
        """The recipe as it stands in the record."""
        return self.card.training.config

    @property
    def method(self) -> str:
        """The training method's name."""
        return _named(self.config, "method")


def _named(config: dict[str, Any], key: str) -> str:
    """The name of a spec of the recipe; a card's recipe is data that nobody has checked."""
    spec = config.get(key)
    return str(spec.get("name", "?")) if isinstance(spec, dict) else "?"


def _page(entry: Entry) -> str:
    card = entry.card
    return render(
        "card.md",
        front=front_matter(card, entry.method, entry.evaluations),
        card=card,
        method=entry.method,
        kept=KEPT[card.checkpoint],
        parameters=count(card.training.n_params),
        results=[result for record in entry.evaluations for result in _results(record)],
        settings=list(dict.fromkeys(setting for record in entry.evaluations for setting in _settings(record))),
        facts=_facts(entry),
        flags=[(flag.code.replace("_", " "), flag.message, meaning(flag.code)) for flag in _flags(entry)],
        looks=[look for record in entry.evaluations for look in _looks(record, entry.inputs)],
        board=_board(entry),
        size=f"{card.weights_bytes / 2**20:.1f} MiB",
    )


def _board(entry: Entry) -> str | None:
    """Address of its board relative to its README, without suffix; None before anybody has attacked it."""
    card = entry.card
    ranked = any((r.dataset.name, r.threat) == (card.dataset, card.threat) for r in entry.evaluations)
    parts = ("../../../..", "leaderboards", quote(card.dataset), quote(card.threat.slug))
    return "/".join(parts) if ranked else None


def _results(record: EvaluationRecord) -> Iterator[Result]:
    kept = record.training.checkpoint if record.training else "–"
    for name in sorted(record.metrics, key=place):
        metric = record.metrics[name]
        yield Result(
            weights=kept,
            threat=f"{record.threat.norm} {record.threat.eps_text}" if name != "clean_acc" else "–",
            attack=describe(name).title,
            accuracy=percent(metric.value),
            interval=interval(metric.ci95),
            n=f"{metric.n:,}",
            record=record.id.removeprefix(f"{record.model.name}-"),
            address=f"evaluations/{quote(record.id)}.json",
        )


def _settings(record: EvaluationRecord) -> Iterator[str]:
    """Each attack with its parameters, seed and code."""
    for attack in record.attacks:
        chosen = ", ".join(f"{key} {json.dumps(value)}" for key, value in sorted(attack.params.items()))
        yield f"{attack.name}: {chosen or 'no parameters'}; seed {attack.seed}; {attack.engine}"
    if proved := proved_robust(record):
        yield f"certificates (CROWN, branch and bound): {proved}, on which no later attack was tried"


def _facts(entry: Entry) -> list[tuple[str, str]]:
    """What the training was, as terms and values."""
    card, config, training = entry.card, entry.config, entry.card.training
    speed = training.throughput
    facts = [
        ("Architecture", f"{card.model.arch} {_parameters(card.model.params)}".strip()),
        ("Parameters", f"{training.n_params:,}"),
        ("Operations of one image (a multiply-add is two)", f"{training.flops:,}"),
        ("Method", _spec(config, "method")),
        ("Optimizer", _spec(config, "optimizer")),
        ("Schedule", _spec(config, "schedule")),
        ("Inner attack", _parameters(config.get("attack"))),
        ("Epochs, batch", f"{config.get('epochs')}, {config.get('batch_size')}"),
        ("Augmentation", str(config.get("augment"))),
        ("Images", f"{training.n_train:,} for training, {training.n_val:,} for validation; {training.dataset_source}"),
        ("Seed", str(config.get("seed"))),
        ("Weights kept", f"{card.checkpoint}: {KEPT[card.checkpoint]}" + _epoch(card)),
        ("Time", f"{duration(training.seconds)} on {training.hardware}"),
    ]
    if speed is not None:
        facts.append(("Throughput", f"{speed.images_per_second:,.0f} images/s, peak {speed.peak_memory_mb:,.0f} MB"))
    facts += [("Made with", _versions(training.env)), ("Date", training.created[:10]), ("Command", training.command)]
    return facts


def _epoch(card: ModelCard) -> str:
    return f", epoch {card.training.best_epoch}" if card.checkpoint == "best" else ""


def _spec(config: dict[str, Any], key: str) -> str:
    spec = config.get(key)
    rest = {name: value for name, value in spec.items() if name != "name"} if isinstance(spec, dict) else {}
    return f"{_named(config, key)} {_parameters(rest)}".strip()


def _parameters(params: Any) -> str:
    if not isinstance(params, dict):
        return ""
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in params.items())


def _versions(env: Env) -> str:
    revision = f", deatbench at {env.git}" if env.git else ""
    return f"torch {env.torch}, Python {env.python}{revision}"


def _flags(entry: Entry) -> list[Flag]:
    found = [flag for record in entry.evaluations for flag in record.flags]
    return unique([*found, *entry.card.training.flags])


def _looks(record: EvaluationRecord, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """A record's short name, and what somebody found who looked at it again."""
    name = record.id.removeprefix(f"{record.model.name}-")
    verified, repeated = inputs.verifications.get(record.id), inputs.reproductions.get(record.id)
    if verified is not None:
        yield name, _verified(verified)
    if repeated is not None:
        yield name, _repeated(repeated)
    if verified is None and repeated is None:
        yield name, "self-reported: nobody has looked again."


def _verified(look: Verification) -> str:
    day = look.created[:10]
    if look.proven:
        return f"proof verified on {day}: each broken verdict has an adversarial image that holds."
    open_checks = ", ".join(f"{check.name} {check.status}" for check in look.checks if check.status != "PASS")
    return f"looked at again on {day}, not proven: {open_checks}."


def _repeated(look: Reproduction) -> str:
    if not look.retrained:
        return f"evaluated again on {look.created[:10]}: {look.outcome.value}."
    weights = "the same weights" if look.same_weights else "other weights"
    return f"re-run on {look.created[:10]}, {weights}: {look.outcome.value}."
