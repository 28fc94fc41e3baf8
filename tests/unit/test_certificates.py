"""Certificates hold: nothing in the ball falls below a bound, no broken image is proved, no other network is read."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.archs.normalize import Normalize
from deatbench.attacks import make_attack
from deatbench.attacks.rng import ExampleRng
from deatbench.certificates import Certifier, NotCertifiable, crown, read
from deatbench.certificates.crown import Bounds
from deatbench.certificates.layers import Box, Conv, ReLU, Unshuffle, on_blocks, outputs
from deatbench.certificates.rows import Rows, Windows
from deatbench.data import Dataset
from deatbench.threats import make_threat

IMAGES = 64
EPS = ("0.002", "0.01", "0.03", "0.06", "0.1")
CLASSES = 4


# Networks and boxes drawn at random.


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


# Bounds.


@settings(deadline=None, max_examples=40)
@given(made=networks(), eps=st.sampled_from([0.003, 0.03, 0.2]), label=st.integers(0, CLASSES - 1))
def test_nothing_in_the_box_is_below_or_above_its_bounds(
    made: tuple[nn.Module, Tensor], eps: float, label: int
) -> None:
    (model, x_CHW), functions_RK = made, margins(label)
    box = ball(x_CHW, eps)
    bounds = bounds_of(model, box)
    known = [bounds._boxes[step.inputs[0]] for step in bounds.network.steps if isinstance(step.layer, ReLU)]
    lower = torch.cat([*(part.lower.flatten() for part in known), bounds.lower(functions_RK)])
    upper = torch.cat([*(part.upper.flatten() for part in known), -bounds.lower(-functions_RK)])
    values = Watched(model, functions_RK)
    found = values(searched(values, box, len(functions_RK)))
    rounding = 1e-5 * found.abs().max()
    assert bool((found >= lower - rounding).all())
    assert bool((found <= upper + rounding).all())


def affine() -> nn.Sequential:
    """Every known layer but ReLU."""
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    layers = nn.Conv2d(2, 4, 3, 2, 1), norm, Residual(nn.Conv2d(4, 4, 3, 1, 1), False), nn.Flatten(), nn.Linear(80, 4)
    return nn.Sequential(Normalize((0.4, 0.6), (0.3, 0.2)), *layers).eval()


def least_of_linearised(model: nn.Module, x_CHW: Tensor, box: Box, functions_RK: Tensor) -> Tensor:
    """The least margins over a box if the network were its tangent at the image; in float64."""
    net = copy.deepcopy(model).double()

    def values(x: Tensor) -> Tensor:
        return functions_RK.double() @ net(x[None])[0]

    slope = torch.autograd.functional.jacobian(values, x_CHW.double())
    worst = torch.where(slope > 0, box.lower.double(), box.upper.double())
    return (values(x_CHW.double()) + (slope * (worst - x_CHW.double())).flatten(1).sum(1)).detach()


def test_of_an_affine_network_they_are_the_least_values() -> None:
    model, x_CHW = affine(), torch.rand(2, 9, 7)
    box = ball(x_CHW, 0.1)
    expected = least_of_linearised(model, x_CHW, box, margins(1))
    torch.testing.assert_close(bounds_of(model, box).lower(margins(1)).double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(made=networks())
def test_of_one_image_they_are_its_margins(made: tuple[nn.Module, Tensor]) -> None:
    model, x_CHW = made
    found = bounds_of(model, Box(x_CHW, x_CHW)).lower(margins(0))
    expected = (margins(0) @ model(x_CHW[None])[0]).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_they_do_not_depend_on_how_many_rows_go_at_once(
    robust_net: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, found = ball(image(digits, 0)[0], 0.05), []
    for at_once in (crown.AT_ONCE, 2**14, 100):
        monkeypatch.setattr(crown, "AT_ONCE", at_once)
        bounds = bounds_of(robust_net, box)
        found.append(torch.stack([bounds.lower(margins(label, 10)) for label in range(10)]))
        assert bounds.rows_used > 100  # more than one part, then
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5 * float(found[0].abs().max()))


# Proofs.


def image(digits: Dataset, at: int) -> tuple[Tensor, int]:
    ((x_NCHW, y_N),) = digits.test.batches([torch.tensor([at])], torch.device("cpu"))
    return x_NCHW[0], int(y_N)


@pytest.fixture(scope="module")
def proofs(robust_net: nn.Module, digits: Dataset) -> dict[str, list[bool]]:
    """Which of some test images are proved robust at each radius."""
    network = read(robust_net, image(digits, 0)[0][None])
    certifiers = {eps: Certifier(network, make_threat("Linf", eps)) for eps in EPS}
    return {
        eps: [certifier.proved(*image(digits, at)) for at in range(IMAGES)] for eps, certifier in certifiers.items()
    }


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("attack", ["apgd-ce", "pgd-20"])
def test_no_image_is_proved_that_an_attack_breaks(
    robust_net: nn.Module, digits: Dataset, proofs: dict[str, list[bool]], attack: str, eps: str
) -> None:
    threat, at = make_threat("Linf", eps), torch.arange(IMAGES)
    ((x_NCHW, y_N),) = digits.test.batches([at], torch.device("cpu"))
    x_adv = make_attack(attack)(robust_net, x_NCHW, y_N, threat, ExampleRng(0, at, attack))
    with torch.no_grad():
        broken_N = robust_net(x_adv).argmax(1) != y_N
    assert bool(broken_N.any())
    assert not bool((broken_N & torch.tensor(proofs[eps])).any())


def test_most_are_proved_at_a_small_radius_and_fewer_at_larger_ones(proofs: dict[str, list[bool]]) -> None:
    counts = [sum(proofs[eps]) for eps in EPS]
    assert counts[0] > 0.9 * IMAGES
    assert 0 < counts[-2] < counts[1]
    for smaller, larger in itertools.pairwise(EPS):
        assert all(proofs[smaller][at] for at in range(IMAGES) if proofs[larger][at])


def test_no_misclassified_image_is_proved(robust_net: nn.Module, digits: Dataset) -> None:
    certifier = Certifier(read(robust_net, image(digits, 0)[0][None]), make_threat("Linf", "0.0001"))
    x_CHW, label = image(digits, 0)
    assert [certifier.proved(x_CHW, other) for other in range(10)] == [other == label for other in range(10)]


def test_no_proof_takes_more_rows_than_allowed(robust_net: nn.Module, digits: Dataset) -> None:
    network, threat, (x_CHW, label) = (
        read(robust_net, image(digits, 0)[0][None]),
        make_threat("Linf", "0.03"),
        image(digits, 0),
    )
    bounds = Bounds(network, Certifier(network, threat)._ball(x_CHW))
    bounds.refine(10**9)
    assert bounds.rows_used > 0
    assert Certifier(network, threat, bounds.rows_used).proved(x_CHW, label)
    assert not Certifier(network, threat, 0).proved(x_CHW, label)


@pytest.mark.parametrize(
    ("gap", "slack", "proved"), [(0.0005, {}, False), (0.01, {}, True), (0.0005, {"slack": 0.0}, True)]
)
def test_a_margin_that_rounding_may_have_made_proves_nothing(gap: float, slack: dict[str, float], proved: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, 1.0 - gap])
    x_CHW = torch.rand(1, 2, 2)
    assert Certifier(read(model, x_CHW[None]), make_threat("Linf", "0.1"), **slack).proved(x_CHW, 0) == proved


@pytest.mark.parametrize("at", range(3))
def test_a_promise_is_the_least_margin_of_the_linearised_network(
    robust_net: nn.Module, digits: Dataset, at: int
) -> None:
    (x_CHW, label), threat = image(digits, at), make_threat("Linf", "0.07")
    certifier = Certifier(read(robust_net, x_CHW[None]), threat)
    box = ball(x_CHW, threat.eps + threat.tolerance)
    expected = float(least_of_linearised(robust_net, x_CHW, box, margins(label, 10)).min())
    assert certifier.promise(x_CHW, label) == pytest.approx(expected, rel=1e-4, abs=1e-4)


# Networks that are read, and those that are not.


class Net(nn.Module):
    """Some layers, and a forward that uses them in its own way."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        self.conv, self.again = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.flat, self.relu, self.over = nn.Flatten(), nn.ReLU(), nn.ReLU(inplace=True)
        self.leaky, self.dropout, self.same = nn.LeakyReLU(), nn.Dropout(0.5), nn.Identity()
        self.narrow, self.norm = nn.Conv2d(3, 1, 1), nn.BatchNorm1d(4 * 36)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.head = nn.Linear(4 * 36, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def shortcut_over(net: Net, x: Tensor) -> Tensor:
    shortcut = net.conv(x)
    y = net.again(net.relu(net.conv(x)))
    y += shortcut
    return net.head(net.flat(net.over(y)))


def later_unused(net: Net, x: Tensor) -> Tensor:
    logits = net.head(net.flat(net.conv(x)))
    net.relu(logits)
    return logits


ACCEPTED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "view": lambda net, x: net.head(net.conv(x).view(x.size(0), -1)),
    "view by shape": lambda net, x: net.head(net.conv(x).view(x.shape[0], -1)),
    "reshape": lambda net, x: net.head(net.conv(x).reshape(x.size()[0], 144)),
    "reshape by features": lambda net, x: net.head(net.conv(x).reshape(-1, 144)),
    "flatten": lambda net, x: net.head(net.conv(x).flatten(1)),
    "torch.flatten": lambda net, x: net.head(torch.flatten(net.conv(x), 1)),
    "nn.Flatten": lambda net, x: net.head(net.flat(net.conv(x))),
    "dropout and identity": lambda net, x: net.head(net.dropout(net.flat(net.same(net.conv(x))))),
    "nn.ReLU": lambda net, x: net.head(net.flat(net.relu(net.conv(x)))),
    "F.relu": lambda net, x: net.head(net.flat(F.relu(net.conv(x)))),
    "torch.relu": lambda net, x: net.head(net.flat(torch.relu(net.conv(x)))),
    "relu": lambda net, x: net.head(net.flat(net.conv(x).relu())),
    "ReLU in place": lambda net, x: net.head(net.flat(net.over(net.conv(x)))),
    "F.relu in place": lambda net, x: net.head(net.flat(F.relu(net.conv(x), inplace=True))),
    "relu_": lambda net, x: net.head(net.flat(net.conv(x).relu_())),
    "ReLU twice": lambda net, x: net.head(net.flat(net.relu(net.again(net.relu(net.conv(x)))))),
    "ReLU of the image": lambda net, x: net.head(net.flat(net.conv(net.relu(x)))),
    "ReLU of a ReLU": lambda net, x: net.head(net.flat(net.relu(net.relu(net.conv(x))))),
    "BatchNorm1d": lambda net, x: net.head(net.norm(net.flat(net.conv(x)))),
    "sum with itself": lambda net, x: net.head(net.flat((lambda y: y + y)(net.conv(x)))),
    "image with itself": lambda net, x: net.head(net.flat(net.conv(x + x))),
    "torch.add": lambda net, x: net.head(net.flat(torch.add(net.conv(x), net.relu(net.conv(x))))),
    "add": lambda net, x: net.head(net.flat(net.conv(x).add(net.relu(net.conv(x))))),
    "sum in place": shortcut_over,
    "a layer used twice": lambda net, x: net.head(net.flat(net.again(net.relu(net.again(net.relu(net.conv(x))))))),
    "sum of logits": lambda net, x: net.head(net.flat(net.conv(x))) + net.head(net.flat(net.relu(net.conv(x)))),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_known_layers_are_read_however_they_are_spelled(name: str) -> None:
    model, x_NCHW = Net(ACCEPTED[name]).eval(), torch.rand(3, 3, 6, 6)
    network = read(model, x_NCHW)
    with torch.no_grad():
        found, expected = torch.stack([network.logits(x) for x in x_NCHW]), model(x_NCHW)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    box = ball(x_NCHW[0], 0.02)
    values = Watched(model, margins(0))
    lowest = values(searched(values, box, CLASSES - 1))[:, 1 - CLASSES :].amin(0)
    bound = bounds_of(model, box).lower(margins(0))
    assert bool((bound <= lowest + 1e-5).all())
    assert bool((bound >= lowest - 1).all())  # a bound that says something


FORWARDS: dict[str, tuple[Callable[..., Any], str]] = {
    "max pooling": (lambda net, x: net.head(net.flat(F.max_pool2d(net.conv(x), 3, 1, 1))), "max_pool2d"),
    "LeakyReLU": (lambda net, x: net.head(net.flat(net.leaky(net.conv(x)))), "uses LeakyReLU"),
    "control flow": (lambda net, x: net.head(net.flat(net.conv(x) if x.sum() > 0 else x)), "cannot be read"),
    "length": (lambda net, x: net.head(net.conv(x).reshape(len(x), -1)), "cannot be read"),
    "constant added": (lambda net, x: net.head(net.flat(net.conv(x))) + torch.ones(CLASSES), "not the image"),
    "number added": (lambda net, x: net.head(net.flat(net.conv(x))) + 0.5, "uses add"),
    "weighted sum": (lambda net, x: net.head(net.flat(torch.add(net.conv(x), net.conv(x), alpha=2))), "uses add"),
    "times one": (lambda net, x: net.head(net.flat(net.conv(x))) * 1, "uses mul"),
    "noise like the image": (lambda net, x: net.head(net.flat(net.conv(x + torch.randn_like(x)))), "randn_like"),
    "noise": (lambda net, x: net.head(net.flat(net.conv(x))) + torch.randn(CLASSES), "not the image"),
    "parameter added": (lambda net, x: net.head(net.flat(net.conv(x))) + net.head.bias, "not the image"),
    "another shape added": (lambda net, x: net.head(net.flat(net.conv(x) + net.narrow(x))), "different shapes"),
    "a part of the channels": (lambda net, x: net.head(net.flat(net.again(net.conv(x))[:, :4])), "not the image"),
    "nothing of the image": (lambda net, x: net.head(torch.ones(1, 144)), "not the image"),
    "an earlier output": (later_unused, "does not end with its logits"),
    "two outputs": (lambda net, x: (net.head(net.flat(net.conv(x))), net.conv(x)), "does not end with its logits"),
    "a dictionary": (lambda net, x: {"logits": net.head(net.flat(net.conv(x)))}, "logits|cannot be read"),
    "the image itself": (lambda net, x: x, "does not end with its logits"),
    "a map for logits": (lambda net, x: net.conv(x), "logits"),
    "flattened by half": (lambda net, x: net.conv(x).flatten(2), "not the function"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_other_forwards_are_refused(name: str) -> None:
    run, message = FORWARDS[name]
    refused(Net(run).eval(), message)


def refused(model: nn.Module, message: str, x_NCHW: Tensor | None = None) -> None:
    torch.manual_seed(0)
    with pytest.raises(NotCertifiable, match=message) as refusal:
        read(model, torch.rand(3, 3, 6, 6) if x_NCHW is None else x_NCHW)
    assert str(refusal.value).startswith("the network")
    assert "\n" not in str(refusal.value)


def added(y: Tensor, other: Tensor) -> Tensor:
    y += other
    return y


# y is written over, and used again by what comes after; `zeros` are zeros wherever y is positive.
OVER: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "nn.ReLU": lambda net, y, zeros: net.over(y),
    "F.relu": lambda net, y, zeros: F.relu(y, inplace=True),
    "F.relu by position": lambda net, y, zeros: F.relu(y, True),
    "relu_": lambda net, y, zeros: y.relu_(),
    "torch.relu_": lambda net, y, zeros: torch.relu_(y),
    "add_": lambda net, y, zeros: y.add_(zeros),
    "operator.iadd": lambda net, y, zeros: operator.iadd(y, zeros),
    "+=": lambda net, y, zeros: added(y, zeros),
    "ReLU behind identity": lambda net, y, zeros: net.over(net.same(y)),
    "ReLU of a view": lambda net, y, zeros: net.over(net.flat(y)),
}


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "unseen"])
@pytest.mark.parametrize("name", OVER)
def test_maps_that_are_written_over_and_used_again_are_refused(name: str, hidden: bool) -> None:
    """Also where the given images do not show it, since all that is written over them is what was there."""

    def run(net: Net, x: Tensor) -> Tensor:
        y = net.conv(x)
        z = OVER[name](net, y, net.relu(net.again(x)))
        return net.head(net.flat(z)) + net.head(net.flat(y))

    model = Net(run).eval()
    model.again = nn.Conv2d(3, 4, 3, 1, 1).eval()
    bright = torch.ones(2, 3, 6, 6)
    if hidden:
        for conv, sign in ((model.conv, 1.0), (model.again, -1.0)):
            filled(conv, sign)
            nn.init.constant_(conv.bias, -sign * 10)
        assert bool((model.conv(bright) > 0).all() and (model.again(bright) < 0).all())
    refused(model, "uses again|relu_" if hidden else "uses again|relu_|not the function", bright if hidden else None)


def around(*layers: nn.Module, features: int = 144) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES)).eval()


class Leaky(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x)


LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "max pooling": (lambda: around(nn.MaxPool2d(2), features=27), "uses MaxPool2d"),
    "average pooling": (lambda: around(nn.AvgPool2d(2), features=27), "uses AvgPool2d"),
    "grouped": (lambda: around(nn.Conv2d(3, 3, 3, 1, 1, groups=3), features=108), "grouped"),
    "dilated": (lambda: around(nn.Conv2d(3, 4, 3, 1, 2, dilation=2)), "dilated"),
    "kernel not square": (lambda: around(nn.Conv2d(3, 4, (3, 1), 1, (1, 0))), "not square"),
    "stride not square": (lambda: around(nn.Conv2d(3, 4, 3, (1, 2), 1), features=72), "not square"),
    "padding not square": (lambda: around(nn.Conv2d(3, 4, 3, 1, (1, 0)), features=96), "not square"),
    "padding by name": (lambda: around(nn.Conv2d(3, 4, 3, padding="same")), "grouped, dilated or not square"),
    "reflected": (lambda: around(nn.Conv2d(3, 4, 3, 1, 1, padding_mode="reflect")), "grouped, dilated or not square"),
    "dense layer on a map": (lambda: around(nn.Linear(6, 6), features=108), "dense layer on a map"),
    "batch norm of the batch": (lambda: around(nn.BatchNorm2d(3, track_running_stats=False), features=108), "norm"),
    "instance norm": (lambda: around(nn.InstanceNorm2d(3), features=108), "uses InstanceNorm2d"),
    "transposed": (lambda: around(nn.ConvTranspose2d(3, 4, 3, 1, 1)), "uses ConvTranspose2d"),
    "a subclass": (lambda: around(Leaky(), features=108), "uses leaky_relu"),
    "softmax": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.Softmax(1)).eval(), "uses Softmax"),
    "weights of float64": (lambda: around(nn.Conv2d(3, 4, 3, 1, 1)).double(), "cannot be read"),
    "weights of NaN": (lambda: around(filled(nn.Conv2d(3, 4, 3, 1, 1), float("nan"))), "not the function"),
}


def filled(layer: nn.Module, value: float) -> nn.Module:
    nn.init.constant_(layer.weight, value)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_other_layers_are_refused(name: str) -> None:
    build, message = LAYERS[name]
    refused(build(), message)


class TwoInputs(Net):
    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self.head(self.flat(self.conv(x)))


class Doubled(Net):
    """Does something behind its forward, where no trace goes."""

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


def known() -> Net:
    return Net(ACCEPTED["nn.ReLU"]).eval()


def with_hook(register: str, path: str) -> nn.Module:
    model = known()
    getattr(model.get_submodule(path), register)(lambda *_: None)
    return model


def with_forward(path: str) -> nn.Module:
    model = known()
    part = model.get_submodule(path)
    part.forward = type(part).forward.__get__(part)
    return model


def with_other_weights() -> nn.Module:
    """A convolution that multiplies by other weights than its own."""
    model = known()
    model.conv._conv_forward = lambda x, weight, bias: F.conv2d(x, -weight, bias, padding=1)
    return model


def with_train(path: str) -> nn.Module:
    model = known()
    model.get_submodule(path).train()
    return model


def weight_normed() -> nn.Module:
    model = known()
    nn.utils.parametrizations.weight_norm(model.conv)
    return model.eval()


STATES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "train mode": (lambda: known().train(), "train mode"),
    "train mode of a layer": (lambda: with_train("dropout"), "train mode"),
    "hook": (lambda: with_hook("register_forward_hook", ""), "hooks of its own"),
    "hook of a layer": (lambda: with_hook("register_forward_hook", "conv"), r"hooks of its own \(conv\)"),
    "hook in front": (lambda: with_hook("register_forward_pre_hook", "head"), r"hooks of its own \(head\)"),
    "forward replaced": (lambda: with_forward(""), "hooks of its own"),
    "forward of a layer replaced": (lambda: with_forward("relu"), "hooks of its own"),
    "more than its forward": (lambda: Doubled(ACCEPTED["nn.ReLU"]).eval(), "not the function"),
    "other weights than its own": (with_other_weights, "not the function"),
    "two inputs": (lambda: TwoInputs(lambda: None).eval(), "more than an image"),
    "parametrised weights": (weight_normed, "uses ParametrizedConv2d"),
}


@pytest.mark.parametrize("name", STATES)
def test_networks_in_other_states_are_refused(name: str) -> None:
    build, message = STATES[name]
    refused(build(), message)


# Rows and windows.


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int, int]) -> Windows:
    """Windows that a few convolutions from a grid on lead to, which may leave the map."""
    stride, size = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    grid = draw(st.integers(1, -(-shape[1] // stride))), draw(st.integers(1, -(-shape[2] // stride)))
    return Windows(grid, stride, draw(st.integers(0, size - 1)), size)


def rows_in(windows: Windows, channels: int, count: int = 5) -> Rows:
    places = windows.grid[0] * windows.grid[1]
    values = torch.randn(count, channels, windows.size, windows.size)
    return Rows(values, windows, torch.randint(0, places, (count,)), leaves_map=True)


def dense(rows: Rows, shape: tuple[int, int, int]) -> Tensor:
    """Rows with a coefficient for all of the map, pixel by pixel."""
    found = torch.zeros(len(rows), *shape)
    for row, place in enumerate(rows.place_R.tolist()):
        corner = [rows.windows.stride * at - rows.windows.offset for at in divmod(place, rows.windows.grid[1])]
        for i, j in itertools.product(range(rows.windows.size), repeat=2):
            y, x = corner[0] + i, corner[1] + j
            if 0 <= y < shape[1] and 0 <= x < shape[2]:
                found[row, :, y, x] = rows.values[row, :, i, j]
    return found


def zeros_outside(rows: Rows, whole: Tensor) -> None:
    """What is nowhere on the map adds nothing to the sums of coefficients."""
    sums = rows.values.flatten(1).square().sum(1)
    torch.testing.assert_close(sums, whole.flatten(1).square().sum(1), rtol=1e-4, atol=1e-4)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), shape=SHAPES)
def test_rows_in_windows_are_rows_of_the_whole_map(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    rows, map_CHW = rows_in(data.draw(windows(shape)), shape[0]), torch.randn(shape)
    expected = dense(rows, shape)
    assert torch.equal(rows.whole(shape).values, expected)
    assert torch.equal(rows.inside(shape).whole(shape).values, expected)
    at_map = (expected * map_CHW).flatten(1).sum(1)
    for same in (rows, rows.inside(shape), rows.whole(shape)):
        torch.testing.assert_close(same.dot(map_CHW), at_map, rtol=1e-4, atol=1e-4)
    zeros_outside(rows.inside(shape), expected)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_sums_of_rows_in_any_windows(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    one = rows_in(data.draw(windows(shape)), shape[0])
    stride = data.draw(st.sampled_from([one.windows.stride, one.windows.stride + 1]))
    size = data.draw(st.integers(1, 7))
    other_windows = Windows(one.windows.grid, stride, data.draw(st.integers(0, size - 1)), size)
    other = Rows(torch.randn(5, shape[0], size, size), other_windows, one.place_R, leaves_map=True)
    other = other.inside(shape) if data.draw(st.booleans()) else other
    expected = dense(one, shape) + dense(other, shape)
    whole = Rows(dense(other, shape))
    for found in (one.plus(other, shape), other.plus(one, shape), one.plus(whole, shape), whole.plus(one, shape)):
        torch.testing.assert_close(found.whole(shape).values, expected)
        zeros_outside(found.inside(shape), expected)


def test_sums_stay_in_windows_where_one_holds_the_other() -> None:
    large, small = Windows((4, 4), 2, 2, 5), Windows((4, 4), 2, 1, 3)
    one = rows_in(large, 2)
    other = Rows(torch.randn(5, 2, 3, 3), small, one.place_R, leaves_map=True)
    assert one.plus(other, (2, 8, 8)).windows == large
    assert other.plus(one, (2, 8, 8)).windows == large


# Convolutions.


@st.composite
def convolutions(draw: st.DrawFn, multiple: bool = False) -> Conv:
    """Any convolution that is read; `multiple`: of a map whose edges are multiples of the stride."""
    torch.manual_seed(draw(st.integers(0, 99)))
    kernel, stride, padding = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    height, width = (stride * draw(st.integers(1, 4)) if multiple else draw(st.integers(1, 9)) for _ in range(2))
    assume(min(height, width) + 2 * padding >= kernel)
    after = [outputs(edge, kernel, stride, padding) for edge in (height, width)]
    weight = torch.randn(3, 2, kernel, kernel)
    return Conv(weight, torch.randn(3), stride, padding, (2, height, width), (3, *after))


def run(conv: Conv, map_CHW: Tensor) -> Tensor:
    return F.conv2d(map_CHW[None], conv.weight, conv.bias, conv.stride, conv.padding)[0]


def transposed(conv: Conv, values: Tensor) -> Tensor:
    """Whole rows behind a convolution in front of it, by autograd."""
    x = torch.zeros(conv.shape, requires_grad=True)
    y = run(conv, x)
    return torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in values])


@settings(deadline=None, max_examples=80)
@given(conv=convolutions(), data=st.data())
def test_rows_go_back_through_a_convolution(conv: Conv, data: st.DataObject) -> None:
    rows = rows_in(data.draw(windows(conv.out_shape)), 3)
    before = rows.windows.before(conv.weight.shape[2], conv.stride, conv.padding)
    whole = Rows(dense(rows, conv.out_shape))
    expected = transposed(conv, whole.values)
    constant = whole.values.sum((2, 3)) @ conv.bias
    for given_rows in (rows, whole):
        (found,), constant_R = conv.back(given_rows)
        torch.testing.assert_close(found.whole(conv.shape).values, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(constant_R, constant, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(conv=convolutions(multiple=True))
def test_a_convolution_of_blocks_is_the_convolution_of_pixels(conv: Conv) -> None:
    x, unshuffle, blocks = (
        Box(torch.rand(conv.shape), torch.rand(conv.shape) + 1),
        Unshuffle(conv.stride),
        on_blocks(conv),
    )
    torch.testing.assert_close(blocks.forward(unshuffle.forward(x)).lower, conv.forward(x).lower, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.forward(Box(x.lower, x.lower)).upper, run(conv, x.lower), rtol=1e-4, atol=1e-4)
    rows = Rows(torch.randn(4, *conv.out_shape))
    (pixels,), (in_blocks,) = conv.back(rows).rows, blocks.back(rows).rows
    expected = F.pixel_unshuffle(pixels.values, conv.stride)
    torch.testing.assert_close(in_blocks.values, expected, rtol=1e-4, atol=1e-4)
