"""A network as a list of layers that bounds can be carried through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deatbench.certificates.layers import Box, Entrance, Layer, ReLU
from deatbench.errors import DeatbenchError


class NotCertifiable(DeatbenchError):
    """A network with a layer that is not known here."""


@dataclass(frozen=True)
class Step:
    """A layer and the steps whose outputs it takes; its own output has this shape."""

    layer: Layer
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """Layers in the order in which they run; a step's number is its place in `steps`.

    Step −1, the root, is the image as the first step sees it. `entrance` makes it of pixels in [0, 1], of each by
    itself, so that a box of pixels becomes exactly a box.
    """

    entrance: tuple[Entrance, ...]
    root_shape: tuple[int, ...]
    steps: tuple[Step, ...]

    def enter(self, pixels: Box) -> Box:
        """The box that the first step sees of a box of images [C, H, W]."""
        for layer in self.entrance:
            pixels = layer.forward(pixels)
        return pixels

    def shape(self, step: int) -> tuple[int, ...]:
        """Of a step's output."""
        return self.root_shape if step < 0 else self.steps[step].shape

    def logits(self, x_CHW: Tensor) -> Tensor:
        """The logits [K] of one image."""
        found = [self.enter(Box(x_CHW, x_CHW))]
        for step in self.steps:
            found.append(step.layer.forward(*(found[1 + source] for source in step.inputs)))
        return found[-1].lower

    @property
    def neurons(self) -> int:
        """Outputs of ReLUs."""
        return sum(torch.Size(step.shape).numel() for step in self.steps if isinstance(step.layer, ReLU))
