"""CROWN's bounds are those of an independent, dense form in float64 that carries rows back by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_nets import PublishedNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deatbench.archs.normalize import Normalize
from deatbench.certificates import read, rows
from deatbench.certificates.crown import Bounds
from deatbench.certificates.layers import Box, ReLU
from deatbench.data import Images
from deatbench.records import parse_eps

RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
CHUNK = 256  # rows at once in the reference, a copy of the image each
WHOLE, MIXED, WINDOWS = 0.0, rows.LARGEST_SHARE, 1e9  # shares of a map above which rows are kept whole


class Instead(TorchFunctionMode):
    """Each ReLU that a network runs, of whatever spelling, is `relu(number, z)` instead."""

    def __init__(self, relu: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.relu, self.count = relu, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self.relu(self.count - 1, args[0])


class Relaxed(torch.autograd.Function):
    """A ReLU whose backward takes rows at its output to rows at its input that bound them from below.

    What the linear bound differs by from the network at z goes to `constant_R`: sums of it over all ReLUs make biases
    unnecessary.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, lower: Tensor, upper: Tensor, constant_R: Tensor) -> Tensor:
        ctx.save_for_backward(z, lower, upper)
        ctx.constant_R = constant_R
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (row,), (z, lower, upper) = gradients, ctx.saved_tensors
        unstable, on = (lower < 0) & (upper > 0), (lower >= 0).double()
        lower_slope = torch.where(unstable, (upper > -lower).double(), on)
        upper_slope = torch.where(unstable, upper / (upper - lower), on)
        intercept = torch.where(unstable, -upper * lower / (upper - lower), 0.0)
        before = torch.where(row > 0, row * lower_slope, row * upper_slope)
        ctx.constant_R += (row.clamp_max(0) * intercept - row * z.clamp_min(0) + before * z).flatten(1).sum(1)
        return before, None, None, None


class DenseCrown:
    """Bounds on every ReLU's input, in order, and then on the logits, over one box of images."""

    def __init__(self, model: nn.Module, box: Box) -> None:
        self.model = copy.deepcopy(model).double().requires_grad_(False)
        self.radii = absolute(self.model)
        self.box = Box(box.lower.double(), box.upper.double())
        self.boxes: list[Box] = []
        self.intervals: list[Box] = []  # what interval arithmetic alone knew of them
        with Instead(lambda _, z: z.clamp_min(0)) as counted:
            self.model(self.box.center[None])
        for _ in range(counted.count):
            self.intervals.append(self.interval())
            self.boxes.append(self.refined(self.intervals[-1]))

    def interval(self) -> Box:
        """Of the next ReLU's input: the network of centers, that of radii, and the known boxes behind earlier ReLUs."""
        after = [Box(box.lower.clamp_min(0), box.upper.clamp_min(0)) for box in self.boxes]
        center = self.next_input(self.model, self.box.center, [box.center for box in after])
        radius = self.next_input(self.radii, self.box.radius, [box.radius for box in after])
        return Box(center - radius, center + radius)

    @staticmethod
    def next_input(net: nn.Module, image: Tensor, outputs: list[Tensor]) -> Tensor:
        """What the next ReLU sees if these are the outputs of those before."""
        inputs: list[Tensor] = []

        def relu(number: int, z: Tensor) -> Tensor:
            inputs.append(z)
            return outputs[number][None] if number < len(outputs) else z

        with Instead(relu):
            net(image[None])
        return inputs[len(outputs)][0]

    def refined(self, box: Box) -> Box:
        """The tighter of both bounds of unstable neurons; what one side has decided needs no other."""
        lower, upper = box.lower.flatten().clone(), box.upper.flatten().clone()
        first = torch.where(upper > -lower, 1.0, -1.0).double()
        for sign in (first, -first):
            for at in torch.nonzero((lower < 0) & (upper > 0))[:, 0].split(CHUNK):
                bound = self.lower(F.one_hot(at, len(lower)) * sign[at, None])
                below = sign[at] > 0
                lower[at[below]] = lower[at[below]].maximum(bound[below])
                upper[at[~below]] = upper[at[~below]].minimum(-bound[~below])
        return Box(lower.view_as(box.lower), upper.view_as(box.upper))

    def lower(self, functions_RD: Tensor) -> Tensor:
        """Lower bounds of linear functions of the next ReLU's input; of the logits when there is none."""
        x = self.box.center.expand(len(functions_RD), *self.box.center.shape).clone().requires_grad_(True)
        constant_R, seen = torch.zeros(len(functions_RD), dtype=torch.float64), []

        def relu(number: int, z: Tensor) -> Tensor:
            seen.append(z)
            return Relaxed.apply(z, *self.boxes[number], constant_R) if number < len(self.boxes) else z.clamp_min(0)

        with Instead(relu):
            seen.append(self.model(x))
        value_R = (functions_RD.double() * seen[len(self.boxes)].flatten(1)).sum(1)
        (slope,) = torch.autograd.grad(value_R.sum(), x)
        return value_R.detach() + constant_R - (slope.abs() * self.box.radius).flatten(1).sum(1)


def absolute(net: nn.Module) -> nn.Module:
    """How radii go through a network's affine layers."""
    net = copy.deepcopy(net)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.zero_()
        if isinstance(part, Normalize):
            part.mean.zero_()
        if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            part.weight.abs_()
            if part.bias is not None:
                part.bias.zero_()
    return net


class Block(nn.Module):
    """Two convolutions around a ReLU beside a shortcut, as in the first residual networks."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if stride > 1 or out != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class PreActBlock(nn.Module):
    """Batch norm and ReLU in front of each convolution."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 or out != channels else None

    def forward(self, x: Tensor) -> Tensor:
        before = torch.relu(self.norm1(x))
        y = self.conv2(self.norm2(self.conv1(before)).relu())
        y += x if self.shortcut is None else self.shortcut(before)
        return y


class Fork(nn.Module):
    """Branches that come to one pixel with different strides: their rows' windows cannot be laid over each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Conv2d(3, 8, 4, 1), nn.Conv2d(3, 8, 4, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.one(x) + self.other(x)))


class Linear(nn.Module):
    """A sum of a convolution and what it takes, with a shift before: no ReLU sets to zero what lies around the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.conv(y) + y


def convs(*shapes: tuple[int, int, int, int]) -> list[nn.Module]:
    """(channels, kernel, stride, padding) of each, with ReLUs between and behind; three channels go in."""
    layers: list[nn.Module] = []
    channels = 3
    for out, kernel, stride, padding in shapes:
        layers += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU()]
        channels = out
    return layers


MEAN, STD = (0.4, 0.5, 0.45), (0.25, 0.2, 0.3)
BODIES: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, int]]] = {
    "3x3": (lambda: convs((4, 3, 1, 1), (5, 3, 1, 1), (3, 3, 1, 1)), (9, 9)),
    "3x3, stride 2": (lambda: convs((4, 3, 1, 1), (6, 3, 2, 1), (8, 3, 2, 1)), (12, 12)),
    "3x3, strides from the first on": (lambda: convs((4, 3, 2, 1), (6, 3, 2, 1), (6, 3, 1, 1)), (16, 16)),
    "4x4, stride 2": (lambda: convs((4, 4, 2, 1), (6, 4, 2, 1)), (16, 16)),
    "4x4, stride 2, wide": (lambda: convs((4, 4, 2, 1), (6, 4, 2, 1)), (8, 12)),
    "4x4, stride 2, odd": (lambda: convs((4, 4, 2, 1), (6, 4, 2, 1)), (9, 9)),
    "5x5": (lambda: convs((4, 5, 1, 2), (4, 5, 2, 2)), (10, 10)),
    "5x5 without padding": (lambda: convs((4, 5, 1, 0), (4, 5, 1, 0)), (12, 10)),
    "2x2, stride 3": (lambda: convs((4, 3, 1, 1), (6, 2, 3, 0), (6, 2, 1, 0)), (11, 11)),
    "2x2, stride 3, first": (lambda: convs((6, 2, 3, 1), (6, 3, 1, 1)), (12, 9)),
    "1x1, all padding": (lambda: convs((4, 1, 2, 1), (6, 3, 1, 2)), (8, 8)),
    "residual": (lambda: [*convs((4, 3, 1, 1)), Block(4, 6, 2), Block(6, 6, 1)], (10, 10)),
    "residual, odd": (lambda: [*convs((4, 3, 2, 1)), Block(4, 6, 2), Block(6, 6, 1)], (9, 13)),
    "pre-activation": (
        lambda: [nn.Conv2d(3, 4, 3, 1, 1), PreActBlock(4, 6, 2), PreActBlock(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()],
        (8, 8),
    ),
    "convolutions in a row": (
        lambda: [*convs((4, 3, 1, 1)), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()],
        (9, 9),
    ),
    "norm behind ReLU": (lambda: [*convs((3, 3, 1, 1)), nn.BatchNorm2d(3), *convs((4, 3, 1, 1))], (8, 8)),
    "sums in a row": (lambda: [*convs((4, 3, 1, 1)), Linear(4), Linear(4), nn.ReLU()], (10, 10)),
    "one pixel": (lambda: [*convs((3, 3, 1, 1)), Fork(), nn.ReLU()], (4, 4)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network with Normalize in front and a dense head, and an image for it."""
    torch.manual_seed(len(name))
    body, edges = BODIES[name]
    net = nn.Sequential(Normalize(MEAN, STD), *body(), nn.Flatten())
    x_CHW = torch.rand(3, *edges)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
    features = net.eval()(x_CHW[None]).shape[1]
    return nn.Sequential(*net, nn.Linear(features, 12), nn.ReLU(), nn.Linear(12, 5)).eval(), x_CHW


def margins(label: int, classes: int) -> Tensor:
    eye = torch.eye(classes)
    return (eye[label] - eye)[torch.arange(classes) != label]


def ball(x_CHW: Tensor, eps: float) -> Box:
    return Box((x_CHW - eps).clamp_min(0), (x_CHW + eps).clamp_max(1))


def agree(found: Tensor, expected: Tensor) -> None:
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found.double().flatten(), expected.flatten(), rtol=0, atol=atol)


def same_bounds(model: nn.Module, box: Box, expected: DenseCrown, functions_RK: Tensor) -> None:
    with torch.no_grad():
        network = read(model, box.center[None])
        bounds = Bounds(network, box)
        assert bounds.refine(10**9)
        found = bounds.lower(functions_RK)
    inputs = [bounds._boxes[step.inputs[0]] for step in network.steps if isinstance(step.layer, ReLU)]
    for of_ours, of_theirs in zip(inputs, expected.boxes, strict=True):
        agree(of_ours.lower, of_theirs.lower)
        agree(of_ours.upper, of_theirs.upper)
    agree(found, expected.lower(functions_RK))


@pytest.mark.parametrize("eps", [0.01, 0.1])
@pytest.mark.parametrize("name", BODIES)
def test_bounds_are_those_of_the_dense_form(name: str, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x_CHW = made(name)
    box = ball(x_CHW, eps)
    expected = DenseCrown(model, box)
    functions_RK = torch.cat((margins(2, 5), torch.randn(3, 5)))
    for share in (WHOLE, MIXED, WINDOWS):
        monkeypatch.setattr(rows, "LARGEST_SHARE", share)
        same_bounds(model, box, expected, functions_RK)


@pytest.mark.parametrize("name", BODIES)
def test_there_is_something_to_agree_on(name: str) -> None:
    """Neurons of both kinds that stay unstable, and bounds that interval arithmetic alone does not give."""
    model, x_CHW = made(name)
    dense = DenseCrown(model, ball(x_CHW, 0.1))
    unstable = [(box.lower < 0) & (box.upper > 0) for box in dense.boxes]
    steep = [box.upper[at] > -box.lower[at] for box, at in zip(dense.boxes, unstable, strict=True)]
    assert 0 < sum(int(at.sum()) for at in steep) < sum(int(at.sum()) for at in unstable)
    gained = [
        float((box.lower - interval.lower).max()) > 0.01 and float((interval.upper - box.upper).max()) > 0.01
        for box, interval in zip(dense.boxes, dense.intervals, strict=True)
    ]
    assert any(gained)


@pytest.mark.parametrize("net", ["abc_resnet2b", "sdp_cifar_cnn_a_adv", "kw_scaled_cifar_small_8px"])
def test_bounds_of_published_networks(
    published_nets: dict[str, PublishedNet], cifar10_test: Images, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = published_nets[net]
    ((x_NCHW, y_N),) = cifar10_test.batches([torch.tensor([7])], torch.device("cpu"))
    box = ball(x_NCHW[0], parse_eps(published.eps))
    expected = DenseCrown(published.module, box)
    for share in (MIXED, WINDOWS):
        monkeypatch.setattr(rows, "LARGEST_SHARE", share)
        same_bounds(published.module, box, expected, margins(int(y_N), 10))
