"""Is the gradient that the attack will climb the network's own? Checked against float64 before the first step."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import cross_entropy, input_gradient
from deatbench.errors import DeatbenchError

IMAGES = 8
LEAST_COSINE = {torch.float32: 0.999, torch.bfloat16: 0.8}


@dataclass(frozen=True)
class Agreement:
    """Of two input gradients: their cosine, and the share of pixels where their signs agree."""

    cosine: float
    signs: float

    def __str__(self) -> str:
        return f"cosine {self.cosine:.4f}, {self.signs:.1%} of the signs"


def check_gradient(search: nn.Module, model: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Agreement:
    """Agreement of `search`'s input gradient with `model`'s in eval mode, float64, on the CPU, for a few images.

    `search` sees the whole batch, the shape that it will be used with. Raises DeatbenchError below the bound.
    """
    found = input_gradient(search, x_NCHW, y_N, cross_entropy)[:IMAGES].double().cpu()
    exact = copy.deepcopy(model).cpu().double().eval()
    expected = input_gradient(exact, x_NCHW[:IMAGES].double().cpu(), y_N[:IMAGES].cpu(), cross_entropy)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    agreement = Agreement(float(cosine), float((found.sign() == expected.sign()).double().mean()))
    half = any(t.dtype == torch.bfloat16 for t in (*search.buffers(), *search.parameters()))
    if not agreement.cosine >= LEAST_COSINE[torch.bfloat16 if half else torch.float32]:
        raise DeatbenchError(f"its input gradient is not the network's: {agreement}")
    return agreement
