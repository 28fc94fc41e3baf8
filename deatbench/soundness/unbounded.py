"""Where nothing bounds an attack, everything must fall: a search that cannot even do that tells nothing.

A sanity check of Carlini et al. 2019, "On Evaluating Adversarial Robustness" (arXiv 1902.06705). With a radius that
covers [0, 1] the balls of all norms are the same cube, so that one search by the gradient's sign serves for all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import ascent_direction, cross_entropy
from deatbench.records import Flag

STEPS = 25  # of 1/25 each: a pixel can go from black to white
SECOND_START = 1 / 3  # largest change of a pixel before the second try; more would fool a model without any gradient
STUCK_SHARE = 0.25  # robust networks of dead ReLUs get stuck on up to 11 % of the images, masked gradients on 41 %
STUCK_IMAGES = 2


def unbounded_fails(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, logits_NK: Tensor) -> Iterator[Flag]:
    """Gradient ascent through the whole cube must fool the model on nearly all images that it gets right.

    It follows the cross-entropy, as the attacks do that are judged by it, and gets a second try from a random point.
    Since images of other classes lie inside the cube, every image could be taken for another; a model that gives one
    answer for all of them is left in peace. An image costs at most 2 * (STEPS + 1) forward and backward passes, for an
    honest model about 5.
    """
    answers_N = logits_NK.argmax(1)
    right = torch.nonzero(answers_N == y_N)[:, 0]
    if bool((answers_N == answers_N[0]).all()):
        return
    x_NCHW, y_N = x_NCHW[right], y_N[right]
    stuck = standing(model, x_NCHW, y_N)
    start = x_NCHW[stuck] + SECOND_START * (2 * torch.rand_like(x_NCHW[stuck]) - 1)
    stuck = stuck[standing(model, start.clamp(0, 1), y_N[stuck])]
    if len(stuck) >= STUCK_IMAGES and len(stuck) > STUCK_SHARE * len(right):
        message = (
            f"an attack that may change every pixel at will leaves {len(stuck)} of {len(right)} images standing: "
            "following the gradient does not work on this model"
        )
        yield Flag(code="unbounded_fails", message=message)


def standing(model: nn.Module, start_NCHW: Tensor, y_N: Tensor) -> Tensor:
    """Positions of the images that no iterate of the ascent from `start_NCHW` fools; the others leave as they fall."""
    positions = torch.arange(len(start_NCHW), device=start_NCHW.device)
    x_NCHW = start_NCHW
    for _ in range(STEPS + 1):
        if len(positions) == 0:
            break
        gradient, _, logits_NK = ascent_direction(model, x_NCHW, y_N, cross_entropy)
        stays = torch.nonzero(logits_NK.argmax(1) == y_N)[:, 0]
        positions, y_N = positions[stays], y_N[stays]
        x_NCHW = (x_NCHW[stays] + gradient[stays].sign() / STEPS).clamp(0, 1)
    return positions
