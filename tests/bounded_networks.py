"""Networks and boxes of images drawn at random, and where a search takes what they compute, for tests of bounds."""

from __future__ import annotations

import copy

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from deatbench.archs.normalize import Normalize
from deatbench.certificates import read
from deatbench.certificates.crown import Bounds
from deatbench.certificates.layers import Box, outputs

CLASSES = 4


class Residual(nn.Module):
    """A convolution beside a shortcut; `written_over`: the sum is taken in place."""

    def __init__(self, conv: nn.Conv2d, written_over: bool) -> None:
        super().__init__()
        self.conv, self.written_over = conv, written_over
        self.shortcut = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.written_over:
            y += self.shortcut(x)
            return y
        return y + self.shortcut(x)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A network of any known layers, and an image for it."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    edges = draw(st.integers(4, 10)), draw(st.integers(4, 10))
    channels, x_CHW = 2, torch.rand(2, *edges)
    layers: list[nn.Module] = [Normalize((0.4, 0.6), (0.3, 0.2))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride, padding = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
        out = draw(st.integers(1, 4))
        if min(edges) + 2 * padding < kernel:
            break
        conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=draw(st.booleans()))
        joined = kernel == 2 * padding + 1 and draw(st.booleans())
        layers.append(Residual(conv, draw(st.booleans())) if joined else conv)
        if draw(st.booleans()):
            layers.append(nn.BatchNorm2d(out, affine=draw(st.booleans())))
            layers[-1].running_mean.uniform_(-0.3, 0.3)
            layers[-1].running_var.uniform_(0.2, 2)
        layers += [nn.ReLU()] if draw(st.integers(0, 3)) else []
        channels, edges = out, tuple(outputs(edge, kernel, stride, padding) for edge in edges)
    features = channels * edges[0] * edges[1]
    head = [nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, CLASSES)]
    return nn.Sequential(*layers, nn.Flatten(), *head).eval(), x_CHW


def ball(x_CHW: Tensor, eps: float) -> Box:
    return Box((x_CHW - eps).clamp_min(0), (x_CHW + eps).clamp_max(1))


def margins(label: int, classes: int = CLASSES) -> Tensor:
    eye = torch.eye(classes)
    return (eye[label] - eye)[torch.arange(classes) != label]


@torch.no_grad()
def bounds_of(model: nn.Module, box: Box) -> Bounds:
    bounds = Bounds(read(model, torch.stack([*box, box.center])), box)
    assert bounds.refine(10**9)
    return bounds


class Watched:
    """What all ReLUs see and which margins come out, side by side [N, M], by the network itself in float64."""

    def __init__(self, model: nn.Module, functions_RK: Tensor) -> None:
        self.model, self.functions_RK = copy.deepcopy(model).double().requires_grad_(False), functions_RK.double()
        self.inputs: list[Tensor] = []
        for part in self.model.modules():
            if isinstance(part, nn.ReLU):
                part.register_forward_pre_hook(lambda _, args: self.inputs.append(args[0].flatten(1)))

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        self.inputs.clear()
        logits = self.model(x_NCHW)
        return torch.cat([*self.inputs, logits @ self.functions_RK.T], 1)


def searched(values: Watched, box: Box, rows: int) -> Tensor:
    """Points of the box: uniform, corners, and where PGD takes some margins and neurons to, up and down."""
    lower, upper = box.lower.double(), box.upper.double()
    uniform = lower + (upper - lower) * torch.rand(50, *lower.shape, dtype=torch.float64)
    corners = torch.where(torch.rand(50, *lower.shape) < 0.5, lower, upper)
    size = values(uniform[:1]).shape[1]
    chosen = torch.cat((torch.arange(size - rows, size), torch.randint(0, size, (40,)))).repeat(2)
    sign = torch.ones(len(chosen)).double()
    sign[len(chosen) // 2 :] = -1
    x = ((lower + upper) / 2).expand(len(chosen), *lower.shape).clone()
    for step in (1.0, 0.5, 0.25):
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad((values(x).gather(1, chosen[:, None])[:, 0] * sign).sum(), x)
        x = torch.minimum(torch.maximum(x + step * (upper - lower) * slope.sign(), lower), upper)
    return torch.cat((uniform, corners, x.detach()))
