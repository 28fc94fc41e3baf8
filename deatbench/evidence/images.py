"""Adversarial images as exact differences to their clean images.

`steps` leads from the clean pixels k/255 to the nearest k'/255: k' - k modulo 256. Images that are no whole pixels are
besides that `ulps` many float32 values away from there, modulo 2**32. Both are exact for every bit pattern. On CIFAR-10
a whole-pixel image compresses to about 0.9 kB, another one to 4 (Linf) or 6 kB (L2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAX_PART_BYTES = 64 * 2**20  # unpacked: reader and writer hold one part at a time


@dataclass(frozen=True)
class StoredImages:
    """Adversarial images of one attack as differences to their clean images.

    `indices_M` are positions in the evaluation, ascending; `ulps_E` belongs to the images where `off_grid_M`.
    """

    attack: str
    indices_M: np.ndarray
    off_grid_M: np.ndarray
    steps_MCHW: np.ndarray
    ulps_ECHW: np.ndarray

    def __len__(self) -> int:
        return len(self.indices_M)

    @classmethod
    def between(cls, attack: str, indices_M: np.ndarray, x_adv_MCHW: np.ndarray, x_MCHW: np.ndarray) -> StoredImages:
        """The differences. Raises ValueError unless both are float32 of one shape and x is whole pixels k/255."""
        indices_M = np.asarray(indices_M, dtype=np.int64)
        if x_adv_MCHW.dtype != np.float32 or x_MCHW.dtype != np.float32 or x_adv_MCHW.ndim != 4:
            raise ValueError("adversarial and clean images are float32 [M, C, H, W]")
        if x_adv_MCHW.shape != x_MCHW.shape or indices_M.shape != (len(x_MCHW),):
            raise ValueError("as many indices and clean images as adversarial images, of the same shape")
        pixels_MCHW, near_MCHW = _nearest_pixels(x_MCHW), _nearest_pixels(x_adv_MCHW)
        if not np.array_equal(_unit(pixels_MCHW), x_MCHW):
            raise ValueError("clean images must be whole pixels k/255")
        ulps_MCHW = _bits(x_adv_MCHW) - _bits(_unit(near_MCHW))
        off_grid_M = ulps_MCHW.any(axis=(1, 2, 3))
        return cls(attack, indices_M, off_grid_M, near_MCHW - pixels_MCHW, ulps_MCHW[off_grid_M])

    def images(self, x_MCHW: np.ndarray) -> np.ndarray:
        """The adversarial images, bit for bit, from their clean images: float32 [M, C, H, W]."""
        bits_MCHW = _bits(_unit(_nearest_pixels(x_MCHW) + self.steps_MCHW))
        bits_MCHW[self.off_grid_M] += self.ulps_ECHW
        return bits_MCHW.view(np.float32)

    def part(self, start: int, end: int) -> StoredImages:
        """The images start..end-1."""
        before, among = int(self.off_grid_M[:start].sum()), int(self.off_grid_M[:end].sum())
        chosen = slice(start, end)
        return StoredImages(
            self.attack,
            self.indices_M[chosen],
            self.off_grid_M[chosen],
            self.steps_MCHW[chosen],
            self.ulps_ECHW[before:among],
        )


def _nearest_pixels(x: np.ndarray) -> np.ndarray:
    return np.rint(np.nan_to_num(x).clip(0, 1) * np.float32(255)).astype(np.uint8)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(255)


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint32)


class AdversarialImages:
    """What an evaluation collects on its way: the adversarial image of each broken verdict."""

    def __init__(self) -> None:
        self._parts: dict[str, list[StoredImages]] = {}

    def add(self, attack: str, indices_B: np.ndarray, x_adv_BCHW: np.ndarray, x_BCHW: np.ndarray) -> None:
        """Keep the images that `attack`, named as in the record's verdicts, broke.

        Args:
            attack: a stand-alone attack or a suite ("autoattack"), never a member of one.
            indices_B: positions in the evaluation, each at most once per attack.
            x_adv_BCHW: float32, exactly as confirmed.
            x_BCHW: the clean images, float32 k/255.
        """
        self._parts.setdefault(attack, []).append(StoredImages.between(attack, indices_B, x_adv_BCHW, x_BCHW))

    def parts(self) -> Iterator[StoredImages]:
        """All images by attack and index, whatever the order in which they came, in parts of bounded size."""
        for attack in sorted(self._parts):
            parts = [part for part in self._parts[attack] if len(part)]
            if not parts:
                continue
            whole = _sorted(attack, parts)
            rows = max(1, MAX_PART_BYTES // unpacked_bytes(1, 1, whole.steps_MCHW.shape[1:]))
            for start in range(0, len(whole), rows):
                yield whole.part(start, start + rows)


def _sorted(attack: str, parts: list[StoredImages]) -> StoredImages:
    indices_M = np.concatenate([part.indices_M for part in parts])
    if len(np.unique(indices_M)) < len(indices_M) or indices_M.min() < 0:
        raise ValueError(f"{attack}: an index is negative or comes twice")
    off_grid_M = np.concatenate([part.off_grid_M for part in parts])
    order_M = np.argsort(indices_M)
    return StoredImages(
        attack,
        indices_M[order_M],
        off_grid_M[order_M],
        np.concatenate([part.steps_MCHW for part in parts])[order_M],
        np.concatenate([part.ulps_ECHW for part in parts])[np.argsort(indices_M[off_grid_M])],
    )


def unpacked_bytes(images: int, off_grid: int, image_shape: tuple[int, ...]) -> int:
    """Size of a part: an index and a bit per image, a byte per pixel, four more where the image is off the grid."""
    return 4 * images + (images + 7) // 8 + (images + 4 * off_grid) * math.prod(image_shape)
