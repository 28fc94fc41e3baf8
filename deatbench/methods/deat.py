"""DEAT: PGD adversarial training with a diffusion-enhancing update.

Sun, Sinha, Zhang, "Enhance Diffusion to Improve Robust Generalization", KDD 2023 (arXiv 2306.02618), Algorithm 2.
Perturbation and loss are PGD-AT's; only the update differs, and it is an optimizer (deatbench/optim/deat.py), so that
it can be put under any other loss: `--method trades --set optimizer.name=deat`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deatbench.methods.base import METHODS
from deatbench.methods.pgd_at import PGDAT


@METHODS.register("deat")
@dataclass(frozen=True)
class DEATMethod(PGDAT):
    """DEAT: PGD adversarial training under DEAT's two-momenta update (Sun et al., KDD 2023)."""

    optimizer: ClassVar[str] = "deat"
