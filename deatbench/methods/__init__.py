"""Training methods: one file each. A method owns the *step* (perturb, loss); the engine owns the loop.

@METHODS.register("pgd-at")
@dataclass(frozen=True)
class PGDAT(Method): ...
"""

from deatbench.methods.base import METHODS, Batch, Losses, Method

__all__ = ["METHODS", "Batch", "Losses", "Method"]
