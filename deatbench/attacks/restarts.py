"""All tries of an attack in one go, for callers that take a batch to its end before the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deatbench.attacks.base import Attack
from deatbench.attacks.gradient import broken
from deatbench.attacks.rng import ExampleRng
from deatbench.threats import ThreatModel


def all_runs(
    attack: Attack, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, rng: ExampleRng
) -> Tensor:
    """Adversarial images [N, ...] after `attack.runs` tries, each on what the ones before left standing.

    The draws go on from try to try, as the published code's do: with PublishedRng this is its `perturb`.
    """
    x_adv_NCHW = x_NCHW.clone()
    standing = torch.arange(len(x_NCHW), device=x_NCHW.device)
    for run in range(attack.runs):
        found = attack(model, x_NCHW[standing], y_N[standing], threat, rng)
        x_adv_NCHW[standing] = found
        stays = still_standing(model, found, x_NCHW[standing], y_N[standing], threat)
        standing, rng = standing[stays], rng.onward(stays, run + 1)
        if len(standing) == 0:
            break
    return x_adv_NCHW


def still_standing(model: nn.Module, found: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Positions of the images for which `found` is no adversarial image inside the ball."""
    with torch.no_grad():
        fooled = broken(model, found, y, model(found))
    return torch.nonzero(~fooled | (threat.distance(found, x) > threat.eps + threat.tolerance))[:, 0]
