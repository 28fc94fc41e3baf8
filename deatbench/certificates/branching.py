"""Branch and bound: where linear bounds are too loose, both signs of the neurons that loosen them most are looked at.

Bunel, Turkaslan, Torr, Kohli, Kumar 2018, "A Unified View of Piecewise Linear Neural Network Verification" (arXiv
1711.00455). A neuron whose sign is assumed has no line around it. What holds in both cases holds; the bounds of
the neurons before stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deatbench.certificates.crown import Bounds, Cases

AT_ONCE = 2  # neurons of a case that are told apart before it is asked about again


def all_exceed(bounds: Bounds, functions_RK: Tensor, threshold: float, most_cases: int) -> bool:
    """Whether all functions of the logits exceed `threshold` everywhere in the box, as far as so many cases show."""
    neurons = bounds.network.neurons
    unsigned = functions_RK.new_zeros(len(functions_RK), neurons)
    cases, seen = Cases(functions_RK, unsigned, unsigned.clone()), 0
    while True:
        doubtful = torch.nonzero(~(bounds.lower_in(cases) > threshold))[:, 0]
        cases, seen = cases.of(doubtful), seen + 2**AT_ONCE * len(doubtful)
        if len(doubtful) == 0:
            return True
        if seen > most_cases or not bool((cases.losses_RN < 0).any(1).all()):  # or nothing is left to tell apart
            return False
        for _ in range(AT_ONCE):
            cases = _split(cases)


def _split(cases: Cases) -> Cases:
    """Each case twice, with either sign of the neuron that costs its bound most; as it is where none costs anything."""
    loss_R1, worst_R1 = cases.losses_RN.min(1, keepdim=True)
    known_R1 = cases.signs_RN.gather(1, worst_R1)
    signs = (torch.where(loss_R1 < 0, sign, known_R1) for sign in (1.0, -1.0))
    positive, negative = (cases.signs_RN.scatter(1, worst_R1, sign_R1) for sign_R1 in signs)
    losses_RN = cases.losses_RN.scatter(1, worst_R1, 0.0)
    return Cases(cases.functions_RK.repeat(2, 1), torch.cat((positive, negative)), losses_RN.repeat(2, 1))
