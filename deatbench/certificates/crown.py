"""CROWN: linear lower bounds on every neuron and margin of a network over a box of images, backwards layer by layer.

Zhang, Weng, Chen, Hsieh, Daniel 2018, "Efficient Neural Network Robustness Certification with General Activation
Functions" (arXiv 1811.00866), the adaptive lower slopes of its section 3.3; on networks with branches as in Xu et al.
2020 (arXiv 2002.12920). An unstable ReLU with inputs in [l, u], l < 0 < u, lies below the line through (l, 0) and
(u, u), and above slope · input, the slope 1 where u > −l and else 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deatbench.certificates.layers import Back, Box, ReLU
from deatbench.certificates.network import Network
from deatbench.certificates.rows import Rows, Windows, products

AT_ONCE = 2**20  # coefficients of rows where they have most: few calls, and still in a cache
ROUND = 32  # rows at once are multiples of this; so many while it is not known how wide they become


class Lines(NamedTuple):
    """Lines through and above a ReLU, element by element: lower · z ≤ ReLU(z) ≤ (lower + further) · z + above."""

    lower: Tensor
    further: Tensor
    above: Tensor

    @classmethod
    def around(cls, box: Box) -> Lines:
        """The lines for inputs in the box."""
        low, high = box.lower.clamp_max(0), box.upper.clamp_min(0)
        upper = torch.where(high > 0, high / (high - low).clamp_min(1e-30), 0.0)
        lower = (high > -low).float()
        return cls(lower, upper - lower, -upper * low)

    def where(self, signs: Tensor) -> Lines:
        """The lines for neurons that are active (1), inactive (−1) or either (0), where that is so."""
        free = signs == 0
        return Lines(torch.where(free, self.lower, (signs > 0).float()), self.further * free, self.above * free)


class Cases(NamedTuple):
    """Linear functions of the logits [R, K], each asked about where some neurons have certain signs.

    `signs_RN` speaks of the inputs of all ReLUs, one ReLU behind the other: positive (1), negative (−1), either (0).
    `losses_RN` is filled with what the lines around each neuron take away from the bound, 0 or below.
    """

    functions_RK: Tensor
    signs_RN: Tensor
    losses_RN: Tensor

    def of(self, rows: Tensor) -> Cases:
        """Some of them."""
        return Cases(*(part[rows] for part in self))


class Bounds:
    """Bounds on what a network computes over a box of images [C, H, W] in [0, 1]. One box, one thread.

    `widest` learns, for each step, how many coefficients a row that begins there has where it has most.
    """

    def __init__(self, network: Network, pixels: Box, widest: dict[int, int] | None = None) -> None:
        self.network = network
        self.widest = {} if widest is None else widest
        self.root = network.enter(pixels)
        self._boxes: list[Box] = []  # of each step's output
        self._lines: dict[int, Lines] = {}  # of each ReLU
        self.neurons = _slices(network)
        self._cuts: dict[tuple[int, Windows | None], Lines] = {}  # those lines, as rows in windows see them
        self.rows_used = 0

    def refine(self, most_rows: int) -> bool:
        """Bound every ReLU's input; False if that takes more than so many rows."""
        read_by_relu = {step.inputs[0] for step in self.network.steps if isinstance(step.layer, ReLU)}
        for at, step in enumerate(self.network.steps):
            boxes = [self.root if source < 0 else self._boxes[source] for source in step.inputs]
            if isinstance(step.layer, ReLU):
                self._lines[at] = Lines.around(boxes[0])
            box = step.layer.forward(*boxes)
            if at in read_by_relu and step.inputs != (-1,):  # of the image itself the interval is exact
                if self.rows_used + int(_unstable(box).sum()) > most_rows:
                    return False
                box = self._refined(at, box)
            self._boxes.append(box)
        return True

    def lower(self, functions_RK: Tensor) -> Tensor:
        """Lower bounds [R] of linear functions [R, K] of the logits."""
        at, count = len(self.network.steps) - 1, len(functions_RK)
        return self._in_parts(at, count, lambda part: self._back(at, Rows(functions_RK[part])))

    def lower_in(self, cases: Cases) -> Tensor:
        """Lower bounds [R], each in its case; fills the cases' losses."""
        at = len(self.network.steps) - 1

        def back(part: Tensor) -> Tensor:
            some = cases.of(part)
            lower_R = self._back(at, Rows(some.functions_RK), some)
            cases.losses_RN[part] = some.losses_RN
            return lower_R

        return self._in_parts(at, len(cases.functions_RK), back)

    def _refined(self, at: int, box: Box) -> Box:
        """The box around a step's output with better bounds for neurons that may be negative or positive."""
        self._cuts.clear()
        lower, upper = box.lower.flatten().clone(), box.upper.flatten().clone()
        first_D = torch.where(upper > -lower, 1.0, -1.0)  # the side that is likelier to leave no doubt comes first
        for sign_D in (first_D, -first_D):
            neurons = torch.nonzero((lower < 0) & (upper > 0))[:, 0]
            sign_R = sign_D[neurons]
            bound_R = self._of_neurons(at, neurons, sign_R)
            below, above = neurons[sign_R > 0], neurons[sign_R < 0]
            lower[below] = torch.maximum(lower[below], bound_R[sign_R > 0])
            upper[above] = torch.minimum(upper[above], -bound_R[sign_R < 0])
        return Box(lower.view_as(box.lower), upper.view_as(box.upper))

    def _of_neurons(self, at: int, neurons: Tensor, sign_R: Tensor) -> Tensor:
        """Lower bounds [R] of ± some of a step's outputs."""
        shape = self.network.shape(at)
        area = torch.Size(shape[1:]).numel()

        def back(part: Tensor) -> Tensor:
            chosen = neurons[part]
            values = F.one_hot(chosen // area, shape[0]) * sign_R[part, None]
            if len(shape) == 1:
                return self._back(at, Rows(values))
            return self._back(at, Rows(values[:, :, None, None], Windows((shape[1], shape[2])), chosen % area))

        return self._in_parts(at, len(neurons), back)

    def _in_parts(self, at: int, count: int, back: Callable[[Tensor], Tensor]) -> Tensor:
        """What `back` makes [R] of rows 0 .. count-1 that begin at a step, as many at once as a cache holds.

        Numbers of rows are rounded up, so that the convolutions' code need not be made anew for each.
        """
        self.rows_used += count
        parts, start = [torch.empty(0)], 0
        while start < count:
            at_once = max(1, AT_ONCE // self.widest.get(at, AT_ONCE // ROUND))
            size = min(at_once, -(-(count - start) // ROUND) * ROUND)
            parts.append(back(torch.arange(start, start + size).clamp_max(count - 1)))
            start += size
        return torch.cat(parts)[:count]

    def _back(self, at: int, rows: Rows, cases: Cases | None = None) -> Tensor:
        """Through the layers to the image, and there the least value [R]."""
        waiting, constant_R = {at: rows}, torch.zeros(len(rows))
        for index in range(at, -1, -1):
            if index not in waiting:
                continue
            step, rows = self.network.steps[index], waiting.pop(index)
            self.widest[at] = max(self.widest.get(at, 1), rows.values[0].numel())
            if isinstance(step.layer, ReLU):
                before, constants_R = self._relaxed(index, rows, cases)
            else:
                before, constants_R = step.layer.back(rows)
            constant_R = constant_R + constants_R
            for source, part in zip(step.inputs, before, strict=True):
                known = waiting.get(source)
                waiting[source] = part if known is None else known.plus(part, self.network.shape(source))
        at_image, box = waiting[-1], self.root
        self.widest[at] = max(self.widest[at], at_image.values[0].numel())
        reach = products(at_image.values.abs(), at_image.of(at_image.seen(box.radius)))
        return constant_R + at_image.dot(box.center) - reach

    def _relaxed(self, relu: int, rows: Rows, cases: Cases | None) -> Back:
        """Rows at a ReLU's input that bound the rows at its output from below."""
        if (relu, rows.windows) not in self._cuts:
            self._cuts[relu, rows.windows] = Lines(*(rows.seen(line) for line in self._lines[relu]))
        lines = Lines(*(rows.of(line) for line in self._cuts[relu, rows.windows]))
        negative = rows.values.clamp_max(0)
        if cases is not None:
            lines = lines.where(cases.signs_RN[:, self.neurons[relu]].view_as(negative))
            cases.losses_RN[:, self.neurons[relu]] = (negative * lines.above).flatten(1)
        values = torch.addcmul(rows.values * lines.lower, negative, lines.further)
        return Back((Rows(values, rows.windows, rows.place_R),), products(negative, lines.above))


def _slices(network: Network) -> dict[int, slice]:
    """Where the neurons of each ReLU stand among those of all."""
    found, start = {}, 0
    for at, step in enumerate(network.steps):
        if isinstance(step.layer, ReLU):
            found[at] = slice(start, start + torch.Size(step.shape).numel())
            start = found[at].stop
    return found


def _unstable(box: Box) -> Tensor:
    return (box.lower < 0) & (box.upper > 0)
