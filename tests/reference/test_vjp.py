"""A network's gradient layer by layer is autograd's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deatbench.archs.build import build_arch
from deatbench.engine.shadow import AttackForm
from deatbench.engine.vjp import GraphVjp, differentiable

SMALL = {"width": 0.125}
ARCHS = {
    **dict.fromkeys(("vgg16", "resnet18", "preact_resnet18", "senet18", "resnet20"), SMALL),
    "wrn_16_4": {},
    "resnet50": SMALL,
}


def gradients(form: Callable[[Tensor], Tensor], x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, gradient for one random direction)."""
    x_NCHW = x_NCHW.detach().requires_grad_(True)
    logits_NK = form(x_NCHW)
    direction = torch.randn(logits_NK.shape, generator=torch.Generator().manual_seed(1))
    return logits_NK.detach(), torch.autograd.grad(logits_NK, x_NCHW, direction)[0]


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_goes_layer_by_layer(arch: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    pixels = {"mean": (0.4,) * channels, "std": (0.3,) * channels}
    model = build_arch(arch, num_classes=10, in_channels=channels, image_size=size, **pixels, **ARCHS[arch])
    form = AttackForm(model.eval())
    x_NCHW = torch.rand(5, channels, size, size)
    found = gradients(form, x_NCHW)
    assert_same(found, gradients(form.net, x_NCHW))
    assert "_Once" in type(form(x_NCHW.requires_grad_(True)).grad_fn).__name__


class Odd(nn.Module):
    """Every kind of layer that is pulled; branches used twice, a result that nobody uses, a sum that spreads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True)
        self.gate, self.head, self.drop = nn.Conv2d(6, 6, 1), nn.Linear(2 * 6 * 16, 4), nn.Dropout(0.5)
        self.soft = nn.Softplus()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        a = self.pool(self.relu(self.conv(x_NCHW)))
        self.soft(a)
        gate = self.gate(a).sigmoid().mean((2, 3))[:, :, None, None]
        b = F.relu(a * gate + gate)
        c = torch.cat((b + a, torch.relu(a)), 1)
        d = F.pad(F.avg_pool2d(c, 2), (1, 1, 1, 1))
        logits_NK: Tensor = self.head(self.drop(d.flatten(1)))
        return logits_NK


def test_layers_of_every_kind_are_pulled() -> None:
    torch.manual_seed(0)
    net, x_NCHW = Odd().eval().double().requires_grad_(False), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    graph = GraphVjp(fx.symbolic_trace(net))
    assert_same(gradients(lambda x: differentiable(graph, x), x_NCHW), gradients(net, x_NCHW), 1e-12)
    x_NCHW.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: differentiable(graph, x), x_NCHW)  # pulls many times


def test_its_input_is_left_as_it_was() -> None:
    """Also where the first layer writes in place."""
    net = nn.Sequential(
        nn.Identity(), nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)
    ).eval()
    form, x_NCHW = AttackForm(net.eval()), torch.rand(2, 3, 8, 8) - 0.5
    before = x_NCHW.clone()
    gradients(form, x_NCHW)
    assert torch.equal(x_NCHW, before)


def test_memory_is_given_back_as_autograd_would() -> None:
    """What no pull needs is gone when the pass is over: a sum in front of a batch norm."""

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

        def vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
            alive.append(x)
            return 2 * x, lambda gradient: (2 * gradient,)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Layer(), Layer()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(x))
            return result

    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Layer)

    import weakref

    class Weak(list[object]):
        def append(self, value: object) -> None:
            super().append(weakref.ref(value))

    alive = Weak()
    chain = Chain()
    graph = GraphVjp(fx.GraphModule(chain, Leaves().trace(chain)))
    x = torch.rand(2, 2)
    result, pull = graph(x)
    assert alive[0]() is x  # type: ignore[operator]
    assert alive[1]() is None  # type: ignore[operator]
    assert torch.equal(result, 4 * x)
    assert torch.equal(pull(torch.ones(2, 2))[0], torch.full((2, 2), 4.0))


class Sized(nn.Module):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.view(x_NCHW.size(0), -1)


class InPlaceSeenTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = self.conv(x_NCHW)
        z_NCHW = F.relu(y_NCHW, inplace=True)
        return (y_NCHW + z_NCHW).mean((2, 3))


class Detached(nn.Module):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.detach().mean((2, 3))


@pytest.mark.parametrize("module", [Sized(), InPlaceSeenTwice(), Detached(), nn.LeakyReLU(inplace=True)])
def test_what_may_be_anything_is_left_to_autograd(module: nn.Module) -> None:
    net = nn.Sequential(nn.Identity(), module).eval()
    with pytest.raises(NotImplementedError):
        GraphVjp(fx.symbolic_trace(net))


def test_a_form_that_is_left_to_autograd_has_its_gradient() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), Sized(), nn.Linear(288, 5)).eval()
    x_NCHW = torch.rand(64, 3, 8, 8)
    assert_same(gradients(AttackForm(net), x_NCHW), gradients(net, x_NCHW))
