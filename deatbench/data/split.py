"""Stratified splits that are the same on every machine, for every seed and with every library version."""

from __future__ import annotations

import hashlib
import math

import torch

from deatbench.errors import ConfigError


def stratified_split(labels_N: torch.Tensor, fraction: float, salt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Holds out `fraction` of the images, each class in proportion.

    Which images of a class are held out follows from a hash of (salt, index), not from a random generator, whose
    stream a library may change.

    Args:
        labels_N: class indices.
        fraction: in [0, 1); ⌈fraction · N⌉ images are held out.
        salt: tells splits apart: the data set's name.

    Returns:
        (kept, held out): ascending indices, int64, disjoint, together 0..N−1.

    Raises:
        ConfigError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"the share of images to hold out must be in [0, 1), not {fraction}")
    by_class = [torch.nonzero(labels_N == label).flatten().tolist() for label in labels_N.unique().tolist()]
    quotas = _quotas([len(indices) for indices in by_class], fraction)
    held = torch.zeros(len(labels_N), dtype=torch.bool)
    for indices, quota in zip(by_class, quotas, strict=True):
        held[sorted(indices, key=lambda index: _rank(salt, index))[:quota]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def _rank(salt: str, index: int) -> bytes:
    return hashlib.sha256(f"{salt}/{index}".encode()).digest()


def _quotas(counts: list[int], fraction: float) -> list[int]:
    """How many to take of each class: the floor of its share, then one more for the largest remainders."""
    shares = [round(count * fraction, 6) for count in counts]
    quotas = [math.floor(share) for share in shares]
    left = math.ceil(round(sum(counts) * fraction, 6)) - sum(quotas)
    by_remainder = sorted(range(len(counts)), key=lambda k: (quotas[k] - shares[k], k))
    for k in by_remainder[:left]:
        quotas[k] += 1
    return quotas
