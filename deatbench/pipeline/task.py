"""One evaluation, complete: the network, the images, the attacks with all their settings, and the id that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from deatbench.archs.build import count_params
from deatbench.attacks import Attack
from deatbench.data import Dataset, Images
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.contract import check_fit
from deatbench.engine.evaluate import Settings
from deatbench.engine.search import Search
from deatbench.errors import ConfigError, DeatbenchError
from deatbench.models import LoadedModel
from deatbench.pipeline.machine import Machine
from deatbench.pipeline.request import EvaluationRequest
from deatbench.records import DatasetInfo, ModelInfo, digest_of
from deatbench.threats import ThreatModel, make_threat

BATCH_SIZE = {"cpu": 500, "cuda": 4000}
WORTH_COMPILING = 10**7  # image passes on a GPU from which half a minute of compilation pays


@dataclass(frozen=True)
class Task:
    """What is evaluated, how, and on which images. `sweep` are the further radii of a curve."""

    model: LoadedModel
    module: nn.Module
    data: Dataset
    images: Images
    threat: ThreatModel
    attacks: tuple[Attack, ...]
    sweep: tuple[ThreatModel, ...]
    settings: Settings

    @cached_property
    def model_info(self) -> ModelInfo:
        """The network as it stands in the record."""
        return ModelInfo(
            name=self.model.name,
            arch=self.model.arch,
            params=self.model.params,
            source=self.model.source,
            sha256=weights_sha256(self.module),
            n_params=count_params(self.module),
            code_sha256=self.model.code_sha256,
        )

    @cached_property
    def dataset_info(self) -> DatasetInfo:
        """The images as they stand in the record."""
        return DatasetInfo(name=self.data.name, split="test", n=len(self.images), sha256=self.data.test.sha256())

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that decides the verdicts, and how the work is cut up."""
        threat, settings = self.threat, self.settings
        members = [(attack.name, attack.members(threat.norm)) for attack in self.attacks]
        code = {"code": self.model.code_sha256} if self.model.code_sha256 else {}
        return {
            "model": self.model_info.sha256,
            **code,
            "checkpoint": self.model.training.checkpoint if self.model.training else None,
            "data": self.data.name,
            "n": len(self.images),
            "threat": threat.record().slug,
            "attacks": [
                (name, [(part.name, part.params(self.data.num_classes)) for part in parts]) for name, parts in members
            ],
            "engine": [attack.engine.split()[0] for attack in self.attacks],
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "search": settings.search.precision,
            "draws": settings.draws,
            "sweep": [other.eps_text for other in self.sweep],
            "images": settings.keep_images,
        }

    @property
    def progress_key(self) -> dict[str, Any]:
        """The key, and what else must not change between a stop and its continuation."""
        versions = [f"torch {torch.__version__}", *sorted({attack.engine for attack in self.attacks})]
        workers = self.settings.workers  # how many share the work decides how it is cut up
        return {
            **self.key,
            "data_sha256": self.dataset_info.sha256,
            "versions": versions,
            "workers": workers,
            "certificates": self.settings.certificates,  # they change no verdict, but which parts there are
        }

    @property
    def record_id(self) -> str:
        """The model's name and a digest of all that decides the verdicts: the same evaluation has the same id."""
        training = self.model.training
        name = f"{self.model.name}-{training.checkpoint}" if training else self.model.name
        return f"{name}-{digest_of(self.key)[:8]}"

    @property
    def searches(self) -> bool:
        """Whether any attack runs on a search form: published code and published draws ask the network itself."""
        members = (member for attack in self.attacks for member in attack.members(self.threat.norm))
        return self.settings.draws == "own" and any(member.own for member in members)


def make_task(
    model: LoadedModel, data: Dataset, threat: ThreatModel, request: EvaluationRequest, machine: Machine
) -> Task:
    """What `request` means for this model and these images. Raises ConfigError where they do not fit."""
    attacks = tuple(request.make_attacks())
    images = data.test if request.n is None else data.test.subset(torch.arange(min(request.n, len(data.test))))
    sweep = (make_threat(threat.norm, text) for text in request.eps_sweep)
    return Task(
        model=model,
        module=_fitting_module(model, data, images, machine),
        data=data,
        images=images,
        threat=threat,
        attacks=attacks,
        sweep=tuple(other for other in sweep if other.eps != threat.eps),
        settings=_settings(request, attacks, threat.norm, len(images), data.num_classes, machine.device),
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
        workers=torch.get_num_threads() if device.type == "cpu" else 1,
        certificates=request.certificates,
    )
