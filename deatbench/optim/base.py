"""The registry of optimizers."""

from collections.abc import Callable

from torch.optim import Optimizer

from deatbench.registry import Registry

OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry("optimizer", "deatbench.optim")
