"""CutMix: a box of each image shows another image (Yun et al. 2019, arXiv 1905.04899, equations 1 and 2).

Rebuffi et al. 2021 (arXiv 2111.05328) use it in adversarial training, on every batch. Published code draws one box per
batch; here each image has its own. For a single image the distribution is the same, and batches differ less.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deatbench.data.boxes import random_boxes
from deatbench.errors import ConfigError


def cutmix(
    x_NCHW: Tensor, y_N: Tensor, generator: torch.Generator, alpha: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Images with a box of a partner's pixels, the partners' labels, and how much is still the image's own.

    Partners are a random permutation of the batch, so an image may meet itself. A box covers a share of the image
    drawn from Beta(alpha, alpha), sides in the image's proportions and rounded down; it is centred anywhere and
    clipped at the border.

    Args:
        x_NCHW: float in [0,1]; so is the result.
        y_N: labels.
        generator: on the batch's device, or on the CPU to draw the same numbers on every device.
        alpha: > 0; 1, the published choice: shares are uniform before clipping.

    Returns:
        The images; the partners' labels, like `y_N`; float32 in [0,1], shape (N,): 1 less the box's true share.

    Raises:
        ConfigError: alpha is not positive.
    """
    n, _, height, width = x_NCHW.shape
    partner_N = torch.randperm(n, generator=generator, device=generator.device).to(x_NCHW.device, non_blocking=True)
    side_N1 = symmetric_beta(n, alpha, generator).sqrt()[:, None]
    box_N1HW = random_boxes(x_NCHW, (height * side_N1).long(), (width * side_N1).long(), generator)
    share_N = (~box_N1HW).sum((1, 2, 3)) / (height * width)
    return torch.where(box_N1HW, x_NCHW[partner_N], x_NCHW), y_N[partner_N], share_N


def symmetric_beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """`n` draws from Beta(alpha, alpha), float32, on the generator's device. Raises ConfigError unless alpha > 0.

    Without rejection, so that every call draws equally many numbers: sqrt(2a) (U^(-1/a) - 1)^(1/2) cos(2 pi V) has
    Student's t distribution with 2a degrees of freedom (Bailey 1994, Math. Comp. 62), and t / sqrt(2a + t^2) is
    Beta(a, a) stretched to [-1, 1].
    """
    if not alpha > 0:
        raise ConfigError(f"CutMix needs alpha > 0, not {alpha}")
    uniform_2N = torch.rand((2, n), generator=generator, device=generator.device)
    log_q_N, cosine_N = uniform_2N[0].log() / alpha, torch.cos(2 * math.pi * uniform_2N[1])
    odds_N = log_q_N.exp() / -torch.expm1(log_q_N)
    return ((1 + cosine_N / (odds_N + cosine_N.square()).sqrt()) / 2).clamp(0, 1)
