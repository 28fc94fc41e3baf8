"""A convolution on a small map as a matrix product is the same convolution, forth and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from watched_calls import calls_of

from deatbench.archs.build import build_arch
from deatbench.engine.dense_conv import DenseConv, dense_conv
from deatbench.engine.shadow import AttackForm
from deatbench.engine.shadow_layers import ShadowConv
from deatbench.engine.vjp import differentiable


def asked(conv: DenseConv, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return differentiable(lambda x: conv.vjp(x, weight, bias), x)


def gradient(y: Tensor, x: Tensor, direction: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(y, x, direction)
    return found


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    taps=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.integers(1, 3),
    bias=st.booleans(),
)
def test_it_is_the_convolution(
    height: int,
    width: int,
    taps: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    channels: int,
    bias: bool,
) -> None:
    if height + 2 * padding[0] < taps[0] or width + 2 * padding[1] < taps[1]:
        return  # no output pixel
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, channels, *taps, generator=generator, dtype=torch.float64)
    offsets = torch.randn(4, generator=generator, dtype=torch.float64) if bias else None
    expected = F.conv2d(x, weight, offsets, stride, padding)
    found = asked(DenseConv(stride, padding), x, weight, offsets)
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(found, x, direction), gradient(expected, x, direction), rtol=0, atol=1e-12)


def test_it_follows_its_weights_and_the_size_of_the_map() -> None:
    weight, conv = torch.randn(2, 2, 3, 3), DenseConv((1, 1), (1, 1))
    for size in (1, 2, 2):
        x = torch.randn(2, 2, size, size)
        torch.testing.assert_close(asked(conv, x, weight), F.conv2d(x, weight, None, 1, 1))
        weight[:, :1].mul_(2)  # through a view, as the attack form writes


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_other_kinds_are_left_to_the_library(conv: nn.Conv2d) -> None:
    assert dense_conv(conv, torch.float32) is None
    assert dense_conv(nn.Conv2d(4, 4, 3), torch.bfloat16) is None


def test_it_multiplies_less_on_small_maps_only() -> None:
    conv, weight = DenseConv((1, 1), (1, 1)), torch.empty(8, 8, 3, 3)
    assert [conv.pays(torch.empty(1, 8, size, size), weight) for size in (1, 2, 3, 4)] == [True, True, False, False]


def test_a_network_for_small_images_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_arch("vgg16", num_classes=10, in_channels=1, image_size=8, mean=(0.3,), std=(0.4,), width=0.0625)
    model.eval()
    form, used = AttackForm(model), calls_of(monkeypatch, DenseConv, "vjp")
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(form(x), model(x), rtol=1e-4, atol=1e-5)
    assert 0 < len(used) < sum(isinstance(part, ShadowConv) for part in form.modules())


def test_matrices_are_renewed_where_they_lie() -> None:
    weight, bias, conv = torch.randn(2, 2, 3, 3), torch.randn(2), DenseConv((1, 1), (1, 1))
    for x in (torch.randn(2, 2, 1, 1), torch.randn(2, 2, 2, 2)):
        asked(conv, x, weight, bias)
    before = dict(conv._made)
    weight.mul_(2)
    bias.mul_(3)
    conv.renew(weight, bias)
    for size, (_, matrix, offsets) in conv._made.items():
        assert before[size][1] is matrix
        assert before[size][2] is offsets
        x = torch.randn(2, 2, *size)
        torch.testing.assert_close(asked(conv, x, weight, bias), F.conv2d(x, weight, bias, 1, 1))
        assert conv._made[size][1] is matrix
