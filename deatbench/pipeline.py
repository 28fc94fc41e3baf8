"""The main path: configure → train → evaluate → zoo.

deatbench run --arch vgg16 --method deat      is      run(configure(...), ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from deatbench.archs import ARCHS
from deatbench.archs.build import build_arch, count_flops, count_params
from deatbench.attacks import make_attack
from deatbench.attacks.base import Engine
from deatbench.config import RunConfig, Spec, build_config, dump_config
from deatbench.data import DATASETS, Dataset, found, load_dataset
from deatbench.data.augment import augment
from deatbench.engine.checkpoint import load_state, weights_sha256
from deatbench.engine.environment import environment, hardware_name
from deatbench.engine.evaluate import check_fit, strict_float32
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.interruption import interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.seeding import seed_everything
from deatbench.engine.state import TrainState
from deatbench.engine.train import Plan, fit
from deatbench.errors import ConfigError, DeatbenchError
from deatbench.methods import METHODS
from deatbench.methods.base import Inner
from deatbench.models import LoadedModel
from deatbench.models.runs import trained_model
from deatbench.optim import OPTIMIZERS
from deatbench.records import (
    Checkpoint,
    DatasetInfo,
    EvaluationRecord,
    ModelCard,
    ModelInfo,
    ModelSpec,
    Samples,
    TrainingRecord,
    digest_of,
    metrics_of,
    pack_bits,
)
from deatbench.soundness import inspect_model, judge_results
from deatbench.store import Home, RunFolder, atomic_write_bytes, atomic_write_text, read_record, sha256_of, write_record
from deatbench.threats import ThreatModel, make_threat

ARCH_CONTEXT = ("num_classes", "in_channels", "image_size", "name")  # what is no hyper-parameter of an architecture
SMALL_WEIGHTS_BYTES = 4 * 2**20  # weights up to this size go into the zoo beside their card


@dataclass(frozen=True)
class Machine:
    """Where the work is done and what it is told to: device, data folder, working folder, and the command line."""

    home: Home
    device: torch.device
    data_dir: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its records, its place in the zoo."""

    folder: RunFolder
    training: TrainingRecord
    evaluations: tuple[EvaluationRecord, ...]
    zoo_entry: Path


def configure(
    *,
    arch: str,
    method: str,
    dataset: str = "auto",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    flags: dict[str, Any] | None = None,
    device: torch.device,
    data_dir: Path | None = None,
) -> RunConfig:
    """The complete configuration of a run, every hyper-parameter written out.

    `dataset` "auto" is CIFAR-10 where it is found, else the embedded digits; the recipe follows the data set and the
    device unless named. Raises ConfigError or UnknownNameError before anything is computed.
    """
    if dataset == "auto":
        dataset = "cifar10" if found("cifar10", data_dir) else "digits"
    DATASETS.resolve(dataset)
    METHODS.resolve(method)
    config = build_config(
        recipe=recipe or default_recipe(dataset, device),
        arch=arch,
        dataset=dataset,
        method=method,
        arch_params=ARCHS.bind(arch, {}, ARCH_CONTEXT),
        overrides=overrides,
        flags=flags,
    )
    optimizer = config.optimizer.name
    optimizer = METHODS[config.method.name].optimizer if optimizer == "auto" else optimizer
    precision = ("bf16" if device.type == "cuda" else "fp32") if config.precision == "auto" else config.precision
    for attack in (*config.evaluation.attacks, *config.evaluation.last_attacks):
        make_attack(attack)
    return config.model_copy(
        update={
            "arch": _complete(ARCHS.bind(config.arch.name, config.arch.params, ARCH_CONTEXT), config.arch.name),
            "method": _complete(METHODS.bind(config.method.name, config.method.params), config.method.name),
            "optimizer": _complete(OPTIMIZERS.bind(optimizer, config.optimizer.params), optimizer),
            "precision": precision,
        }
    )


def default_recipe(dataset: str, device: torch.device) -> str:
    """`digits` for 8x8 digits; else the paper's protocol on a GPU and the short one on a CPU."""
    if dataset == "digits":
        return "digits"
    return "paper" if device.type == "cuda" else "fast"


def _complete(params: dict[str, Any], name: str) -> Spec:
    return Spec.model_validate({"name": name, **params})


def train(config: RunConfig, machine: Machine, *, fresh: bool = False, monitor: Monitor | None = None) -> RunFolder:
    """Train, or continue, the run of `config`; a finished one is returned as it is unless `fresh`.

    Raises ConfigError if another process works on the same run, InterruptedRun after saving on a signal.
    """
    monitor = monitor or Monitor()
    folder = machine.home.run(config.run_id)
    if folder.finished and not fresh:
        monitor.note(f"{folder.path.name} is already trained (--fresh trains it again)")
        return folder
    data = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction)
    plan, state = prepare(config, data, machine.device)  # all that can be wrong is, before anything is written
    with folder.locked(), interruption() as stop:
        if fresh:
            _clear(folder)
        atomic_write_text(folder.config, dump_config(config))
        saved = load_state(folder, machine.device, monitor)
        if saved is not None:
            state.restore(saved)
            monitor.note(f"continuing {folder.path.name} after epoch {state.epoch} (--fresh starts over)")
        fit(state, plan, folder, stop, monitor)
        write_record(folder.training, _training_record(config, plan, state, folder, machine))
    return folder


def _clear(folder: RunFolder) -> None:
    folder.training.unlink(missing_ok=True)
    for path in (*folder.checkpoints(), folder.metrics, *folder.evaluations.glob("*.json")):
        path.unlink(missing_ok=True)


def prepare(config: RunConfig, data: Dataset, device: torch.device) -> tuple[Plan, TrainState]:
    """The plan of a run and its state before the first step. Raises ConfigError where arch and images do not fit."""
    channels, height, _ = data.image_shape
    spec = ModelSpec(
        arch=config.arch.name,
        params=config.arch.params,
        num_classes=data.num_classes,
        in_channels=channels,
        image_size=height,
        mean=data.mean,
        std=data.std,
    )
    seed_everything(config.seed, "init")
    model = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[config.optimizer.name](model.parameters(), **config.optimizer.params)
    threat = make_threat(config.threat.norm, config.threat.eps)
    attack = config.attack
    plan = Plan(
        config=config,
        method=METHODS[config.method.name](**config.method.params),
        inner=Inner(threat, attack.steps, attack.rel_step, attack.random_start, attack.bn_mode),
        data=data,
        spec=spec,
        augment=augment(data.augment if config.augment == "auto" else config.augment),
        device=device,
        peak_lr=optimizer.param_groups[0]["lr"],
    )
    return plan, TrainState.fresh(model, optimizer, config.ema)


def _training_record(
    config: RunConfig, plan: Plan, state: TrainState, folder: RunFolder, machine: Machine
) -> TrainingRecord:
    last = state.history[-1]
    spec = plan.spec
    return TrainingRecord(
        id=config.run_id,
        created=_now(),
        config=config.model_dump(mode="json"),
        digest=config.digest,
        model=spec,
        n_params=count_params(state.model),
        flops=count_flops(state.model, (1, spec.in_channels, spec.image_size, spec.image_size)),
        dataset=plan.data.name,
        dataset_source=plan.data.source,
        n_train=len(plan.data.train),
        n_val=len(plan.data.val),
        best_epoch=state.best_epoch,
        final=last,
        best=next(metrics for metrics in state.history if metrics.epoch == state.best_epoch),
        seconds=round(sum(metrics.seconds for metrics in state.history), 2),
        hardware=hardware_name(plan.device),
        resumed=state.resumed,
        weights={checkpoint: sha256_of(folder.weights(checkpoint)) for checkpoint in get_args(Checkpoint)},
        env=environment(plan.device),
        command=machine.command,
    )


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
    if len(images) == 0:
        raise DeatbenchError(f"the test split of {data.name} is empty")
    module = model.module.to(machine.device).eval().requires_grad_(False)
    num_classes = check_fit(module, images, machine.device)
    if num_classes != data.num_classes:
        raise ConfigError(
            f"{model.source} has {num_classes} classes, data set {data.name} has {data.num_classes}",
            f"it was trained for {model.dataset}" if model.dataset else "choose its data set with --dataset",
        )
    with strict_float32():
        flags = inspect_model(module, images, threat, device=machine.device)
    done = attack_model(
        module, images, threat, chosen, seed=seed, batch_size=batch_size, device=machine.device, monitor=monitor
    )
    flags += judge_results(done.clean_N, done.robust, done.attacks, threat)
    samples = Samples(
        n=len(images),
        clean=pack_bits(done.clean_N),
        robust={name: pack_bits(verdicts_N) for name, verdicts_N in done.robust.items()},
    )
    sha256 = weights_sha256(module)
    key = {"model": sha256, "data": data.name, "n": len(images), "attacks": list(attacks), "seed": seed,
           "threat": threat.record().slug, "batch_size": batch_size, "engines": [attack.engine for attack in chosen],
           "checkpoint": model.training and model.training.checkpoint}  # fmt: skip
    return EvaluationRecord(
        id=f"{model.name}{f'-{model.training.checkpoint}' if model.training else ''}-{digest_of(key)[:8]}",
        created=_now(),
        model=ModelInfo(
            name=model.name,
            arch=model.arch,
            params=model.params,
            source=model.source,
            sha256=sha256,
            n_params=count_params(module),
        ),
        training=model.training,
        dataset=DatasetInfo(name=data.name, split="test", n=len(images), sha256=data.test.sha256()),
        threat=threat.record(),
        metrics=metrics_of(done.clean_N, done.robust),
        attacks=done.attacks,
        samples=samples,
        flags=tuple(flags),
        env=environment(machine.device),
        batch_size=batch_size,
        seconds=round(done.seconds, 2),
        command=machine.command,
    )


def run(config: RunConfig, machine: Machine, *, fresh: bool = False, monitor: Monitor | None = None) -> RunResult:
    """Train, evaluate the best and the last checkpoint, and enter the model into the zoo."""
    folder = train(config, machine, fresh=fresh, monitor=monitor)
    data = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction)
    threat = make_threat(config.threat.norm, config.threat.eps)
    plan = config.evaluation
    records = []
    checkpoint: Checkpoint
    for checkpoint, attacks in (("best", plan.attacks), ("last", plan.last_attacks)):
        path = folder.evaluations / f"{checkpoint}-{digest_of(plan.model_dump(mode='json'))[:8]}.json"
        if not path.is_file():
            if monitor is not None:
                monitor.note(f"attacking the {checkpoint} weights of {folder.path.name}")
            model = trained_model(folder, checkpoint, machine.device)
            record = evaluate(
                model, data, threat, attacks, machine,
                n=plan.n, seed=config.seed, batch_size=plan.batch_size, engine=plan.engine, monitor=monitor,
            )  # fmt: skip
            write_record(path, record)
        records.append(read_record(path, EvaluationRecord))
    training = read_record(folder.training, TrainingRecord)
    return RunResult(folder, training, tuple(records), add_to_zoo(machine.home, folder, training, records))


def add_to_zoo(home: Home, folder: RunFolder, training: TrainingRecord, records: Sequence[EvaluationRecord]) -> Path:
    """Enter the best checkpoint of a run into the zoo: card, evaluations, and the weights when they are small."""
    config = RunConfig.model_validate(training.config)
    threat = make_threat(config.threat.norm, config.threat.eps).record()
    entry = home.zoo / training.dataset / threat.slug / training.id
    weights = folder.weights("best").read_bytes()
    small = len(weights) <= SMALL_WEIGHTS_BYTES
    card = ModelCard(
        id=training.id,
        dataset=training.dataset,
        threat=threat,
        model=training.model,
        checkpoint="best",
        weights_file="model.safetensors" if small else None,
        weights_sha256=training.weights["best"],
        weights_bytes=len(weights),
        training=training,
    )
    if small:
        atomic_write_bytes(entry / "model.safetensors", weights)
    for record in records:
        write_record(entry / "evaluations" / f"{record.id}.json", record)
    write_record(entry / "card.json", card)
    return entry


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
