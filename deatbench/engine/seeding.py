"""Randomness of training as a function of (seed, purpose, position): there is no generator state to save or lose."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, purpose: str, position: int = 0) -> int:
    """A 63-bit seed for one purpose at one position."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{position}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_everything(seed: int, purpose: str, position: int = 0) -> None:
    """Start torch's, numpy's and python's global generators from (seed, purpose, position)."""
    value = derive(seed, purpose, position)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which epoch `epoch` visits n training images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
