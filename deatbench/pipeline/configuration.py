"""From what was asked for to a complete configuration: every name resolved, every hyper-parameter written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from deatbench.archs import ARCHS
from deatbench.attacks import make_attack
from deatbench.config import RunConfig, Spec, build_config
from deatbench.data import DATASETS, found
from deatbench.errors import ConfigError
from deatbench.methods import METHODS
from deatbench.optim import OPTIMIZERS

ARCH_CONTEXT = ("num_classes", "in_channels", "image_size", "name")  # what is no hyper-parameter of an architecture


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
    if config.shifted and optimizer != "deat":
        raise ConfigError(f"shifted=true: {optimizer} has no shifted point", "--set optimizer.name=deat has")
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
