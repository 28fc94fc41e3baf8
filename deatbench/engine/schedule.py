"""Learning rates, set at every iteration: t = epoch + (i + 1) / iterations, as DEAT's released code does."""

from __future__ import annotations

import math

from deatbench.config import Schedule


def learning_rate(schedule: Schedule, peak: float, t: float, epochs: int) -> float:
    """The learning rate at time t in (0, epochs]."""
    if schedule.name == "piecewise":
        return peak * schedule.gamma ** sum(t >= milestone for milestone in schedule.milestones)
    if schedule.name == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * t / epochs))
    if schedule.name == "one-cycle":
        top = schedule.warmup * epochs
        return peak * (t / top if t < top else (epochs - t) / max(epochs - top, 1e-12))
    return peak
