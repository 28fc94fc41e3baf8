"""Checks of the images that withstood everything: would the same attack, used a little otherwise, have broken them?

`silent_success` after the indicators of attack failure (Pintor et al. 2022, arXiv 2106.09947), `not_converged` and
`not_monotone` after Carlini et al. 2019, "On Evaluating Adversarial Robustness" (arXiv 1902.06705). All three are about
attacks of a fixed step that answer with their last iterate (PGD, CW, FGSM). APGD, FAB and Square answer with any image
that they found and choose their steps themselves. Only survivors of the whole evaluation are looked at: what one of
its attacks has broken is no other's failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from deatbench.attacks import Attack
from deatbench.attacks.borrow import mode
from deatbench.attacks.gradient import InterruptedGradient
from deatbench.attacks.gradient_ascent import GradientAscent
from deatbench.attacks.rng import ExampleRng
from deatbench.data import Images
from deatbench.records import Flag
from deatbench.soundness.judge import NOTABLE
from deatbench.threats import ThreatModel

PASSES = 3840  # forward and backward passes in all: 64 images for pgd-20, more for shorter attacks, which need it more
AT_ONCE = 64
MOST_IMAGES = 512
FEWEST_IMAGES = 2  # one image is an accident


def inspect_survivors(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    attacks: Sequence[Attack],
    clean_N: np.ndarray,
    robust: Mapping[str, np.ndarray],
    known: Sequence[Flag],
    *,
    seed: int,
    device: torch.device,
) -> list[Flag]:
    """The flags that the first survivors raise under the longest of the attacks whose steps are fixed.

    Costs at most PASSES forward and backward passes, none where there is no such attack or nobody survived; an attack
    of more than 640 steps is not asked. Changes no verdict; the model is used in eval mode and left as it was found.

    Args:
        model: the network itself; logits [N, K] for float32 images in [0, 1].
        images: those that were evaluated.
        threat: the threat that was evaluated.
        attacks: all attacks of the evaluation.
        clean_N: bool, correct without attack.
        robust: per attack, bool [N], correct under it.
        known: what was found before; a `randomised` network answers otherwise each time, and is not asked again.
        seed: of the evaluation: its attack's first try begins at the same points.
        device: where the model computes.
    """
    attack = _longest(attacks)
    if attack is None or any(flag.code == "randomised" for flag in known):
        return []
    survivors = torch.from_numpy(np.flatnonzero(np.logical_and.reduce([clean_N, *robust.values()])))
    probed = survivors[: min(MOST_IMAGES, PASSES // (3 * attack.steps))]
    if len(probed) < FEWEST_IMAGES:
        return []
    try:
        probe = _probe(attack, model, images, threat, probed, seed, device)
    except InterruptedGradient:
        return []  # told by interrupted_graph
    return list(probe.flags(len(survivors), int(clean_N.sum()) - len(survivors)))


def _longest(attacks: Sequence[Attack]) -> GradientAscent | None:
    """Of the attacks whose steps are fixed the one with the most; None if there are none."""
    fixed = (attack for attack in attacks if isinstance(attack, GradientAscent))
    return max(fixed, key=lambda attack: attack.steps, default=None)


@dataclass(frozen=True)
class Probe:
    """What more of an attack did to survivors, bool [N] each: all of them stand after its last iterate."""

    attack: GradientAscent
    fooled_before_N: Tensor  # by an iterate before the last
    fooled_later_N: Tensor  # by the last iterate of twice as many steps
    fooled_nearer_N: Tensor  # by the same attack at half the radius

    def flags(self, survivors: int, broken: int) -> Iterator[Flag]:
        """Those that are due, where the evaluation has `broken` so many images and left `survivors`."""
        name, n = self.attack.name, len(self.fooled_before_N)

        def notable(images: int) -> bool:
            return images >= FEWEST_IMAGES and images / n * survivors > NOTABLE * broken

        if notable(before := int(self.fooled_before_N.sum())):
            message = (
                f"{name} had fooled the model on {before} of {n} survivors before its last step, which alone counts"
            )
            yield Flag(code="silent_success", message=message)
        if notable(later := int(self.fooled_later_N.sum())):
            message = f"{name} with twice the steps breaks {later} of {n} survivors: it was stopped too early"
            yield Flag(code="not_converged", message=message)
        if notable(nearer := int(self.fooled_nearer_N.sum())):
            message = f"{name} at half of eps breaks {nearer} of {n} survivors of eps: at eps it loses its way"
            yield Flag(code="not_monotone", message=message)


def _probe(
    attack: GradientAscent,
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    indices: Tensor,
    seed: int,
    device: torch.device,
) -> Probe:
    """`attack` with twice the steps and at half the radius, on those of the images that stand after it."""
    longer, parts = replace(attack, steps=2 * attack.steps), []
    batches = indices.split(AT_ONCE)
    with mode(model, training=False):
        for part, (x_NCHW, y_N) in zip(batches, images.batches(batches, device), strict=True):
            far_SN = longer.history(model, x_NCHW, y_N, threat, _draws(attack, part, seed))
            near_SN = attack.history(model, x_NCHW, y_N, threat.scaled(0.5), _draws(attack, part, seed))
            stand_N = ~far_SN[attack.steps]  # some fall now that stood then: to rounding, or to other random draws
            found = far_SN[: attack.steps].any(0), far_SN[-1], near_SN[-1]
            parts.append(torch.stack([fooled_N[stand_N] for fooled_N in found]))
    return Probe(attack, *torch.cat(parts, dim=1).cpu())


def _draws(attack: Attack, indices: Tensor, seed: int) -> ExampleRng:
    """The random numbers of the attack's first try in the evaluation."""
    return ExampleRng(seed, indices, f"{attack.name}/0")
