"""The evaluation loop: a verdict per image, attack by attack.

Every top-level attack starts from the correctly classified images; the members of a suite and the restarts of an
attack see only the survivors. Each such stage is cut into units, parts of the images that stand; a unit's outcome
depends on nothing but itself, so that units may be kept, repeated after a kill, or shared among processes.
An adversarial image counts only if it is confirmed: inside the ball, inside [0, 1], and misclassified by the model in
float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from deatbench.attacks import Attack
from deatbench.attacks.borrow import mode
from deatbench.attacks.gradient import InterruptedGradient, SearchForm
from deatbench.attacks.journal import Journal
from deatbench.attacks.restarts import all_runs
from deatbench.attacks.rng import ExampleRng, PublishedRng
from deatbench.data import Images
from deatbench.data.images import to_unit
from deatbench.engine.monitor import Monitor
from deatbench.engine.progress import Outcome, Progress
from deatbench.engine.search import Search, strict_float32
from deatbench.engine.shards import Alone
from deatbench.errors import ConfigError, DeatbenchError, InterruptedRun
from deatbench.records import AttackResult, wilson_interval
from deatbench.threats import ThreatModel

Draws = Literal["own", "published"]
NOTHING_KEPT = np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class Settings:
    """How an evaluation is carried out.

    Args:
        seed: of all random draws.
        batch_size: rows of work at once: images, or (image, target class) pairs. Changes no verdict of our attacks.
        search: the arithmetic of our attacks' search.
        draws: "own" belong to each image; "published" are pyautoattack's, which depend on the batch.
        keep_images: collect an adversarial image for each broken one.
    """

    seed: int = 0
    batch_size: int = 500
    search: Search = field(default_factory=Search)
    draws: Draws = "own"
    keep_images: bool = False


@dataclass
class Evaluation:
    """Verdicts as booleans [N]: `clean_N` correct without attack, `robust[name]` correct under it as well.

    `curve` holds verdicts at other radii, under the worst of all attacks; `images[name]` are (indices, adversarial
    images) where they were kept. After an interruption `missing` names the attacks that were not finished; a suite
    that had passed its provisional point then stands under `<suite>-provisional`.
    """

    clean_N: np.ndarray
    robust: dict[str, np.ndarray] = field(default_factory=dict)
    attacks: list[AttackResult] = field(default_factory=list)
    curve: list[tuple[ThreatModel, np.ndarray]] = field(default_factory=list)
    images: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    seconds: float = 0.0


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
    settings: Settings | None = None,
    *,
    sweep: Sequence[ThreatModel] = (),
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    shards: Alone | None = None,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Attack `model` on `images` with each of `attacks`, then at the other radii of `sweep`.

    The model must return logits [N, K] for float32 images in [0, 1]; it is used in eval mode and left in the mode it
    came in. An attack that needs a gradient where the model interrupts it succeeds nowhere. What `progress` recalls is
    not done again. Raises ConfigError if images, labels and model do not fit, DeatbenchError on NaN logits,
    InterruptedRun if it is interrupted before an attack or a provisional point is finished.
    """
    judge = _Judge(
        model,
        images,
        settings or Settings(),
        torch.device(device),
        progress or Progress(),
        shards or Alone(),
        monitor or Monitor(),
    )
    with strict_float32(), mode(model, training=False):
        return judge.all(threat, attacks, sweep)


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
    num_classes, smallest, largest = logits_NK.shape[1], int(images.labels_N.min()), int(images.labels_N.max())
    if smallest < 0:
        raise ConfigError(f"a label is {smallest}: labels count classes from 0", "repair the data set")
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
        settings: Settings,
        device: torch.device,
        progress: Progress,
        shards: Alone,
        monitor: Monitor,
    ) -> None:
        self.images, self.settings, self.device = images, settings, device
        self.progress, self.shards, self.monitor = progress, shards, monitor
        self.num_classes = check_fit(model, images, device)
        self.model = PassCounter(model, monitor)
        self.search: SearchForm | None = None
        self.stages = 0
        self.at_once = 2**62  # images that fit into memory, known once they did not

    def all(self, threat: ThreatModel, attacks: Sequence[Attack], sweep: Sequence[ThreatModel]) -> Evaluation:
        """Clean images, each attack, the other radii; what is finished when somebody interrupts."""
        started = time.perf_counter()
        done = Evaluation(np.zeros(len(self.images), dtype=bool))
        for attack in attacks:
            attack.check(threat)
        try:
            done.clean_N = self._clean()
            for attack in attacks:
                done.robust[attack.name] = self._attack(attack, threat, done.clean_N, done)
            done.curve = self._curve(attacks, threat, sweep, done)
        except KeyboardInterrupt:
            if not done.robust:
                hint = "the same command continues" if type(self.progress) is not Progress else "run it again"
                raise InterruptedRun("evaluation stopped before an attack was finished", hint) from None
            done.missing = (
                *(attack.name for attack in attacks if attack.name not in done.robust),
                *["curve"] * bool(sweep),
            )
        done.seconds = time.perf_counter() - started
        return done

    def _clean(self) -> np.ndarray:
        """Which images are classified correctly."""
        correct_N = np.ones(len(self.images), dtype=bool)
        self.monitor.start("clean", len(self.images))
        units = torch.arange(len(self.images)).split(self.settings.batch_size)
        for unit, outcome in self._outcomes(units, self._misclassified):
            correct_N[units[unit][outcome.broken_U]] = False
        self.monitor.finish(f"{correct_N.mean():.2%}")
        return correct_N

    def _attack(self, attack: Attack, threat: ThreatModel, clean_N: np.ndarray, done: Evaluation) -> np.ndarray:
        """Verdicts after `attack`; what its members did, and their images, go into `done`."""
        robust_N = clean_N.copy()
        for member in attack.members(threat.norm):
            name = member.name if member is attack else f"{attack.name}/{member.name}"
            before = float(robust_N.mean())
            outcomes = list(self._tries(name, member, threat, robust_N, done, attack.name))
            result = AttackResult(
                name=name,
                params=member.params(self.num_classes),
                seed=self.settings.seed,
                engine=member.engine,
                robust_before=before,
                robust_after=float(robust_N.mean()),
                seconds=round(sum(outcome.seconds for outcome in outcomes), 3),
                forward_passes=sum(outcome.passes for outcome in outcomes),
            )
            done.attacks.append(result)
            if member.name == attack.provisional_after:
                done.robust[f"{attack.name}-provisional"] = robust_N.copy()
                self.monitor.note(f"{attack.name}, provisional: {_interval(robust_N)}; what follows seldom lowers it")
        done.robust.pop(f"{attack.name}-provisional", None)
        return robust_N

    def _tries(
        self,
        title: str,
        member: Attack,
        threat: ThreatModel,
        robust_N: np.ndarray,
        done: Evaluation | None = None,
        under: str = "",
    ) -> Iterator[Outcome]:
        """`member` and its restarts, each on the survivors; updates `robust_N` and, if given, the images in `done`."""
        before = robust_N.mean()
        self.monitor.start(title, float(robust_N.sum()) * member.passes(self.num_classes) * member.runs)
        for run in range(member.runs if self.settings.draws == "own" else 1):
            survivors = torch.from_numpy(np.flatnonzero(robust_N))
            units = survivors.split(self._images_per_unit(member)) if len(survivors) else ()

            def find(name: str, indices: Tensor, run: int = run) -> Outcome:
                return self._find(member, run, indices, threat, self.progress.journal(name))

            passed = self._images_passed()
            for unit, outcome in self._outcomes(units, find):
                broken = units[unit][outcome.broken_U].numpy()
                robust_N[broken] = False
                if done is not None and self.settings.keep_images:
                    _collect(done.images, under, broken, outcome.x_adv)
                expected = len(units[unit]) * member.passes(self.num_classes)
                passed, passed_before = self._images_passed(), passed
                self.monitor.advance(max(0, expected - (passed - passed_before)), _interval(robust_N))
                yield outcome
                if outcome.interrupted:  # no success is no proof of robustness: soundness flags such a model
                    self.monitor.note(f"{title}: {InterruptedGradient().message}")
                    return
        self.monitor.finish(f"{before:.2%} -> {robust_N.mean():.2%}")

    def _curve(
        self, attacks: Sequence[Attack], threat: ThreatModel, sweep: Sequence[ThreatModel], done: Evaluation
    ) -> list[tuple[ThreatModel, np.ndarray]]:
        """Verdicts at the radii of `sweep` and at the evaluation's own, by increasing radius.

        An image that withstands a radius withstands the smaller ones, one that is broken is broken at the larger
        ones: the curve cannot rise, and only the images in between are attacked.
        """
        if not sweep:
            return []
        worst_N = np.logical_and.reduce([done.clean_N, *done.robust.values()])
        verdicts = {threat: worst_N}
        smaller = sorted((other for other in sweep if other.eps < threat.eps), key=lambda other: -other.eps)
        for larger, other in pairwise([threat, *smaller]):
            doubtful_N = done.clean_N & ~verdicts[larger]
            verdicts[other] = verdicts[larger] | self._worst(attacks, other, doubtful_N)
        larger_ones = sorted((other for other in sweep if other.eps > threat.eps), key=lambda other: other.eps)
        for before, other in pairwise([threat, *larger_ones]):
            verdicts[other] = self._worst(attacks, other, verdicts[before].copy())
        return sorted(verdicts.items(), key=lambda pair: pair[0].eps)

    def _worst(self, attacks: Sequence[Attack], threat: ThreatModel, robust_N: np.ndarray) -> np.ndarray:
        """`robust_N` after all attacks, each on the survivors of the one before."""
        for attack in attacks:
            for member in attack.members(threat.norm):
                list(self._tries(f"eps {threat.eps_text}: {member.name}", member, threat, robust_N))
        return robust_N

    def _outcomes(
        self, units: Sequence[Tensor], work: Callable[[str, Tensor], Outcome]
    ) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of one stage's units: recalled, or worked out here or by another process, then kept."""
        stage = f"{self.stages:03}"
        self.stages += 1

        def outcome_of(unit: int) -> Outcome:
            name = f"{stage}-{unit:05}"
            known = self.progress.recall(name)
            if known is not None:
                return known
            started, passed = time.perf_counter(), self._images_passed()
            found = work(name, units[unit])
            seconds, passes = time.perf_counter() - started, self._images_passed() - passed
            outcome = Outcome(found.broken_U, found.x_adv, seconds, passes, found.interrupted)
            self.progress.keep(name, outcome)
            return outcome

        return self.shards.share(stage, len(units), outcome_of)

    def _misclassified(self, name: str, indices: Tensor) -> Outcome:
        x_NCHW, y_N = self._batch(indices)
        if not (float(x_NCHW.amin()) >= 0 and float(x_NCHW.amax()) <= 1):
            raise ConfigError("images lie outside [0, 1]", "normalisation belongs inside the model")
        logits_NK = self._logits(x_NCHW)
        if not torch.isfinite(logits_NK).all():
            raise DeatbenchError("the model returns NaN or infinite logits on clean images")
        return Outcome((logits_NK.argmax(1) != y_N).cpu().numpy(), NOTHING_KEPT, 0.0, 0)

    def _images_per_unit(self, member: Attack) -> int:
        if not self._is_ours(member):
            return self.settings.batch_size  # batches are part of the published code's result
        return max(1, self.settings.batch_size // member.rows(self.num_classes))

    def _find(self, member: Attack, run: int, indices: Tensor, threat: ThreatModel, journal: Journal) -> Outcome:
        """Attack the images at `indices`, in smaller pieces where memory does not hold all at once."""
        try:
            pieces = list(indices.split(self.at_once))
            found = [
                self._try(member, run, piece, threat, journal if len(pieces) == 1 else Journal()) for piece in pieces
            ]
        except InterruptedGradient:
            return Outcome(np.zeros(len(indices), dtype=bool), NOTHING_KEPT, 0.0, 0, interrupted=True)
        except RuntimeError as error:
            size = min(len(indices), self.at_once)
            if not _is_out_of_memory(error) or size == 1:
                raise
            if not self._is_ours(member):
                raise DeatbenchError(f"out of memory at {size} images", "lower --batch-size") from error
            self.at_once = size // 2
            self.monitor.note(f"out of memory at {size} images; going on with {self.at_once} at a time")
        else:
            return Outcome(
                np.concatenate([broken_U for broken_U, _ in found]), np.concatenate([x for _, x in found]), 0.0, 0
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._find(member, run, indices, threat, journal)

    def _try(
        self, member: Attack, run: int, indices: Tensor, threat: ThreatModel, journal: Journal
    ) -> tuple[np.ndarray, np.ndarray]:
        """(which images broke, an adversarial image for each of these if they are kept)."""
        x_NCHW, y_N = self._batch(indices)
        if self.settings.draws == "published" and member.own:
            x_adv_NCHW = all_runs(member, self.model, x_NCHW, y_N, threat, PublishedRng(self.settings.seed))
            return self._judged(x_adv_NCHW, x_NCHW, y_N, threat)
        rng = ExampleRng(self.settings.seed, indices, f"{member.name}/{run}", run)
        with self.settings.search.arithmetic():
            x_adv_NCHW = member(self._model_for(member, x_NCHW), x_NCHW, y_N, threat, rng, journal)
        return self._judged(x_adv_NCHW, x_NCHW, y_N, threat)

    def _judged(
        self, x_adv_NCHW: Tensor, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel
    ) -> tuple[np.ndarray, np.ndarray]:
        broken_U, proofs = self._confirm(x_adv_NCHW.float(), x_NCHW, y_N, threat)
        return broken_U, proofs.cpu().numpy() if self.settings.keep_images else NOTHING_KEPT

    def _confirm(self, x_adv: Tensor, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel) -> tuple[np.ndarray, Tensor]:
        """Which adversarial images count, bool [U], and those images. NaN pixels or distances never count."""

        def confirmed(images: Tensor) -> Tensor:
            inside = threat.distance(images, x_NCHW) <= threat.eps + threat.tolerance
            in_range = ((images >= 0) & (images <= 1)).flatten(1).all(1)
            return inside & in_range & (self._logits(images).argmax(1) != y_N)

        counts = confirmed(x_adv)
        if self.settings.keep_images and counts.any():  # whole pixels are a quarter of the size, if they do as well
            whole = to_unit((x_adv.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8))
            does = counts & confirmed(whole)
            x_adv = torch.where(does[:, None, None, None], whole, x_adv)
        return counts.cpu().numpy(), x_adv[counts]

    def _is_ours(self, member: Attack) -> bool:
        return member.own and self.settings.draws == "own"

    def _model_for(self, member: Attack, x_NCHW: Tensor) -> nn.Module:
        """Published code and draws get the model itself, our own attacks its cheaper form."""
        if not self._is_ours(member):
            return self.model
        if self.search is None:
            form = self.settings.search.form(self.model.model, x_NCHW)
            form.cheap = PassCounter(form.cheap, self.monitor)
            form.exact = PassCounter(form.exact, self.monitor)
            self.search = form
        return self.search

    def _images_passed(self) -> int:
        counters = [self.model, *(part for part in self.search.children())] if self.search else [self.model]
        return sum(counter.images for counter in counters if isinstance(counter, PassCounter))

    def _logits(self, x_NCHW: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x_NCHW)

    def _batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return next(iter(self.images.batches([indices], self.device)))


def _collect(
    images: dict[str, tuple[np.ndarray, np.ndarray]], name: str, broken: np.ndarray, x_adv: np.ndarray
) -> None:
    if name in images:
        broken, x_adv = np.concatenate([images[name][0], broken]), np.concatenate([images[name][1], x_adv])
    images[name] = (broken, x_adv)


def _interval(robust_N: np.ndarray) -> str:
    """How many stand, as a share with its 95 % interval."""
    low, high = wilson_interval(int(robust_N.sum()), len(robust_N))
    return f"{robust_N.sum()} stand, {robust_N.mean():.1%} [{low:.1%}, {high:.1%}]"


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate: its own exception on a GPU, a plain RuntimeError on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)
