"""What an evaluation comes to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deatbench.records import AttackResult, wilson_interval
from deatbench.threats import ThreatModel


@dataclass
class Evaluation:
    """Verdicts as booleans [N]: `clean_N` correct without attack, `robust[name]` correct under it as well.

    `proved_N` are images that a certificate covers, None where none was tried; the first attack met them, no later one.
    `curve` holds verdicts at other radii, under the worst of all attacks; `images[name]` are (indices, adversarial
    images) where they were kept. After an interruption `missing` names the attacks that were not finished; a suite
    that had passed its provisional point then stands under `<suite>-provisional`.
    """

    clean_N: np.ndarray
    robust: dict[str, np.ndarray] = field(default_factory=dict)
    attacks: list[AttackResult] = field(default_factory=list)
    proved_N: np.ndarray | None = None
    proof_seconds: float = 0.0
    curve: list[tuple[ThreatModel, np.ndarray]] = field(default_factory=list)
    images: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    seconds: float = 0.0


def joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Indices and images of all parts."""
    return np.concatenate([indices for indices, _ in parts]), np.concatenate([images for _, images in parts])


def standing(robust_N: np.ndarray) -> str:
    """How many stand, as a share with its 95 % interval."""
    low, high = wilson_interval(int(robust_N.sum()), len(robust_N))
    return f"{robust_N.sum()} stand, {robust_N.mean():.1%} [{low:.1%}, {high:.1%}]"
