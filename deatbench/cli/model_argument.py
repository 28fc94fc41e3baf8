"""The MODEL argument: the network that it names, and what that was trained for: its default data set and threat."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deatbench.errors import ConfigError

if TYPE_CHECKING:
    from deatbench.data import Dataset
    from deatbench.models import LoadedModel
    from deatbench.pipeline import Machine
    from deatbench.records import Checkpoint, ModelSpec
    from deatbench.threats import ThreatModel


def load_named(
    text: str | None,
    machine: Machine,
    checkpoint: Checkpoint,
    arch: str | None,
    overrides: Sequence[str],
    data: Dataset | None,
) -> LoadedModel:
    """The network that MODEL names, without one that of the latest run.

    A weight file that does not say it itself is of architecture `arch` with `overrides`, `arch.KEY=VALUE` each, for the
    images of `data`. Raises ConfigError where these do not go together, and what finding and loading the model raises.
    """
    from deatbench.models import ModelRequest, load_model

    if text is None:
        folder = machine.home.latest_run().path
        print(f"note: no MODEL named; taking the latest run, {folder.name}", file=sys.stderr)
        text = str(folder)
    spec = None
    if arch is not None:
        if data is None:
            raise ConfigError("--arch needs --dataset: it decides channels, classes and normalisation")
        spec = _spec(arch, overrides, data)
    elif overrides:
        raise ConfigError("--set changes a parameter of --arch, which is not given")
    return load_model(ModelRequest(text, machine.home, machine.device, checkpoint, spec))


def _spec(arch: str, overrides: Sequence[str], data: Dataset) -> ModelSpec:
    from deatbench.archs import ARCHS
    from deatbench.pipeline.configuration import ARCH_CONTEXT

    params = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.startswith("arch."):
            raise ConfigError(f"--set {text!r} is not arch.KEY=VALUE", "for example --set arch.width=0.5")
        params[key.removeprefix("arch.")] = value
    return data.model_spec(arch, ARCHS.bind(arch, params, ARCH_CONTEXT))


def check_checkpoint(checkpoint: str | None, model: LoadedModel) -> None:
    """Raises ConfigError where --checkpoint asks for other weights than these, of what has no others."""
    kept = model.training.checkpoint if model.training else None
    if checkpoint not in (None, kept):
        what = f"has {kept} weights only" if kept else "is no run"
        raise ConfigError(f"--checkpoint {checkpoint}: {model.source} {what}", "leave out --checkpoint")


def check_arch(arch: str | None, *models: LoadedModel) -> None:
    """Raises ConfigError where --arch names none of the networks: they say themselves what they are."""
    if arch is not None and all(model.arch != arch for model in models):
        raise ConfigError(f"--arch {arch}: {models[0].source} is a {models[0].arch}", "leave out --arch")


def dataset_for(model: LoadedModel, named: str | None) -> str:
    """The data set `named`, else the one that the model was trained for. Raises ConfigError if nobody knows it."""
    name = named or model.dataset
    if name is None:
        raise ConfigError(f"nobody knows what {model.source} was trained on", "name its data set with --dataset")
    return name


def threat_for(model: LoadedModel, norm: str | None, eps: str | None) -> ThreatModel:
    """The threat asked for, completed by the one that the model was trained for where the norm is the same.

    Raises ConfigError on an `eps` that is no radius, or if nobody knows one.
    """
    from deatbench.records import check_radius
    from deatbench.threats import make_threat

    trained = model.threat
    norm = norm or (trained.norm if trained else "Linf")
    if eps is None and trained is not None and trained.norm == norm:
        eps = trained.eps_text
    if eps is None:
        raise ConfigError(
            f"nobody knows an eps for {model.source} in {norm}", "name it with --eps, such as --eps 8/255"
        )
    check_radius(norm, eps)
    return make_threat(norm, eps)
