"""Do an evaluation, its card and its epochs tell one story of how the weights were trained?

The same thing stands in several places: a run's configuration, what an evaluation repeats of it, the card, and the
lines of metrics.jsonl. Whoever rewrites one of them has to rewrite all. Configurations are read key by key, since old
ones lack what is younger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deatbench.records import (
    Checkpoint,
    Diagnostics,
    EpochMetrics,
    EvaluationRecord,
    ModelCard,
    TrainingInfo,
    TrainingRecord,
)

ROUNDED = 0.0051  # seconds are rounded to 2 places
SPEED_ROUNDED = 0.051  # images per second to 1
LONGEST = 60  # of a value in a complaint
FROM_CONFIG = {
    "method": "method.name",
    "recipe": "recipe",
    "optimizer": "optimizer.name",
    "seed": "seed",
    "epochs": "epochs",
    "bn_mode": "attack.bn_mode",
}


def config_faults(record: EvaluationRecord) -> Iterator[str]:
    """Where an evaluation contradicts the configuration that it holds itself."""
    info = record.training
    if info is None:
        return
    said = {f"training.{name}": (getattr(info, name), key) for name, key in FROM_CONFIG.items()}
    said["model.arch"] = record.model.arch, "arch.name"
    yield from _against_config(said, info.config)
    yield from _against_arch("model.params", record.model.params, info.config)
    if info.checkpoint != "best":
        yield from _against_config({"training.checkpoint_epoch": (info.checkpoint_epoch, "epochs")}, info.config)


def info_faults(info: TrainingInfo, trained: TrainingRecord) -> Iterator[str]:
    """Where what an evaluation says about the training contradicts the card. Configurations are compared elsewhere."""
    for name in ("seconds", "hardware", "n_train", "n_val"):
        yield from _differ(f"training.{name}", getattr(info, name), getattr(trained, name), "the card says")
    if info.checkpoint == "best":
        yield from _differ("training.checkpoint_epoch", info.checkpoint_epoch, trained.best_epoch, "the card says")


def network_faults(record: EvaluationRecord | Diagnostics, card: ModelCard) -> Iterator[str]:
    """Where an evaluation or a diagnosis describes another network than the card."""
    yield from _differ("model.name", record.model.name, card.id, "the card says")
    yield from _differ("model.arch", record.model.arch, card.model.arch, "the card says")
    yield from _differ("model.params", record.model.params, card.model.params, "the card says")
    yield from _differ("model.n_params", record.model.n_params, card.training.n_params, "the card says")


def card_faults(card: ModelCard) -> Iterator[str]:
    """Where a card contradicts itself, or the configuration that it holds."""
    trained = card.training
    said = {
        "dataset": (card.dataset, "dataset"),
        "training.dataset": (trained.dataset, "dataset"),
        "training.model.arch": (trained.model.arch, "arch.name"),
        "threat.norm": (card.threat.norm, "threat.norm"),
        "threat.eps_text": (card.threat.eps_text, "threat.eps"),
        "training.final.epoch": (trained.final.epoch, "epochs"),
    }
    yield from _against_config(said, trained.config)
    yield from _against_arch("training.model.params", trained.model.params, trained.config)
    yield from _differ("training.id", trained.id, card.id, "the card's id is")
    yield from _differ("checkpoint", card.checkpoint, trained.chosen, "the training chose")
    yield from _differ("training.hardware", trained.hardware, trained.env.hardware, "its env says")
    yield from _differ("training.best.epoch", trained.best.epoch, trained.best_epoch, "best_epoch is")
    if trained.best.epoch == trained.final.epoch:
        yield from _epoch_faults("training.best", trained.best, trained.final, "training.final says")
    kept: tuple[tuple[Checkpoint, EpochMetrics], ...] = (("best", trained.best), ("last", trained.final))
    for name, epoch in kept:
        for what, value in trained.validation.get(name, ()):
            where, other = f"training.validation.{name}.{what}", getattr(epoch, f"val_{what}")
            yield from _differ(where, value, other, f"epoch {epoch.epoch} has")


def history_faults(trained: TrainingRecord, epochs: Sequence[EpochMetrics]) -> Iterator[str]:
    """Where a card contradicts the lines of its metrics.jsonl."""
    if not epochs:
        yield "metrics.jsonl has no epoch to compare with"
        return
    numbers = [metrics.epoch for metrics in epochs]
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) != trained.final.epoch:
        yield f"metrics.jsonl has not the epochs 1 to {trained.final.epoch}, each once"
        return
    yield from _epoch_faults("training.final", trained.final, epochs[-1], "metrics.jsonl says")
    yield from _best_faults(trained, epochs)
    seconds = sum(metrics.seconds for metrics in epochs)
    if abs(trained.seconds - seconds) > ROUNDED:
        yield f"training.seconds is {trained.seconds}, the epochs of metrics.jsonl took {seconds:.2f}"
    images = sum(metrics.images_per_second * metrics.seconds for metrics in epochs)
    speed = images / max(seconds, 1e-9)
    if trained.throughput is not None and abs(trained.throughput.images_per_second - speed) > SPEED_ROUNDED:
        said = trained.throughput.images_per_second
        yield f"training.throughput.images_per_second is {said}, by metrics.jsonl {speed:.1f}"


def _best_faults(trained: TrainingRecord, epochs: Sequence[EpochMetrics]) -> Iterator[str]:
    line = next((metrics for metrics in epochs if metrics.epoch == trained.best_epoch), None)
    if line is None:
        yield f"training.best_epoch is {trained.best_epoch}, metrics.jsonl has no such epoch"
        return
    yield from _epoch_faults("training.best", trained.best, line, "metrics.jsonl says")
    possible = _best_epochs(trained, epochs)
    if trained.best_epoch not in possible:
        yield f"training.best_epoch is {trained.best_epoch}, by metrics.jsonl {' or '.join(map(str, possible))}"


def _best_epochs(trained: TrainingRecord, epochs: Sequence[EpochMetrics]) -> list[int]:
    """The first epoch that is best on validation images: by robust accuracy, for `standard` by clean accuracy.

    FGSM is tried beside PGD in adversarial training alone: where it was not, a method may go by either. Without
    validation images the last epoch is the best.
    """
    measured = [(m.val_clean_acc, m.val_robust_acc, m.epoch) for m in epochs]
    pairs = [(clean, robust, -epoch) for clean, robust, epoch in measured if clean is not None and robust is not None]
    if len(pairs) < len(epochs):
        return [epochs[-1].epoch]
    by_clean = -max(pairs)[2]
    by_robust = -max((robust, clean, epoch) for clean, robust, epoch in pairs)[2]
    if _at(trained.config, "method.name") == "standard":
        return [by_clean]
    return [by_robust] if epochs[-1].val_fgsm_acc is not None else sorted({by_clean, by_robust})


def _epoch_faults(where: str, said: EpochMetrics, other: EpochMetrics, whose: str) -> Iterator[str]:
    for name, value in other:
        yield from _differ(f"{where}.{name}", getattr(said, name), value, whose)


def _against_config(said: Mapping[str, tuple[Any, str]], config: Mapping[str, Any]) -> Iterator[str]:
    """`said`: per place its value, and the configuration's key for the same."""
    for where, (value, key) in said.items():
        if (meant := _at(config, key)) is not None:
            yield from _differ(where, value, meant, f"config.{key} is")


def _against_arch(where: str, params: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(arch := config.get("arch"), Mapping):
        yield from _differ(where, params, {k: v for k, v in arch.items() if k != "name"}, "config.arch says")


def _at(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where there is none. A thing may be given by its bare name."""
    found: Any = config
    for part in key.split("."):
        if part == "name" and isinstance(found, str):
            return found
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _differ(where: str, value: Any, other: Any, whose: str) -> Iterator[str]:
    if not _same(value, other):
        yield f"{where} is {_short(value)}, {whose} {_short(other)}"


def _same(value: Any, other: Any) -> bool:
    """Equal, numbers up to what writing and reading them may cost."""
    if isinstance(value, int | float) and isinstance(other, int | float):
        try:
            return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-12)
        except OverflowError:  # a whole number that no float can hold
            return value == other
    return bool(value == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
