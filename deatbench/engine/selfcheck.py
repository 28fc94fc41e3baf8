"""Is the gradient that the attack will climb the network's own? Checked against float64 before the first step.

Logits are the sharp test: they agree to rounding or the form is wrong. Gradients may differ where rounding decides a
tie, as max pooling meets on the black border of a cropped image.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deatbench.attacks.gradient import ascent_direction, cross_entropy
from deatbench.errors import DeatbenchError

IMAGES = 8
LEAST_COSINE = {"float32": 0.98, "tf32": 0.9, "bfloat16": 0.8}
MOST_LOGIT_ERROR = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.5}


@dataclass(frozen=True)
class Agreement:
    """Of two input gradients: their cosine, and the share of pixels where their signs agree; how far logits are apart.

    `logits` is the largest difference in units of the largest logit.
    """

    cosine: float
    signs: float
    logits: float

    def __str__(self) -> str:
        return f"cosine {self.cosine:.4f}, {self.signs:.1%} of the signs, logits within {self.logits:.1e}"


def check_gradient(
    search: nn.Module, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, *, tf32: bool = False
) -> Agreement:
    """Agreement of `search`'s logits and input gradient with `model`'s in eval mode, float64, for a few images.

    `search` sees the whole batch, the shape that it will be used with; `tf32`: its float32 products may be TF32's.
    Raises DeatbenchError beyond the bounds.
    """
    found, _, logits_NK = ascent_direction(search, x_NCHW, y_N, cross_entropy)
    found, logits_NK = found[:IMAGES].double().cpu(), logits_NK[:IMAGES].double().cpu()
    exact = copy.deepcopy(model).cpu().double().eval()
    few = x_NCHW[:IMAGES].double().cpu(), y_N[:IMAGES].cpu()
    expected, _, exact_NK = ascent_direction(exact, *few, cross_entropy)
    agreement = Agreement(
        cosine=float(torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)),
        signs=float((found.sign() == expected.sign()).double().mean()),
        logits=float((logits_NK - exact_NK).abs().max() / exact_NK.abs().max().clamp(min=1e-12)),
    )
    half = any(t.dtype == torch.bfloat16 for t in (*search.buffers(), *search.parameters()))
    kind = "bfloat16" if half else "tf32" if tf32 else "float32"
    if not (agreement.cosine >= LEAST_COSINE[kind] and agreement.logits <= MOST_LOGIT_ERROR[kind]):
        raise DeatbenchError(f"its logits or input gradient are not the network's: {agreement}")
    return agreement
