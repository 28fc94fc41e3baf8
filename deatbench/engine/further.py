"""Weights that a finished run keeps besides those of its epochs: averages, and the shifted point of DEAT's update."""

from __future__ import annotations

import copy

import torch
from torch import nn

from deatbench.engine.plan import Plan
from deatbench.engine.state import TrainState
from deatbench.engine.validation import refresh_statistics
from deatbench.optim.deat import DEAT
from deatbench.records import Checkpoint


def further_weights(state: TrainState, plan: Plan) -> dict[Checkpoint, nn.Module]:
    """The networks by name: "ema", "swa", "shifted", as far as the run's configuration asks for them.

    They all follow from the state of the end. Weights that no step was taken at get statistics of their own.
    """
    found: dict[Checkpoint, nn.Module] = {name: average.module for name, average in state.averages.items()}
    if plan.config.shifted:
        found["shifted"] = _shifted(state)
    for name in ("swa", "shifted"):
        if name in found:
            refresh_statistics(found[name], plan)
    return found


def _shifted(state: TrainState) -> nn.Module:
    """A copy of the network at theta + lr' · k1 · h (Sun et al., KDD 2023, Algorithm 2, rewritten)."""
    assert isinstance(state.optimizer, DEAT)  # `configure` has refused others
    places: dict[torch.Tensor, str] = {parameter: name for name, parameter in state.model.named_parameters()}
    module = copy.deepcopy(state.model)
    copies = dict(module.named_parameters())
    with torch.no_grad():
        for parameter, shift in state.optimizer.shifts():
            copies[places[parameter]].add_(shift)
    return module
