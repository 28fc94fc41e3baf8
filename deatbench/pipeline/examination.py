"""Passing clean and stored adversarial images through the model once, to see whether the verdicts on record hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import misclassified
from deatbench.data import Images
from deatbench.errors import MismatchError
from deatbench.evidence import Archive, StoredImages
from deatbench.pipeline.checks import Check, Status
from deatbench.records import Samples
from deatbench.threats import ThreatModel

BORDERLINE = 1e-5  # machines round differently: two logits this near, relative to the largest, may change places


@dataclass
class _Tally:
    """What was found among the stored images; `seen`: their indices by attack."""

    n: int = 0
    outside_ball: int = 0
    out_of_range: int = 0
    correct: int = 0
    borderline: int = 0
    farthest: float = 0.0
    seen: dict[str, set[int]] = field(default_factory=dict)


class Examiner:
    """Passes images through the model, once."""

    def __init__(
        self,
        module: nn.Module,
        images: Images,
        threat: ThreatModel,
        device: torch.device,
        batch_size: int,
        tell: Callable[[int], None],
    ) -> None:
        self.module, self.images, self.threat = module, images, threat
        self.device, self.batch_size, self.tell = device, batch_size, tell

    def clean(self, clean_N: np.ndarray) -> Check:
        """A fresh forward pass gives the clean verdicts on record."""
        wrong = borderline = 0
        for indices, x_NCHW, y_N in self._batches(np.arange(len(clean_N))):
            correct_N, near_N = self._judge(x_NCHW, y_N)
            differs_N = correct_N != clean_N[indices]
            wrong += int((differs_N & ~near_N).sum())
            borderline += int((differs_N & near_N).sum())
        return Check.counted("clean verdicts", len(clean_N), wrong, "classified as on record", borderline)

    def adversarials(self, samples: Samples, archive: Archive) -> list[Check]:
        """Every stored image lies in the ball and in [0, 1] and is misclassified; together they are the bits."""
        tally = _Tally(seen={name: set() for name in samples.robust})
        try:
            for part in archive.sections():
                self._examine(part, tally)
        except MismatchError as error:
            return [Check("archive", Status.FAIL, error.message)]
        n, tolerance = tally.n, self.threat.tolerance
        ball = f"within {self.threat.eps_text} + {tolerance:g} ({self.threat.norm}), farthest {tally.farthest:.7g}"
        return [
            _stored_are_broken(samples, tally.seen, n),
            Check.counted("inside the ball", n, tally.outside_ball, ball),
            Check.counted("inside [0, 1]", n, tally.out_of_range, "in range"),
            Check.counted("misclassified", n, tally.correct, "misclassified in float32", tally.borderline),
        ]

    def _examine(self, part: StoredImages, tally: _Tally) -> None:
        tally.n += len(part)
        tally.seen[part.attack].update(part.indices_M.tolist())
        start = 0
        for indices, x_NCHW, y_N in self._batches(part.indices_M):
            chosen = part.part(start, start + len(indices))
            start += len(indices)
            x_adv = torch.from_numpy(chosen.images(x_NCHW.cpu().numpy())).to(self.device)
            distance_N = self.threat.distance(x_adv, x_NCHW)
            in_range_N = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
            correct_N, near_N = self._judge(x_adv, y_N)
            tally.outside_ball += int((~(distance_N <= self.threat.eps + self.threat.tolerance)).sum())
            tally.out_of_range += int((~in_range_N).sum())
            tally.correct += int((correct_N & ~near_N).sum())
            tally.borderline += int((correct_N & near_N).sum())
            tally.farthest = max(tally.farthest, float(distance_N.max()))

    def _judge(self, x_NCHW: Tensor, y_N: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(classified correctly, too near to tell), bool [N] each."""
        logits_NK = self.module(x_NCHW).float()
        self.tell(len(x_NCHW))
        true_N = logits_NK.gather(1, y_N[:, None])[:, 0]
        other_N = logits_NK.scatter(1, y_N[:, None], -torch.inf).amax(1)
        largest_N = logits_NK.abs().amax(1)
        near_N = ((true_N - other_N).abs() <= BORDERLINE * largest_N) & largest_N.isfinite()
        return (~misclassified(logits_NK, y_N)).cpu().numpy(), near_N.cpu().numpy()

    def _batches(self, indices_N: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        batches = [indices_N[i : i + self.batch_size] for i in range(0, len(indices_N), self.batch_size)]
        tensors = [torch.from_numpy(indices) for indices in batches]
        for indices, (x_NCHW, y_N) in zip(batches, self.images.batches(tensors, self.device), strict=True):
            yield indices, x_NCHW, y_N


def _stored_are_broken(samples: Samples, seen: dict[str, set[int]], n: int) -> Check:
    """Of each attack exactly those images are stored that it broke: correct without it, not robust."""
    clean_N = samples.clean_N()
    differ = {
        name: len(stored.symmetric_difference(np.flatnonzero(clean_N & ~samples.robust_N(name)).tolist()))
        for name, stored in seen.items()
    }
    wrong = sum(differ.values())
    if wrong:
        by = ", ".join(f"{name} by {k:,}" for name, k in differ.items() if k)
        return Check("stored = broken", Status.FAIL, f"stored and broken images differ: {by}", n, wrong)
    stored = ", ".join(f"{name} {len(indices):,}" for name, indices in seen.items())
    return Check("stored = broken", Status.PASS, f"of each attack the broken images, no other: {stored}", n)
