"""One attack on some images: search, confirm, count. What it finds depends on these images alone.

An adversarial image counts only if it is confirmed: inside the ball, inside [0, 1], and misclassified by the model in
float32. Images that do not fit into memory together are attacked in smaller pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from deatbench.archs.build import count_flops
from deatbench.attacks import Attack
from deatbench.attacks.gradient import InterruptedGradient, SearchForm, misclassified
from deatbench.attacks.journal import Journal
from deatbench.attacks.restarts import all_runs
from deatbench.attacks.rng import ExampleRng, PublishedRng
from deatbench.data import Images
from deatbench.data.images import to_unit
from deatbench.engine.contract import NonFiniteLogits, check_fit
from deatbench.engine.monitor import Monitor
from deatbench.engine.nearby import neighbours
from deatbench.engine.progress import Outcome
from deatbench.engine.search import PROBE, Search
from deatbench.engine.shadow import AttackForm
from deatbench.errors import ConfigError, DeatbenchError
from deatbench.threats import ThreatModel

T = TypeVar("T")
Draws = Literal["own", "published"]
NOTHING_KEPT = np.empty(0, dtype=np.float32)
MOST_FLOPS = 10**8  # of one image's forward pass in a small network
OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Settings:
    """How an evaluation is carried out.

    Args:
        seed: of all random draws.
        batch_size: rows of work at once: images, or (image, target class) pairs. Changes no verdict of our attacks.
        search: the arithmetic of our attacks' search.
        draws: "own" belong to each image; "published" are pyautoattack's, which depend on the batch.
        keep_images: collect an adversarial image for each broken one.
        workers: units that are worked on at once on the CPU, each on one thread: certificates, small networks.
        certificates: spare images our attacks that they are proved to withstand.
    """

    seed: int = 0
    batch_size: int = 500
    search: Search = field(default_factory=Search)
    draws: Draws = "own"
    keep_images: bool = False
    workers: int = 1
    certificates: bool = False


class PassCounter(nn.Module):
    """The model, counting the images that pass through it, in each thread its own; with a lock, one call at a time."""

    def __init__(self, model: nn.Module, monitor: Monitor, lock: AbstractContextManager[Any] | None = None) -> None:
        super().__init__()
        self.model, self.monitor = model, monitor
        self._lock = lock or nullcontext()
        self._counts = threading.local()

    @property
    def images(self) -> int:
        """Images that this thread has passed through the model."""
        return getattr(self._counts, "images", 0)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.count(len(x_NCHW))
        with self._lock:
            return self.model(x_NCHW)

    def count(self, images: int) -> None:
        """So many pass through the model in this thread."""
        self._counts.images = self.images + images
        self.monitor.advance(images)


class Trial:
    """Attacks on images of one evaluation.

    Args:
        model: in eval mode; logits [N, K] for float32 images in [0, 1].
        images: those that are evaluated; indices below are positions in it.
        settings: how attacks are carried out.
        device: where model and attacks compute.
        monitor: is told of every image that passes through the model.

    Raises ConfigError if images, labels and model do not fit.
    """

    def __init__(
        self, model: nn.Module, images: Images, settings: Settings, device: torch.device, monitor: Monitor
    ) -> None:
        self.images, self.settings, self.device, self.monitor = images, settings, device, monitor
        self.num_classes = check_fit(model, images, device)
        self._lock = threading.Lock()  # the model is anybody's code, which need not stand two calls at once
        self.model = PassCounter(model, monitor, self._lock)
        self.search: SearchForm | None = None
        self.at_once = 2**62  # images that fit into memory, known once they did not

    def clean(self, indices: Tensor) -> Outcome:
        """Which of the images at `indices` are misclassified without attack."""
        parts = self._in_pieces(indices, lambda piece, _: self._misclassified(piece), can_shrink=True)
        return Outcome(np.concatenate(parts), NOTHING_KEPT)

    def _misclassified(self, indices: Tensor) -> np.ndarray:
        x_NCHW, y_N = self.batch(indices)
        if not (float(x_NCHW.amin()) >= 0 and float(x_NCHW.amax()) <= 1):
            raise ConfigError("images lie outside [0, 1]", "normalisation belongs inside the model")
        logits_NK = self._logits(x_NCHW)
        if not torch.isfinite(logits_NK).all():
            raise NonFiniteLogits("the model returns NaN or infinite logits on clean images")
        return (logits_NK.argmax(1) != y_N).cpu().numpy()

    def units(self, member: Attack, indices: Tensor) -> Sequence[Tensor]:
        """The images at `indices`, parted as `member` takes them: it gets so many at once."""
        if not len(indices):
            return ()
        if not self.is_ours(member):
            return indices.split(self.settings.batch_size)  # batches are part of the published code's result
        size = max(1, self.settings.batch_size // member.rows(self.num_classes))
        if self.parallel(member):  # work for everybody, also where few images are left
            size = min(size, -(-len(indices) // self.settings.workers))
        return indices.split(size)

    def parallel(self, member: Attack) -> bool:
        """Whether units of `member` may be worked on at once, each on one thread."""
        return self.settings.workers > 1 and self.device.type == "cpu" and self.is_ours(member) and self._small_shadow

    @cached_property
    def _small_shadow(self) -> bool:
        """Whether the search asks a shadow, which stands several threads, so small that they do better apart."""
        x_NCHW = self.batch(torch.arange(min(PROBE, len(self.images))))[0]
        cheap = self._form(x_NCHW).cheap
        shadow = cheap.model if isinstance(cheap, PassCounter) else None
        return isinstance(shadow, AttackForm) and count_flops(shadow, x_NCHW[:2].shape) <= len(x_NCHW[:2]) * MOST_FLOPS

    @property
    def passed(self) -> int:
        """Images that this thread has passed through the model in any form."""
        counters = [self.model, *self.search.children()] if self.search else [self.model]
        return sum(counter.images for counter in counters if isinstance(counter, PassCounter))

    def attack(self, member: Attack, run: int, indices: Tensor, threat: ThreatModel, journal: Journal) -> Outcome:
        """Attack the images at `indices`, in smaller pieces where memory does not hold all at once."""

        def work(piece: Tensor, is_all: bool) -> tuple[np.ndarray, np.ndarray]:
            return self._try(member, run, piece, threat, journal if is_all else Journal())

        try:
            found = self._in_pieces(indices, work, can_shrink=self.is_ours(member))
        except InterruptedGradient:
            return Outcome(np.zeros(len(indices), dtype=bool), NOTHING_KEPT, interrupted=True)
        return Outcome(np.concatenate([broken_U for broken_U, _ in found]), np.concatenate([x for _, x in found]))

    def _in_pieces(self, indices: Tensor, work: Callable[[Tensor, bool], T], *, can_shrink: bool) -> list[T]:
        """What `work` makes of as many images at a time as memory holds; it is told whether these are all."""
        while True:
            size = min(len(indices), self.at_once if can_shrink else len(indices))
            pieces = indices.split(max(1, size))
            try:
                return [work(piece, len(pieces) == 1) for piece in pieces]
            except RuntimeError as error:
                if not _is_out_of_memory(error) or size == 1:
                    raise
                if not can_shrink:
                    raise DeatbenchError(f"out of memory at {size} images", "lower --batch-size") from error
                self.at_once = min(self.at_once, size // 2)  # another thread may have been here
                self.monitor.note(f"out of memory at {size} images; going on with {self.at_once} at a time")
            if self.device.type == "cuda":  # out here nothing holds on to what the failed try had allocated
                torch.cuda.empty_cache()

    def _try(
        self, member: Attack, run: int, indices: Tensor, threat: ThreatModel, journal: Journal
    ) -> tuple[np.ndarray, np.ndarray]:
        """(which images broke, an adversarial image for each of these if they are kept)."""
        x_NCHW, y_N = self.batch(indices)
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
            return inside & in_range & misclassified(self._logits(images), y_N)

        counts = confirmed(x_adv)
        if self.settings.keep_images and counts.any():  # whole pixels are a quarter of the size, if they do as well
            whole = to_unit((x_adv.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8))
            does = counts & confirmed(whole)
            x_adv = torch.where(does[:, None, None, None], whole, x_adv)
        return counts.cpu().numpy(), x_adv[counts]

    def is_ours(self, member: Attack) -> bool:
        """Whether our own code attacks, with our own draws."""
        return member.own and self.settings.draws == "own"

    def _model_for(self, member: Attack, x_NCHW: Tensor) -> nn.Module:
        """Published code and draws get the model itself, our own attacks its cheaper form."""
        return self._form(x_NCHW) if self.is_ours(member) else self.model

    def _form(self, x_NCHW: Tensor) -> SearchForm:
        if self.search is None:
            form = self.settings.search.form(self.model.model, x_NCHW, always=self.settings.workers > 1)
            cheap = form.cheap = PassCounter(form.cheap, self.monitor)
            if isinstance(cheap.model, AttackForm):
                form.near = partial(neighbours, cheap.model, count=cheap.count)
            form.exact = PassCounter(form.exact, self.monitor, self._lock)
            self.search = form
        return self.search

    def _logits(self, x_NCHW: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x_NCHW)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [M, C, H, W] and labels [M], on the device."""
        return next(iter(self.images.batches([indices], self.device)))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory did not suffice: torch's own exception, or what the CPU's allocator and CUDA's libraries say."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
