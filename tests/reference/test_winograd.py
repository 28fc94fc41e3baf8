"""A convolution by Winograd's minimal products is the same convolution, forth and back, to float32's last digits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from watched_calls import calls_of

from deatbench.archs.build import build_arch
from deatbench.engine.shadow import AttackForm
from deatbench.engine.vjp import differentiable
from deatbench.engine.winograd import CACHED_TILES, WinogradConv, winograd_conv


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def asked(conv: WinogradConv, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return differentiable(lambda x: conv.vjp(x, weight, bias), x)


def gradient(y: Tensor, x: Tensor, direction: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(y, x, direction)
    return found


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 5),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    padding=st.integers(0, 2),
    channels=st.integers(1, 3),
    bias=st.booleans(),
)
def test_it_is_the_convolution(n: int, height: int, width: int, padding: int, channels: int, bias: bool) -> None:
    if min(height, width) + 2 * padding < 3:
        return  # no output pixel
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, channels, 3, 3, generator=generator, dtype=torch.float64)
    offsets = torch.randn(4, generator=generator, dtype=torch.float64) if bias else None
    expected = F.conv2d(x, weight, offsets, padding=padding)
    found = asked(WinogradConv(padding), x, weight, offsets)
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradient(found, x, direction), gradient(expected, x, direction), rtol=0, atol=1e-11)


def test_a_batch_of_several_pieces_is_computed_piece_by_piece() -> None:
    x, weight = (
        torch.randn(CACHED_TILES + 3, 2, 8, 8, dtype=torch.float64),
        torch.randn(3, 2, 3, 3, dtype=torch.float64),
    )
    torch.testing.assert_close(asked(WinogradConv(1), x, weight), F.conv2d(x, weight, padding=1), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("channels", "size"), [(64, 16), (256, 8), (512, 4)])
def test_it_loses_no_more_than_a_few_times_the_direct_form(channels: int, size: int) -> None:
    """Root mean square against float64; a form that loses a whole digit is not float32 any more."""
    torch.manual_seed(0)
    x = torch.randn(8, channels, size, size).relu().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, channels, 3, 3) / (9 * channels) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), padding=1)

    def lost(found: Tensor) -> float:
        return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    direct, ours = lost(F.conv2d(x, weight, padding=1)), lost(asked(WinogradConv(1), x, weight))
    assert ours < 3e-6
    assert ours < 8 * direct


def test_it_follows_its_weights() -> None:
    weight, conv = torch.randn(4, 2, 3, 3, dtype=torch.float64), WinogradConv(1)
    for _ in range(3):
        x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        found, expected = asked(conv, x, weight), F.conv2d(x, weight, padding=1)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient(found, x, found.detach()), gradient(expected, x, found.detach()))
        weight[:, :1].mul_(2)  # through a view, as the attack form writes


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(128, 128, 3, groups=2),
        nn.Conv2d(128, 128, 3, dilation=2),
        nn.Conv2d(128, 128, 3, stride=2),
        nn.Conv2d(128, 128, 5),
        nn.Conv2d(128, 128, 3, padding=(0, 1)),
        nn.Conv2d(128, 128, 3, padding=3),
        nn.Conv2d(128, 128, 3, padding="same"),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 64, 3, padding=1),
    ],
)
def test_other_kinds_are_left_to_the_library(conv: nn.Conv2d) -> None:
    assert winograd_conv(conv, torch.float32) is None
    assert winograd_conv(nn.Conv2d(128, 128, 3, padding=1), torch.bfloat16) is None


def test_it_is_used_where_tiles_fit_and_are_many() -> None:
    conv, weight = WinogradConv(1), torch.empty(1, 1, 3, 3)
    sizes = {size: conv.pays(torch.empty(64, 1, size, size), weight) for size in (2, 4, 5, 6, 7, 8, 16, 32)}
    assert sizes == {2: False, 4: True, 5: False, 6: False, 7: True, 8: True, 16: True, 32: True}
    assert not conv.pays(torch.empty(31, 1, 4, 4), weight)
    assert conv.pays(torch.empty(8, 1, 8, 8), weight)
    torch.set_num_threads(2)
    assert not conv.pays(torch.empty(8, 1, 8, 8), weight)


@pytest.mark.parametrize("arch", ["vgg16", "preact_resnet18", "senet18", "wrn_28_10"])
def test_a_wide_network_uses_it_and_stays_the_same_function(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    width = {} if arch != "wrn_28_10" else {"width": 0.2}
    model = build_arch(
        arch, num_classes=10, in_channels=3, image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, **width
    ).eval()
    form, used = AttackForm(model), calls_of(monkeypatch, WinogradConv, "vjp")
    x = torch.rand(32, 3, 32, 32, requires_grad=True)
    found, expected = form(x), model(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    assert len(used) >= 4
    ours, theirs = (gradient(y, x, torch.ones_like(y)) for y in (found, expected))
    assert float(F.cosine_similarity(ours.flatten(), theirs.flatten(), 0)) > 0.999
