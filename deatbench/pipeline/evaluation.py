"""One evaluation: from a network, images and attacks to a record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from deatbench.archs.build import count_params
from deatbench.attacks import Attack, make_attack
from deatbench.attacks.base import Engine
from deatbench.data import Dataset, Images
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.environment import environment
from deatbench.engine.evaluate import Evaluation, check_fit, strict_float32
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.monitor import Monitor
from deatbench.errors import ConfigError, DeatbenchError
from deatbench.models import LoadedModel
from deatbench.pipeline.machine import Machine, now
from deatbench.records import DatasetInfo, EvaluationRecord, ModelInfo, Samples, digest_of, metrics_of, pack_bits
from deatbench.soundness import inspect_model, judge_results
from deatbench.threats import ThreatModel


def evaluate(
    model: LoadedModel,
    data: Dataset,
    threat: ThreatModel,
    attacks: Sequence[str],
    machine: Machine,
    *,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 500,
    engine: Engine = "reference",
    monitor: Monitor | None = None,
) -> EvaluationRecord:
    """Attack `model` on the first `n` test images (all by default) and say what was found, in one record.

    AutoAttack is run by `engine`: the published code, or ours.
    """
    chosen = [make_attack(name).by(engine) for name in attacks]
    images = data.test if n is None else data.test.subset(torch.arange(min(n, len(data.test))))
    module = _fitting_module(model, data, images, machine)
    with strict_float32():
        flags = inspect_model(module, images, threat, device=machine.device)
    done = attack_model(
        module, images, threat, chosen, seed=seed, batch_size=batch_size, device=machine.device, monitor=monitor
    )
    flags += judge_results(done.clean_N, done.robust, done.attacks, threat)
    info = ModelInfo(
        name=model.name,
        arch=model.arch,
        params=model.params,
        source=model.source,
        sha256=weights_sha256(module),
        n_params=count_params(module),
    )
    return EvaluationRecord(
        id=_record_id(model, info, data, threat, chosen, len(images), seed, batch_size),
        created=now(),
        model=info,
        training=model.training,
        dataset=DatasetInfo(name=data.name, split="test", n=len(images), sha256=data.test.sha256()),
        threat=threat.record(),
        metrics=metrics_of(done.clean_N, done.robust),
        attacks=done.attacks,
        samples=_samples(done),
        flags=tuple(flags),
        env=environment(machine.device),
        batch_size=batch_size,
        seconds=round(done.seconds, 2),
        command=machine.command,
    )


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


def _record_id(
    model: LoadedModel,
    info: ModelInfo,
    data: Dataset,
    threat: ThreatModel,
    attacks: Sequence[Attack],
    n: int,
    seed: int,
    batch_size: int,
) -> str:
    """The model's name and a digest of all that decides the verdicts: the same evaluation has the same id."""
    key = {
        "model": info.sha256,
        "checkpoint": model.training.checkpoint if model.training else None,
        "data": data.name,
        "n": n,
        "threat": threat.record().slug,
        "attacks": [(attack.name, attack.engine) for attack in attacks],
        "seed": seed,
        "batch_size": batch_size,
    }
    name = f"{model.name}-{model.training.checkpoint}" if model.training else model.name
    return f"{name}-{digest_of(key)[:8]}"


def _samples(done: Evaluation) -> Samples:
    return Samples(
        n=len(done.clean_N),
        clean=pack_bits(done.clean_N),
        robust={name: pack_bits(verdicts_N) for name, verdicts_N in done.robust.items()},
    )
