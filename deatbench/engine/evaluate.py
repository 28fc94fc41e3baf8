"""The evaluation loop: a verdict per image, attack by attack.

Every top-level attack starts from the correctly classified images; the members of a suite and the restarts of an
attack see only the survivors. An adversarial image counts only if it is confirmed: inside the ball, inside
[0, 1], and misclassified by the model in float32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from deatbench.attacks import Attack
from deatbench.attacks.base import ENGINE
from deatbench.attacks.borrow import mode
from deatbench.attacks.gradient import InterruptedGradient
from deatbench.attacks.rng import ExampleRng
from deatbench.data import Images
from deatbench.engine.folding import attack_form
from deatbench.engine.monitor import Monitor
from deatbench.errors import ConfigError, DeatbenchError, InterruptedRun
from deatbench.records import AttackResult
from deatbench.threats import ThreatModel


@dataclass(frozen=True)
class Evaluation:
    """Verdicts as booleans [N]: `clean_N` correct without attack, `robust[name]` correct under it as well."""

    clean_N: np.ndarray
    robust: dict[str, np.ndarray]
    attacks: tuple[AttackResult, ...]
    seconds: float


class PassCounter(nn.Module):
    """The model, counting the images that pass through it."""

    def __init__(self, model: nn.Module, monitor: Monitor) -> None:
        super().__init__()
        self.model = model
        self.monitor = monitor
        self.images = 0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.images += len(x_NCHW)
        self.monitor.advance(len(x_NCHW))
        return self.model(x_NCHW)


def evaluate(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    attacks: Sequence[Attack],
    *,
    seed: int = 0,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    monitor: Monitor | None = None,
) -> Evaluation:
    """Attack `model` on `images` with each of `attacks`.

    The model must return logits [N, K] for float32 images in [0, 1]; it is used in eval mode and left in the mode it
    came in. An attack that needs a gradient where the model interrupts it succeeds nowhere. Raises ConfigError if
    images, labels and model do not fit, DeatbenchError on NaN logits.
    """
    monitor = monitor or Monitor()
    judge = _Judge(model, images, threat, seed, batch_size, torch.device(device), monitor)
    started = time.perf_counter()
    try:
        with strict_float32(), mode(model, training=False):
            clean_N = judge.clean()
            robust: dict[str, np.ndarray] = {}
            results: list[AttackResult] = []
            for attack in attacks:
                robust[attack.name], steps = judge.attack(attack, clean_N)
                results += steps
    except KeyboardInterrupt:
        raise InterruptedRun("evaluation stopped", "nothing was recorded; run it again") from None
    return Evaluation(clean_N, robust, tuple(results), time.perf_counter() - started)


def check_fit(model: nn.Module, images: Images, device: torch.device) -> int:
    """The number of classes K, from a forward pass of two images. Raises ConfigError if model and images do not fit."""
    x_NCHW, _ = next(iter(images.batches([torch.arange(min(2, len(images)))], device)))
    try:
        with torch.no_grad(), mode(model, training=False):
            logits_NK = model(x_NCHW)
    except Exception as error:  # the model may be anybody's code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the model does not take images of shape {tuple(x_NCHW.shape[1:])}: {reason}",
            "choose the data set it was trained for with --dataset",
        ) from error
    if not isinstance(logits_NK, Tensor) or logits_NK.ndim != 2 or len(logits_NK) != len(x_NCHW):
        found = tuple(logits_NK.shape) if isinstance(logits_NK, Tensor) else type(logits_NK).__name__
        raise ConfigError(f"the model returned {found} for {len(x_NCHW)} images", "it must return logits [N, K]")
    num_classes, largest = logits_NK.shape[1], int(images.labels_N.max())
    if largest >= num_classes:
        raise ConfigError(
            f"the model has {num_classes} classes, the data set has labels up to {largest}",
            "choose the data set it was trained for with --dataset",
        )
    return num_classes


class _Judge:
    """One evaluation in progress."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        threat: ThreatModel,
        seed: int,
        batch_size: int,
        device: torch.device,
        monitor: Monitor,
    ) -> None:
        self.model = PassCounter(model, monitor)
        self.search: PassCounter | None = None
        self.images = images
        self.threat = threat
        self.seed = seed
        self.batch_size = batch_size
        self.device = device
        self.monitor = monitor
        self.num_classes = 0

    def clean(self) -> np.ndarray:
        """Which images are classified correctly; checks on the way that model and data fit."""
        self.num_classes = check_fit(self.model.model, self.images, self.device)
        correct_N = np.zeros(len(self.images), dtype=bool)
        self.monitor.start("clean", len(self.images))
        for indices, (x_NCHW, y_N) in self._batches(torch.arange(len(self.images))):
            logits_NK = self._logits(x_NCHW)
            self._check(logits_NK, x_NCHW)
            correct_N[indices] = (logits_NK.argmax(1) == y_N).cpu().numpy()
        self.monitor.finish(f"{correct_N.mean():.2%}")
        return correct_N

    def attack(self, attack: Attack, clean_N: np.ndarray) -> tuple[np.ndarray, list[AttackResult]]:
        """Verdicts after `attack`, and what each of its members did."""
        robust_N = clean_N.copy()
        results = []
        for member in attack.members():
            name = member.name if member is attack else f"{attack.name}/{member.name}"
            before, images_before, started = robust_N.mean(), self._images_passed(), time.perf_counter()
            self.monitor.start(name, float(robust_N.sum()) * member.passes(self.num_classes) * member.runs)
            try:
                for run in range(member.runs):
                    self._run(member, run, robust_N)
            except InterruptedGradient as error:  # no success is no proof of robustness: soundness flags such a model
                self.monitor.note(f"{name}: {error.message}")
            self.monitor.finish(f"{before:.2%} -> {robust_N.mean():.2%}")
            results.append(
                AttackResult(
                    name=name,
                    params=member.params(),
                    seed=self.seed,
                    engine=member.engine,
                    robust_before=float(before),
                    robust_after=float(robust_N.mean()),
                    seconds=round(time.perf_counter() - started, 3),
                    forward_passes=self._images_passed() - images_before,
                )
            )
        return robust_N, results

    def _run(self, member: Attack, run: int, robust_N: np.ndarray) -> None:
        survivors = torch.from_numpy(np.flatnonzero(robust_N))
        for indices, (x_NCHW, y_N) in self._batches(survivors):
            rng = ExampleRng(self.seed, indices, f"{member.name}/{run}")
            x_adv_NCHW = member(self._model_for(member, x_NCHW), x_NCHW, y_N, self.threat, rng)
            robust_N[indices[self._confirm(x_adv_NCHW, x_NCHW, y_N)]] = False

    def _model_for(self, member: Attack, x_NCHW: Tensor) -> PassCounter:
        """Published code gets the model itself, our own attacks its cheaper form."""
        if member.engine != ENGINE:
            return self.model
        if self.search is None:
            self.search = PassCounter(attack_form(self.model.model, x_NCHW), self.monitor)
        return self.search

    def _images_passed(self) -> int:
        return self.model.images + (self.search.images if self.search else 0)

    def _confirm(self, x_adv_NCHW: Tensor, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
        """Which adversarial images count, bool [N] on the CPU. NaN pixels or distances never do."""
        x_adv = x_adv_NCHW.float()
        inside = self.threat.distance(x_adv, x_NCHW) <= self.threat.eps + self.threat.tolerance
        in_range = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
        return (inside & in_range & (self._logits(x_adv).argmax(1) != y_N)).cpu()

    def _logits(self, x_NCHW: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x_NCHW)

    def _batches(self, indices_N: Tensor):  # type: ignore[no-untyped-def]
        batches = list(indices_N.split(self.batch_size)) if len(indices_N) else []
        return zip(batches, self.images.batches(batches, self.device), strict=True)

    def _check(self, logits_NK: Tensor, x_NCHW: Tensor) -> None:
        if not torch.isfinite(logits_NK).all():
            raise DeatbenchError("the model returns NaN or infinite logits on clean images")
        if float(x_NCHW.amin()) < 0 or float(x_NCHW.amax()) > 1:
            raise ConfigError("images lie outside [0, 1]", "normalisation belongs inside the model")


class strict_float32:  # noqa: N801 - reads as a statement: `with strict_float32():`
    """Switch TF32 off while verdicts are made; on Ampere and later it is on for convolutions by default."""

    def __enter__(self) -> None:
        self._before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *exc: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before
