"""Optimizers: one file each; a target makes one from the parameters and its hyper-parameters.

@OPTIMIZERS.register("deat")
def deat(params, *, lr: float, ...) -> torch.optim.Optimizer
"""

from deatbench.optim.base import OPTIMIZERS

__all__ = ["OPTIMIZERS"]
