"""One evaluation: from a network, images and attacks to a record, its proof, and progress that survives a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deatbench.archs.build import count_params
from deatbench.attacks import Attack, make_attack
from deatbench.attacks.base import Engine
from deatbench.attacks.transfer import Transfer
from deatbench.data import Dataset, Images
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.environment import environment
from deatbench.engine.evaluate import Evaluation, Settings
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.interruption import stopped_by_signals
from deatbench.engine.monitor import Monitor
from deatbench.engine.progress import SavedProgress, locked
from deatbench.engine.search import Precision, Search, strict_float32
from deatbench.engine.shards import Alone
from deatbench.engine.trial import Draws, check_fit
from deatbench.errors import ConfigError, DeatbenchError
from deatbench.evidence import write_evaluation
from deatbench.models import LoadedModel
from deatbench.pipeline.machine import Machine, now
from deatbench.pipeline.proof import proved
from deatbench.records import (
    CurvePoint,
    DatasetInfo,
    EvaluationRecord,
    Flag,
    ModelInfo,
    Samples,
    digest_of,
    metrics_of,
    pack_bits,
)
from deatbench.soundness import inspect_model, judge_results
from deatbench.threats import ThreatModel, make_threat

BATCH_SIZE = {"cpu": 500, "cuda": 4000}
WORTH_COMPILING = 10**7  # image passes on a GPU from which half a minute of compilation pays


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be measured and how; the defaults are those of `deatbench eval`.

    Args:
        attacks: names, tried in this order.
        n: the first n test images; None: all.
        seed: of the attacks.
        batch_size: rows of work at once; None: what suits the device.
        engine: whose code runs AutoAttack, ours ("fast") or pyautoattack ("reference").
        precision: of our attacks' search; verdicts are float32.
        compiled: torch.compile for the search; None: on a GPU where there is enough to do.
        draws: "published" takes pyautoattack's random numbers in its order: the same verdicts, bound to the batch size.
        eps_sweep: further radii, such as "4/255", for a robustness curve.
        save_adversarials: keep an adversarial image for each broken one, as proof.
        surrogate: the network that the `transfer` attack makes its images on.
        fresh: forget the progress of an earlier try.
    """

    attacks: tuple[str, ...]
    n: int | None = None
    seed: int = 0
    batch_size: int | None = None
    engine: Engine = "fast"
    precision: Precision = "fp32"
    compiled: bool | None = None
    draws: Draws = "own"
    eps_sweep: tuple[str, ...] = ()
    save_adversarials: bool = False
    surrogate: LoadedModel | None = None
    fresh: bool = False

    def make_attacks(self) -> list[Attack]:
        """The attacks themselves. Raises ConfigError or UnknownNameError."""
        return [
            _transfer_from(self.surrogate)
            if name == "transfer" and self.surrogate
            else make_attack(name).by(self.engine)
            for name in self.attacks
        ]


def _transfer_from(surrogate: LoadedModel) -> Transfer:
    module = surrogate.module.eval().requires_grad_(False)
    return Transfer(module, surrogate.source, weights_sha256(module))


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that came to its end, or was interrupted past a point worth recording."""

    record: EvaluationRecord
    archive: bytes | None
    progress: SavedProgress
    interrupted: bool

    def write(self, folders: Sequence[Path]) -> Path:
        """The record and its proof into each folder; then the progress is no longer needed. Returns the first path."""
        paths = [write_evaluation(folder, self.record, self.archive) for folder in folders]
        if not self.interrupted:
            self.progress.clear()
        return paths[0]


def evaluate(
    model: LoadedModel,
    data: Dataset,
    threat: ThreatModel,
    request: EvaluationRequest,
    machine: Machine,
    *,
    monitor: Monitor | None = None,
    shards: Alone | None = None,
) -> Evaluated:
    """Attack `model` on test images and say what was found, in one record.

    Killed and called again, it goes on where it was; several processes (`shards`) share the work and all return the
    same. Raises ConfigError if model, data and attacks do not fit, or another process is at it.
    """
    monitor, shards = monitor or Monitor(), shards or Alone()
    attacks = request.make_attacks()
    images = data.test if request.n is None else data.test.subset(torch.arange(min(request.n, len(data.test))))
    module = _fitting_module(model, data, images, machine)
    info = _model_info(model, module)
    settings = _settings(request, attacks, threat.norm, len(images), data.num_classes, machine.device)
    sweep = [make_threat(threat.norm, text) for text in request.eps_sweep]
    sweep = [other for other in sweep if other.eps != threat.eps]
    key = _key(model, info, data, threat, attacks, len(images), settings, sweep)
    record_id = _record_id(model, key)
    folder = machine.home.evaluations / ".unfinished" / record_id

    def work() -> Evaluated:
        if request.fresh and shards.rank == 0:
            SavedProgress.forget(folder)
        shards.wait()
        progress = SavedProgress(folder, {**key, "data_sha256": data.test.sha256(), "versions": _versions(attacks)})
        if progress.begun and shards.rank == 0:
            monitor.note(
                f"continuing an evaluation that was stopped ({progress.begun} parts done; --fresh starts over)"
            )
        with strict_float32():
            flags = inspect_model(module, images, threat, device=machine.device)
        done = attack_model(
            module, images, threat, attacks, settings,
            sweep=sweep, device=machine.device, progress=progress, shards=shards, monitor=monitor,
        )  # fmt: skip
        flags += judge_results(done.clean_N, done.robust, done.attacks, threat) + _unfinished(done)
        record = EvaluationRecord(
            id=record_id,
            created=now(),
            model=info,
            training=model.training,
            dataset=DatasetInfo(name=data.name, split="test", n=len(images), sha256=data.test.sha256()),
            threat=threat.record(),
            metrics=metrics_of(done.clean_N, done.robust),
            attacks=tuple(done.attacks),
            samples=_samples(done),
            curve=_curve(done),
            flags=tuple(flags),
            env=environment(machine.device),
            search_precision=settings.search.precision if _searches(attacks, threat.norm, settings) else "fp32",
            draws=settings.draws,
            batch_size=settings.batch_size,
            seconds=round(done.seconds, 2),
            command=machine.command,
        )
        record, archive = proved(record, done.images, images) if settings.keep_images else (record, None)
        return Evaluated(record, archive, progress, bool(done.missing))

    with stopped_by_signals():
        return _alone_in(folder, work) if shards.rank == 0 else work()


def _alone_in(folder: Path, work: Callable[[], Evaluated]) -> Evaluated:
    with locked(folder):
        return work()


def _fitting_module(model: LoadedModel, data: Dataset, images: Images, machine: Machine) -> nn.Module:
    """The network on its device, in eval mode. Raises ConfigError if it does not fit the images or their classes."""
    if len(images) == 0:
        raise DeatbenchError(f"the test split of {data.name} is empty")
    module = model.module.to(machine.device).eval().requires_grad_(False)
    num_classes = check_fit(module, images, machine.device)
    if num_classes != data.num_classes:
        raise ConfigError(
            f"{model.source} has {num_classes} classes, data set {data.name} has {data.num_classes}",
            f"it was trained for {model.dataset}" if model.dataset else "choose its data set with --dataset",
        )
    return module


def _model_info(model: LoadedModel, module: nn.Module) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        arch=model.arch,
        params=model.params,
        source=model.source,
        sha256=weights_sha256(module),
        n_params=count_params(module),
    )


def _settings(
    request: EvaluationRequest, attacks: Sequence[Attack], norm: str, n: int, num_classes: int, device: torch.device
) -> Settings:
    compiled = request.compiled
    if compiled is None:
        members = [member for attack in attacks for member in attack.members(norm)]
        passes = n * sum(member.passes(num_classes) * member.runs for member in members)
        compiled = device.type == "cuda" and passes > WORTH_COMPILING
    return Settings(
        seed=request.seed,
        batch_size=request.batch_size or BATCH_SIZE[device.type],
        search=Search(request.precision, compiled),
        draws=request.draws,
        keep_images=request.save_adversarials,
    )


def _key(
    model: LoadedModel,
    info: ModelInfo,
    data: Dataset,
    threat: ThreatModel,
    attacks: Sequence[Attack],
    n: int,
    settings: Settings,
    sweep: Sequence[ThreatModel],
) -> dict[str, Any]:
    """All that decides the verdicts, and how the work is cut up."""
    key: dict[str, Any] = {
        "model": info.sha256,
        "checkpoint": model.training.checkpoint if model.training else None,
        "data": data.name,
        "n": n,
        "threat": threat.record().slug,
        "attacks": [
            (attack.name, [(part.name, part.params(data.num_classes)) for part in attack.members(threat.norm)])
            for attack in attacks
        ],
        "engine": [attack.engine.split()[0] for attack in attacks],
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "search": settings.search.precision,
        "draws": settings.draws,
        "sweep": [other.eps_text for other in sweep],
        "images": settings.keep_images,
    }
    return key


def _record_id(model: LoadedModel, key: dict[str, Any]) -> str:
    """The model's name and a digest of all that decides the verdicts: the same evaluation has the same id."""
    name = f"{model.name}-{model.training.checkpoint}" if model.training else model.name
    return f"{name}-{digest_of(key)[:8]}"


def _versions(attacks: Sequence[Attack]) -> list[str]:
    return [f"torch {torch.__version__}", *sorted({attack.engine for attack in attacks})]


def _searches(attacks: Sequence[Attack], norm: str, settings: Settings) -> bool:
    """Whether any attack runs on a search form: published code and published draws ask the network itself."""
    return settings.draws == "own" and any(member.own for attack in attacks for member in attack.members(norm))


def _samples(done: Evaluation) -> Samples:
    return Samples(
        n=len(done.clean_N),
        clean=pack_bits(done.clean_N),
        robust={name: pack_bits(verdicts_N) for name, verdicts_N in done.robust.items()},
    )


def _curve(done: Evaluation) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(eps=threat.eps, eps_text=threat.eps_text, robust=pack_bits(robust_N))
        for threat, robust_N in done.curve
    )


def _unfinished(done: Evaluation) -> list[Flag]:
    """An interrupted evaluation says so; its numbers are upper bounds."""
    if not done.missing:
        return []
    message = f"stopped by hand before {', '.join(done.missing)} was finished: accuracies are provisional"
    return [Flag(code="provisional", message=message)]
