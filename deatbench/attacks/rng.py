"""Random numbers that belong to an image, not to its batch.

Every draw is a function of (seed, attack, restart, example index, number of the draw) through Philox, a
counter-based generator (Salmon et al. 2011): batch size, order, sharding and resume cannot change a verdict.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


class ExampleRng:
    """Per-example randomness for one batch of one attack.

    Args:
        seed: the evaluation's seed.
        indices_N: index of each image in its split.
        stream: what the draws are for, such as "pgd-20/0" (attack and restart).
        run: which try this is, from 0; an attack may begin elsewhere in later ones.
    """

    per_image = True

    def __init__(self, seed: int, indices_N: Tensor, stream: str, run: int = 0) -> None:
        self.seed = seed
        self._indices = [int(index) for index in indices_N]
        self._stream = stream
        self.run = run
        self.draws = 0  # made so far; set it to go on from there

    def of(self, rows: Tensor) -> ExampleRng:
        """The same randomness for some of the batch's images, from the beginning."""
        return ExampleRng(self.seed, torch.tensor(self._indices, device=rows.device)[rows], self._stream)

    def onward(self, rows: Tensor, run: int) -> ExampleRng:
        """The draws that follow, for some of the batch's images: the `run`-th try, from 0, on what still stands."""
        rng = self.of(rows)
        rng.run, rng.draws = run, self.draws
        return rng

    def columns(self, count: int) -> list[list[int]]:
        """Which target classes may be attacked together: all of them, since no draw depends on another's success."""
        return [list(range(count))]

    def uniform(self, like_NCHW: Tensor) -> Tensor:
        """Uniform on [0, 1), float32, shaped like `like_NCHW` and on its device."""
        return self._draw(like_NCHW, lambda generator, shape: generator.random(shape, dtype=np.float32))

    def normal(self, like_NCHW: Tensor) -> Tensor:
        """Standard normal, float32, shaped like `like_NCHW` and on its device."""
        return self._draw(like_NCHW, lambda generator, shape: generator.standard_normal(shape, dtype=np.float32))

    def _draw(self, like: Tensor, sample) -> Tensor:  # type: ignore[no-untyped-def]
        text = f"{self.seed}/{self._stream}/{self.draws}"
        self.draws += 1
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        rows = np.empty(tuple(like.shape), dtype=np.float32)
        for row, index in zip(rows, self._indices, strict=True):
            row[...] = sample(np.random.Generator(np.random.Philox(key=[key, index])), row.shape)
        return torch.from_numpy(rows).to(like.device)


class PublishedRng(ExampleRng):
    """pyautoattack's own draws: one stream for a batch, restarted by each attack, in the order of the published code.

    With it our attacks reach the published code's verdicts one by one, at the price that these depend on the batch.
    A new one for each attack and batch; the restarts of an attack share it (restarts.all_runs).
    """

    per_image = False

    def __init__(self, seed: int) -> None:
        super().__init__(seed, torch.empty(0), "published")
        self._generator = torch.Generator().manual_seed(seed)

    def of(self, rows: Tensor) -> PublishedRng:
        """The stream from its beginning: which images stand decides what each of them gets."""
        return PublishedRng(self.seed)

    def onward(self, rows: Tensor, run: int) -> PublishedRng:
        """The same stream where it stands, for the `run`-th try, from 0, on what still stands."""
        self.run = run
        return self

    def columns(self, count: int) -> list[list[int]]:
        """One target class after the other: the draws for each depend on which images still stand."""
        return [[column] for column in range(count)]

    def uniform(self, like_NCHW: Tensor) -> Tensor:
        """Uniform on [0, 1), drawn on the CPU."""
        return torch.rand(like_NCHW.shape, generator=self._generator).to(like_NCHW.device)

    def normal(self, like_NCHW: Tensor) -> Tensor:
        """Standard normal, drawn on the CPU."""
        return torch.randn(like_NCHW.shape, generator=self._generator).to(like_NCHW.device)


class BatchRng:
    """Randomness for a training batch, from one torch generator on the batch's device.

    Args:
        generator: of the whole batch.
        part: which of the batch's equal parts gets its draws here, from 0; the others' are drawn and dropped.
        parts: how many there are.
    """

    def __init__(self, generator: torch.Generator, part: int = 0, parts: int = 1) -> None:
        self._generator, self._part, self._parts = generator, part, parts

    def share(self, k: int, of: int) -> BatchRng:
        """The draws of part `k` of `of` equal parts of these rows; they leave this object's where they are."""
        generator = torch.Generator(self._generator.device)
        generator.set_state(self._generator.get_state())
        return BatchRng(generator, self._part * of + k, self._parts * of)

    def follow(self, share: BatchRng) -> None:
        """What `share` has drawn is drawn."""
        self._generator.set_state(share._generator.get_state())

    def uniform(self, like_NCHW: Tensor) -> Tensor:
        """Uniform on [0, 1), shaped like `like_NCHW`."""
        return self._rows(self._whole(like_NCHW).uniform_(generator=self._generator))

    def normal(self, like_NCHW: Tensor) -> Tensor:
        """Standard normal, shaped like `like_NCHW`."""
        return self._rows(self._whole(like_NCHW).normal_(generator=self._generator))

    def _whole(self, like: Tensor) -> Tensor:
        """Unwritten, for all parts; laid out as the whole batch would be, since draws follow the memory."""
        if self._parts == 1:
            return torch.empty_like(like)
        shape = (self._parts * len(like), *like.shape[1:])
        plan = torch.empty_strided(shape, like.stride(), dtype=like.dtype, device="meta")
        return torch.empty_like(plan, device=like.device)

    def _rows(self, whole: Tensor) -> Tensor:
        return whole.tensor_split(self._parts)[self._part]
