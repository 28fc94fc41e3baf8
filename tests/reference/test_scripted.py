"""The scripted attack form is the form itself, bit by bit, and stays so when weights change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from watched_calls import calls_of

from deatbench.archs.build import build_arch
from deatbench.attacks.gradient import ascent_direction, cross_entropy, margin
from deatbench.engine.scripted import ScriptedForm
from deatbench.engine.shadow import AttackForm
from deatbench.engine.winograd import WinogradConv

NETS: list[tuple[str, dict[str, Any]]] = [
    ("preact_resnet18", {"width": 0.0625}),
    ("preact_resnet50", {"width": 0.0625}),
    ("resnet20", {"width": 0.5}),
    ("senet18", {"width": 0.0625}),
    ("vgg16", {"width": 0.0625}),
    ("wrn_16_4", {"width": 0.125}),
]
IMAGES = [(1, 8), (3, 16)]  # channels, size
CASES = [*((*net, *images) for net in NETS for images in IMAGES), ("timm/resnet18", {}, 3, 16)]  # its stride is 32


def net(arch: str = "preact_resnet18", channels: int = 1, size: int = 8, **params: Any) -> nn.Module:
    torch.manual_seed(0)
    statistics = {"mean": (0.3,) * channels, "std": (0.4,) * channels}
    model = build_arch(arch, num_classes=10, in_channels=channels, image_size=size, **statistics, **params)
    return model.to(memory_format=torch.channels_last)


def images(n: int = 6, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(n, channels, size, size).contiguous(memory_format=torch.channels_last)


def updated(model: nn.Module, form: AttackForm, x_NCHW: Tensor) -> None:
    """Weights and running statistics move; the form hears of it."""
    F.cross_entropy(model.train()(x_NCHW), torch.arange(len(x_NCHW)) % 10).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    form.refresh()


def assert_same(ours: nn.Module, theirs: nn.Module, x_NCHW: Tensor, loss: Any = cross_entropy) -> Tensor:
    y_N = torch.arange(len(x_NCHW)) % 10
    found, expected = (ascent_direction(form, x_NCHW, y_N, loss) for form in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    return found[0]


@pytest.mark.parametrize(("arch", "params", "channels", "size"), CASES)
def test_it_is_the_form_after_every_update(arch: str, params: dict[str, Any], channels: int, size: int) -> None:
    model, x_NCHW = net(arch, channels, size, **params), images(6, channels, size)
    form = AttackForm(model)
    scripted, gradients = ScriptedForm(form, x_NCHW), []
    for _ in range(3):
        gradients.append(assert_same(scripted, form, x_NCHW))
        assert_same(scripted, AttackForm(model), x_NCHW)
        updated(model, form, x_NCHW)
    assert not torch.equal(gradients[0], gradients[2])


def test_transformed_weights_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x_NCHW = net("vgg16", size=16), images(8, size=16)
    form, used = AttackForm(model), calls_of(monkeypatch, WinogradConv, "vjp")
    scripted = ScriptedForm(form, x_NCHW)
    assert used
    updated(model, form, x_NCHW)
    assert_same(scripted, form, x_NCHW)
    assert_same(scripted, AttackForm(model), x_NCHW)


def test_it_knows_shorter_arithmetic_and_any_loss() -> None:
    form, x_NCHW = AttackForm(net(width=0.0625), torch.bfloat16), images()
    scripted = ScriptedForm(form, x_NCHW)
    assert_same(scripted, form, x_NCHW, margin)
    assert_same(scripted, form, x_NCHW, lambda logits_NK, y_N: logits_NK.square().sum(1))
    with torch.no_grad():
        assert torch.equal(scripted(x_NCHW), form(x_NCHW))


def test_other_batches_go_to_the_form_itself() -> None:
    model, asked = net(width=0.0625), []  # type: nn.Module, list[int]
    form = AttackForm(model)
    scripted = ScriptedForm(form, images())
    form.register_forward_hook(lambda *_: asked.append(1))
    assert_same(scripted, scripted, images())
    assert not asked
    for others in (images(5), images(6, size=16), images(6).double()[:, :, ::2, ::2].float()):
        assert_same(scripted, form, others)
    assert len(asked) == 6
    updated(model, form, images())
    assert_same(scripted, AttackForm(model), images())
