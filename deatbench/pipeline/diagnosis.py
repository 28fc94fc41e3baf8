"""What a network makes of each image, clean and attacked: predictions, accuracy over the radius, a gallery.

PGD-20 on the first test images, in strict float32 as in an evaluation. It is made to be looked at; nothing is ranked
by it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor

from deatbench.archs.build import count_flops
from deatbench.attacks.rng import ExampleRng
from deatbench.data import Dataset
from deatbench.engine.contract import check_fit
from deatbench.engine.environment import environment
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.evaluation import Evaluation
from deatbench.engine.interruption import stopped_by_signals
from deatbench.engine.monitor import Monitor
from deatbench.engine.search import strict_float32
from deatbench.errors import InterruptedRun
from deatbench.models import LoadedModel
from deatbench.pipeline.machine import Machine, now
from deatbench.pipeline.pictures import MOST_PIXELS, difference, png
from deatbench.pipeline.request import EvaluationRequest
from deatbench.pipeline.task import Task, make_task
from deatbench.records import Diagnostics, Exhibit, Metric, RadiusPoint, pack_classes
from deatbench.threats import ThreatModel

ATTACK = "pgd-20"
MULTIPLES = ("0.25", "0.5", "1.5", "2")  # of eps: the further radii of the curve
MOST_IMAGES, FEWEST_IMAGES = 1000, 100
CPU_FLOPS = 10**10  # that a forward pass of all images may take on a CPU: the attacks are then done in some ten seconds
EXHIBITS = 8


@dataclass(frozen=True)
class _Seen:
    """Classes of each image [N]: the true one, that of the clean image, that of the attacked one.

    `x_adv` holds the adversarial images of those that were broken, by index.
    """

    labels_N: np.ndarray
    clean_N: np.ndarray
    adversarial_N: np.ndarray
    x_adv: dict[int, Tensor]


def diagnose(
    model: LoadedModel,
    data: Dataset,
    threat: ThreatModel,
    machine: Machine,
    *,
    n: int | None = None,
    seed: int = 0,
    monitor: Monitor | None = None,
) -> Diagnostics:
    """Attack the first `n` test images by PGD-20 and say what the network took each of them for.

    Without `n` they are as many as `affordable_images` says. The accuracies over the radius cannot rise: an
    image that is broken at one radius is broken at the larger ones. Raises ConfigError if model and data do not fit,
    InterruptedRun if it is stopped.
    """
    started = time.perf_counter()
    request = EvaluationRequest(
        (ATTACK,),
        n=n or affordable_images(model, data, machine.device),
        seed=seed,
        eps_sweep=tuple(_times(threat.eps_text, factor) for factor in MULTIPLES),
        save_adversarials=True,
    )
    task = make_task(model, data, threat, request, machine)
    with stopped_by_signals(), strict_float32():
        done = attack_model(
            task.module, task.images, threat, task.attacks, task.settings,
            sweep=task.sweep, device=machine.device, monitor=monitor,
        )  # fmt: skip
        if done.missing:
            raise InterruptedRun("diagnosis stopped", "the same command makes it anew")
        seen = _look(task, done, machine.device)
        gallery = tuple(_exhibit(task, seen, index, machine.device) for index in choose_exhibits(seen, task))
    return _record(task, seen, _curve(done), gallery, machine, time.perf_counter() - started)


def affordable_images(model: LoadedModel, data: Dataset, device: torch.device) -> int:
    """How many images a diagnosis looks at unasked: 1000; on a CPU fewer with a large network, but 100.

    Raises ConfigError if network and images do not fit.
    """
    if device.type != "cpu" or not len(data.test):
        return MOST_IMAGES
    check_fit(model.module, data.test, device)
    flops = count_flops(model.module, (1, *data.image_shape))
    return max(FEWEST_IMAGES, min(MOST_IMAGES, CPU_FLOPS // max(1, flops) // 100 * 100))


def _times(eps_text: str, factor: str) -> str:
    """The radius times a decimal number, exactly and in the same writing: 8/255 by 0.25 is 2/255."""
    numerator, slash, denominator = eps_text.partition("/")
    product = (Decimal(numerator) * Decimal(factor)).normalize()
    return f"{product:f}{slash}{denominator}"


def _look(task: Task, done: Evaluation, device: torch.device) -> _Seen:
    """What the network itself takes the images for; those that withstood keep their true class."""
    n, labels_N = len(task.images), task.images.labels_N.numpy()
    batches = torch.arange(n).split(task.settings.batch_size)
    clean_N = np.concatenate([_logits(task, x).argmax(1).numpy() for x, _ in task.images.batches(batches, device)])
    adversarial_N = np.where(done.clean_N, labels_N, clean_N)
    x_adv = {}
    if ATTACK in done.images:
        indices, images = done.images[ATTACK]
        adversarial_N[indices] = _wrong_classes(task, torch.from_numpy(images), task.images.labels_N[indices], device)
        x_adv = {int(index): torch.from_numpy(image) for index, image in zip(indices, images, strict=True)}
    return _Seen(labels_N, clean_N, adversarial_N, x_adv)


def _wrong_classes(task: Task, x_adv_NCHW: Tensor, y_N: Tensor, device: torch.device) -> np.ndarray:
    """The classes [N] of adversarial images, by the network itself.

    That they are misclassified was confirmed when they were found; so the class is that of the largest wrong logit,
    also where another batch rounds otherwise.
    """
    parts = [_logits(task, part.to(device)) for part in x_adv_NCHW.split(task.settings.batch_size)]
    classes_N: np.ndarray = torch.cat(parts).scatter(1, y_N[:, None], float("-inf")).argmax(1).numpy()
    return classes_N


def _logits(task: Task, x_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        logits_NK: Tensor = task.module(x_NCHW)
    return logits_NK.cpu()


def _curve(done: Evaluation) -> tuple[RadiusPoint, ...]:
    """Accuracy at each radius, from the clean images (radius 0) on."""
    return (
        RadiusPoint(eps=0.0, eps_text="0", accuracy=Metric.of(done.clean_N)),
        *(
            RadiusPoint(eps=threat.eps, eps_text=threat.eps_text, accuracy=Metric.of(robust_N))
            for threat, robust_N in done.curve
        ),
    )


def _record(
    task: Task,
    seen: _Seen,
    curve: tuple[RadiusPoint, ...],
    gallery: tuple[Exhibit, ...],
    machine: Machine,
    seconds: float,
) -> Diagnostics:
    return Diagnostics(
        id=task.record_id,
        created=now(),
        model=task.model_info,
        dataset=task.dataset_info,
        threat=task.threat.record(),
        attack=ATTACK,
        params=task.attacks[0].params(task.data.num_classes),
        seed=task.settings.seed,
        class_names=task.data.classes,
        labels=pack_classes(seen.labels_N),
        clean_classes=pack_classes(seen.clean_N),
        adversarial_classes=pack_classes(seen.adversarial_N),
        curve=curve,
        gallery=gallery,
        env=environment(machine.device),
        seconds=round(seconds, 2),
        command=machine.command,
    )


def choose_exhibits(seen: _Seen, task: Task) -> list[int]:
    """The gallery's images, by index: of each class the first that was broken, then survivors, then more of the broken.

    Large pictures are fewer.
    """
    _, height, width = task.data.image_shape
    most = max(2, min(EXHIBITS, MOST_PIXELS // (height * width)))
    correct_N = seen.clean_N == seen.labels_N
    broken_N = correct_N & (seen.adversarial_N != seen.labels_N)
    first = _first_of_each_class(seen.labels_N, broken_N)
    survivors = _first_of_each_class(seen.labels_N, correct_N & ~broken_N)
    more = [int(index) for index in np.flatnonzero(broken_N) if index not in first]
    return [*first, *survivors, *more][:most]


def _first_of_each_class(labels_N: np.ndarray, among_N: np.ndarray) -> list[int]:
    """Index of the first image of each class, in the order of classes, of those that are `among_N`."""
    return [int(np.flatnonzero(among_N & (labels_N == label))[0]) for label in np.unique(labels_N[among_N])]


def _exhibit(task: Task, seen: _Seen, index: int, device: torch.device) -> Exhibit:
    x_NCHW, y_N = next(iter(task.images.batches([torch.tensor([index])], device)))
    x_adv = seen.x_adv[index] if index in seen.x_adv else _attacked(task, x_NCHW, y_N, index)
    x = x_NCHW[0].cpu()
    return Exhibit(
        index=index,
        label=int(seen.labels_N[index]),
        clean_class=int(seen.clean_N[index]),
        adversarial_class=int(seen.adversarial_N[index]),
        clean_png=png(x),
        difference_png=png(difference(x, x_adv)),
        adversarial_png=png(x_adv),
    )


def _attacked(task: Task, x_NCHW: Tensor, y_N: Tensor, index: int) -> Tensor:
    """Where the attack ended that this image has withstood: what is not a success is not kept."""
    attack = task.attacks[0]
    rng = ExampleRng(task.settings.seed, torch.tensor([index]), f"{attack.name}/0")
    return attack(task.module, x_NCHW, y_N, task.threat, rng)[0].cpu()
