"""The first convolution's input gradient against the library's, and the attack form that asks for it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F

from deatbench.archs.build import build_arch
from deatbench.archs.normalize import Normalize
from deatbench.attacks.gradient import cross_entropy, input_gradient
from deatbench.engine import first_conv as module
from deatbench.engine.first_conv import FirstConv
from deatbench.engine.first_conv import first_conv as form_of
from deatbench.engine.selfcheck import check_gradient
from deatbench.engine.shadow import AttackForm, worth_a_shadow
from deatbench.engine.shadow_layers import ShadowConv, ShadowNormalize
from deatbench.engine.vjp import differentiable

Pair = tuple[int, int]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def _however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_PRODUCTS", 0)


def first_conv(x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    form = FirstConv(stride, padding)
    return differentiable(lambda x: form.vjp(x, weight, bias), x_NCHW)


def both(
    x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(output, gradient) ours and the library's, for the same random gradient of the output."""
    x_NCHW = x_NCHW.detach().requires_grad_(True)
    ours, theirs = first_conv(x_NCHW, weight, bias, stride, padding), F.conv2d(x_NCHW, weight, bias, stride, padding)
    seen = torch.randn_like(ours)
    return tuple((y, torch.autograd.grad(y, x_NCHW, seen)[0]) for y in (ours, theirs))  # type: ignore[return-value]


def assert_equal(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    """Outputs to the bit, gradients to rounding in units of the largest."""
    assert torch.equal(found[0], expected[0])
    assert found[1].shape == expected[1].shape
    assert (found[1] - expected[1]).abs().max() <= tolerance * expected[1].abs().max()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
def test_gradient_is_the_librarys(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    for channels, padding, size in itertools.product((1, 3, 4), (0, 1, 2, 3), ((8, 8), (9, 12))):
        x_NCHW = torch.rand(2, channels, *size, dtype=torch.float64)
        weight, bias = torch.randn(5, channels, kernel, kernel, dtype=torch.float64), torch.randn(5).double()
        both_ways = (stride, stride), (padding, padding)
        assert_equal(*both(x_NCHW, weight, bias, *both_ways), 1e-12)
        assert_equal(*both(x_NCHW.float(), weight.float(), bias.float(), *both_ways), 1e-5)


pair = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=100, deadline=None)
@given(
    channels=st.integers(1, 4),
    features=st.integers(1, 17),
    n=st.integers(1, 3),
    size=st.tuples(st.integers(7, 13), st.integers(7, 13)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=pair,
    padding=st.tuples(st.integers(0, 9), st.integers(0, 3)),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    seed=st.integers(0, 99),
)
def test_gradient_is_the_librarys_whatever_the_shape(
    channels: int,
    features: int,
    n: int,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    layouts: tuple[torch.memory_format, torch.memory_format],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x_NCHW = torch.rand(n, channels, *size, dtype=torch.float64).contiguous(memory_format=layouts[0])
    weight = torch.randn(features, channels, *kernel, dtype=torch.float64).contiguous(memory_format=layouts[1])
    assert_equal(*both(x_NCHW, weight, None, stride, padding), 1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_lies_in_memory_as_the_image(stride: int, layout: torch.memory_format) -> None:
    x_NCHW = torch.rand(2, 3, 8, 8).contiguous(memory_format=layout)
    (_, gradient), _ = both(x_NCHW, torch.rand(4, 3, 3, 3), None, (stride, stride), (1, 1))
    assert gradient.stride() == x_NCHW.stride()


def test_gradient_is_not_differentiated_again() -> None:
    """It would be wrong without a word: autograd does not look into it."""
    x_NCHW = torch.rand(2, 3, 8, 8, requires_grad=True)
    y_NCHW = first_conv(x_NCHW, torch.rand(4, 3, 3, 3), None, (1, 1), (1, 1))
    (gradient,) = torch.autograd.grad(y_NCHW.square().sum(), x_NCHW, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_little_work_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    form, weight = FirstConv((1, 1), (1, 1)), torch.rand(8, 3, 3, 3)
    assert [form.pays(torch.rand(n, 3, 32, 32), weight) for n in (1, 64)] == [False, True]


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(3, 64, 3, padding=1), True),
        (nn.Conv2d(1, 8, 5, stride=2), True),
        (nn.Conv2d(3, 64, 7, stride=2, padding=3), True),
        (nn.Conv2d(3, 192, 16, stride=16), False),
        (nn.Conv2d(16, 16, 3), False),
        (nn.Conv2d(3, 3, 3, groups=3), False),
        (nn.Conv2d(3, 8, 3, dilation=2), False),
        (nn.Conv2d(3, 8, 3, padding="same"), False),
        (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), False),
    ],
)
def test_where_it_pays(conv: nn.Conv2d, expected: bool) -> None:
    assert (form_of(conv, torch.float32) is not None) is expected
    assert form_of(conv, torch.bfloat16) is None


# -- the attack form


def small_net(stride: int = 2, normalize: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)) if normalize else nn.Identity(),
        nn.Conv2d(3, 8, 3, stride, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def ours(form: AttackForm) -> list[ShadowConv]:
    return [part for part in form.modules() if isinstance(part, ShadowConv) and part.sees_image]


@pytest.mark.parametrize("arch", ["preact_resnet18", "resnet18", "vgg16", "wrn_16_4"])
def test_attack_form_has_one_such_convolution(arch: str) -> None:
    model = build_arch(
        arch, num_classes=10, in_channels=3, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3, width=0.5
    ).requires_grad_(False)
    assert len(ours(AttackForm(model))) == 1
    assert not ours(AttackForm(model, torch.bfloat16, channels=8))
    assert not ours(AttackForm(model, channels=8))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_form_without_batch_norm_is_the_network_after_every_update(
    stride: int, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, vjp = [], FirstConv.vjp
    monkeypatch.setattr(FirstConv, "vjp", lambda *args: calls.append(args) or vjp(*args))
    model = small_net(stride, normalize)
    assert worth_a_shadow(model, torch.float32)
    form = AttackForm(model)
    assert any(isinstance(part, ShadowNormalize) for part in form.modules()) is normalize
    x_NCHW, y_N = torch.rand(4, 3, 9, 8), torch.arange(4)
    for _ in range(3):
        for layout in LAYOUTS:
            x_NCHW = x_NCHW.contiguous(memory_format=layout)
            assert check_gradient(form, model, x_NCHW, y_N).cosine > 0.99999
            found, expected = (input_gradient(net, x_NCHW, y_N, cross_entropy) for net in (form, model))
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn_like(weight)
        form.refresh()
    assert len(calls) == 3 * 2 * 2


def test_pixels_that_others_see_too_are_normalised_in_full() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize, self.conv = Normalize((0.5,) * 3, (0.2,) * 3), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x_NCHW: Tensor) -> Tensor:
            x_NCHW = self.normalize(x_NCHW)
            logits_NK: Tensor = (x_NCHW + self.conv(x_NCHW)).mean((2, 3))
            return logits_NK

    model = Skipping()
    form = AttackForm(model)
    assert not any(isinstance(part, ShadowNormalize) for part in form.modules())
    assert check_gradient(form, model, torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)).cosine > 0.99999


@pytest.mark.parametrize("stride", [1, 2])
def test_it_can_be_compiled(stride: int) -> None:
    model = small_net(stride)
    form = AttackForm(model)
    compiled: nn.Module = torch.compile(form, dynamic=False, fullgraph=True, backend="aot_eager")  # type: ignore[assignment]
    x_NCHW, y_N = torch.rand(4, 3, 8, 8), torch.arange(4)
    for _ in range(2):
        assert check_gradient(compiled, model, x_NCHW, y_N).cosine > 0.99999
        with torch.no_grad():
            model[1].weight *= 1.5
        form.refresh()


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Rounding(nn.Module):
    """Has a gradient only by its own word, or has none by decree."""

    def __init__(self, by_decree: bool) -> None:
        super().__init__()
        self.net, self.by_decree = small_net(), by_decree

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.by_decree:
            with torch.no_grad():
                x_NCHW = 2 * x_NCHW
        logits_NK: Tensor = self.net(x_NCHW if self.by_decree else _StraightThrough.apply(x_NCHW))
        return logits_NK


@pytest.mark.parametrize("by_decree", [False, True])
def test_a_gradient_that_tracing_would_lose_is_refused(by_decree: bool) -> None:
    with torch.no_grad(), pytest.raises(TraceError, match="of its own, or none"):
        AttackForm(Rounding(by_decree))
    with torch.no_grad():
        assert ours(AttackForm(small_net()))
