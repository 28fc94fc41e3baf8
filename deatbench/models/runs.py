"""A run folder, or the id of a run below the working folder: its best or last weights."""

from __future__ import annotations

from pathlib import Path

import torch

from deatbench.config import RunConfig
from deatbench.errors import MissingError
from deatbench.models.loaded import LoadedModel
from deatbench.models.request import ModelRequest
from deatbench.models.weights import load_weights
from deatbench.records import Checkpoint, Threat, TrainingInfo, TrainingRecord, parse_eps
from deatbench.store import RunFolder, read_record


def reading(request: ModelRequest) -> str | None:
    """A folder at that path, or a run of that name; the same folder under both readings is one."""
    named = _named(request)
    if request.path.is_dir() and named is not None and not request.path.samefile(named):
        return f"the folder ./{request.text} and as the run {named}"
    if request.path.is_dir():
        return f"the folder {request.path}"
    return f"the run {named}" if named is not None else None


def load(request: ModelRequest) -> LoadedModel:
    """The weights of `request.checkpoint`. Raises MissingError if the folder holds no finished run."""
    path = request.path if request.path.is_dir() else _named(request)
    folder = RunFolder(path or request.path)
    if not folder.finished:
        begun = folder.config.is_file()
        problem = "a run that is not finished" if begun else "no run (it has no training.json)"
        hint = "continue it with its command, or name its best.safetensors" if begun else "name a folder under runs/"
        raise MissingError(f"{folder.path} is {problem}", hint)
    return trained_model(folder, request.checkpoint, request.device)


def trained_model(folder: RunFolder, checkpoint: Checkpoint, device: torch.device) -> LoadedModel:
    """The network of a finished run with the weights of that name. Raises MissingError if the run kept none such."""
    record = read_record(folder.training, TrainingRecord)
    if checkpoint not in record.weights:
        kept = ", ".join(record.weights)
        raise MissingError(f"{folder.path.name} has kept no {checkpoint} weights", f"it has {kept}")
    module, spec = load_weights(folder.weights(checkpoint), device, expect_sha256=record.weights[checkpoint])
    return LoadedModel(
        module=module,
        name=record.id,
        arch=spec.arch,
        params=spec.params,
        source=f"{record.id}/{checkpoint}.safetensors",
        dataset=record.dataset,
        threat=trained_threat(record),
        training=training_info(record, checkpoint),
        evaluations=folder.evaluations,
    )


def trained_threat(record: TrainingRecord) -> Threat:
    """The threat that a run trained for."""
    threat = RunConfig.model_validate(record.config).threat
    return Threat(norm=threat.norm, eps=parse_eps(threat.eps), eps_text=threat.eps)


def training_info(record: TrainingRecord, checkpoint: Checkpoint) -> TrainingInfo:
    """What an evaluation says about how its weights were trained."""
    config = RunConfig.model_validate(record.config)
    return TrainingInfo(
        run_id=record.id,
        method=config.method.name,
        recipe=config.recipe,
        digest=record.digest,
        optimizer=config.optimizer.name,
        seed=config.seed,
        epochs=config.epochs,
        checkpoint=checkpoint,
        checkpoint_epoch=record.best_epoch if checkpoint == "best" else config.epochs,
        seconds=record.seconds,
        hardware=record.hardware,
        n_train=record.n_train,
        n_val=record.n_val,
        bn_mode=config.attack.bn_mode,
        config=record.config,
    )


def _named(request: ModelRequest) -> Path | None:
    """The run below the working folder that is called so."""
    if any(separator in request.text for separator in "/\\") or request.text in ("", ".", ".."):
        return None
    path = request.home.runs / request.text
    return path if path.is_dir() else None
