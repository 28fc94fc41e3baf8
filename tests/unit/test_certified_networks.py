"""Which networks bounds can be carried through: known layers however they are spelled, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bounded_networks import CLASSES, Watched, ball, bounds_of, margins, searched
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.certificates import NotCertifiable, read


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
