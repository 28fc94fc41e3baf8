"""Logits of images near known ones are those of the whole network, whatever it is made of and wherever they differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deatbench.archs.build import build_arch
from deatbench.attacks.gradient import SearchForm
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square import Square
from deatbench.engine import nearby
from deatbench.engine.nearby import Neighbours, neighbours
from deatbench.engine.patches import KnownMap
from deatbench.engine.shadow import AttackForm
from deatbench.threats import make_threat

EDGE = 16


class Block(nn.Module):
    """Two convolutions and a shortcut; `written_over`: the sum and the ReLUs work in place."""

    def __init__(self, channels: int, out: int, stride: int, written_over: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if stride > 1 or out != channels else nn.Identity()
        self.relu, self.written_over = nn.ReLU(inplace=written_over), written_over

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        if self.written_over:
            y += self.shortcut(x)
            return self.relu(y)
        return torch.relu(y + self.shortcut(x))


def told_nothing(images: int) -> None:
    """For where nobody counts."""


def agrees(net: nn.Module, side: int, seed: int = 0, edge: int = EDGE) -> int:
    """Ask for windows of a side all over three images; return how many multiplications were saved."""
    torch.manual_seed(seed)
    form, z = AttackForm(net.eval()), torch.rand(3, 3, edge, edge)
    near = Neighbours(form, z, told_nothing)
    last = edge - side
    corners = [(0, 0), (0, last), (last, 0), (last, last), *torch.randint(0, last + 1, (12, 2)).tolist()]
    of = torch.randint(0, 3, (len(corners),))
    top, left = torch.tensor(corners).T
    windows, x = torch.rand(len(corners), 3, side, side), z[of].clone()
    for image, (row, column) in enumerate(corners):
        x[image, :, row : row + side, column : column + side] = windows[image]
    with torch.no_grad():
        near.remember(torch.arange(3), z)
        torch.testing.assert_close(near.logits(windows, of, top, left), form(x), rtol=1e-4, atol=1e-5)
    return near.saved


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_stack_of_layers(data: st.DataObject) -> None:
    layers: list[nn.Module] = []
    channels, edge = 3, EDGE
    for _ in range(data.draw(st.integers(1, 4))):
        kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
        padding, dilation = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 2))
        if edge + 2 * padding < (kernel - 1) * dilation + 1:
            break
        out = data.draw(st.sampled_from([3, 6]))
        groups = 3 if channels == out and data.draw(st.booleans()) else 1
        layers.append(nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups))
        edge, channels = (edge + 2 * padding - (kernel - 1) * dilation - 1) // stride + 1, out
        more = [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(),
            nn.MaxPool2d(2),
            nn.AvgPool2d(3, 1),
        ]
        layer = data.draw(st.sampled_from(more))
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            if edge < 3:
                break
            edge = edge // 2 if isinstance(layer, nn.MaxPool2d) else edge - 2
        layers.append(layer)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    agrees(net, data.draw(st.integers(1, EDGE)), data.draw(st.integers(0, 9)))


@pytest.mark.parametrize("written_over", [False, True])
@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_residual_blocks(side: int, written_over: bool) -> None:
    torch.manual_seed(1)
    blocks = Block(3, 8, 1, written_over), Block(8, 8, 1, written_over), Block(8, 12, 2, written_over)
    assert agrees(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)), side, edge=32) > 0


@pytest.mark.parametrize("name", ["vgg11", "resnet20", "preact_resnet18", "senet18", "resnet8"])
def test_architectures(name: str) -> None:
    torch.manual_seed(2)
    assert agrees(made(name, width=0.125), 3, edge=32) > 0


def made(name: str, **params: float) -> nn.Module:
    """An architecture for 32 x 32 images of three channels."""
    made = build_arch(name, num_classes=10, in_channels=3, image_size=32, mean=[0.5] * 3, std=[0.2] * 3, **params)
    return made.eval()


def test_only_maps_are_kept_that_a_patch_can_reach() -> None:
    torch.manual_seed(6)
    net = made("resnet20", width=0.25)
    near = Neighbours(AttackForm(net), torch.rand(5, 3, 32, 32), told_nothing)
    kept = {tuple(known.values_NHWC.shape[1:]) for known in near._maps.values()}
    assert (34, 34, 4) in kept  # of the first stage, 16 channels * 0.25, with a pixel of zeros around
    assert not any(edge <= 10 for edge, *_ in kept)  # 8 x 8 in the last stage
    assert near.bytes == sum(
        5 * 4 * height * width * channels for height, width, channels in map(_shape, near._maps.values())
    )


def _shape(known: KnownMap) -> tuple[int, ...]:
    return tuple(known.values_NHWC.shape[1:])


class WrittenOver(nn.Module):
    """A ReLU in place on what another layer still looks at: that one sees what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.after = nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.relu(y)
        return self.head(torch.cat((self.after(y).mean((2, 3)), z.mean((2, 3))), 1))


def test_what_is_written_over_in_place_is_seen_by_all() -> None:
    torch.manual_seed(3)
    agrees(WrittenOver(), 2)


def test_what_gains_nothing_or_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    z = torch.rand(6, 3, 32, 32)
    seen = AttackForm(made("resnet20"))
    flat = AttackForm(nn.Sequential(nn.Flatten(), nn.Linear(3072, 500), nn.ReLU(), nn.Linear(500, 10)).eval())
    with torch.no_grad():
        assert neighbours(seen, z, told_nothing) is not None
        assert neighbours(flat, z, told_nothing) is None
        assert neighbours(seen, z[:, :, :2], told_nothing) is None
        monkeypatch.setattr(nearby, "MOST_BYTES", 2**20)
        assert neighbours(seen, z, told_nothing) is None
        monkeypatch.undo()
        monkeypatch.setattr(nearby, "SAME", -1.0)  # whatever it computes is another function
        assert neighbours(seen, z, told_nothing) is None


@pytest.mark.parametrize("channels", [3, 1])  # of one, few squares differ, and Square leaves out what it knows
def test_square_walks_the_same_way_and_counts_its_passes(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "LEAST_SAVED", 0)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(channels, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 4, 2, 1), nn.ReLU(), nn.Flatten())
    net = nn.Sequential(net, nn.Linear(128, 3)).eval()
    x = torch.rand(24, channels, EDGE, EDGE)
    with torch.no_grad():
        net[1].bias -= net(x).mean(0)  # so that all classes are near
        y = net(x).argmax(1)
    passed: list[int] = []
    found = []
    for near in (False, True):
        form = SearchForm(AttackForm(net), net)
        if near:
            form.near = lambda z, cheap=form.cheap: neighbours(cheap, z, passed.append)
        rng = ExampleRng(0, torch.arange(24), "square/0", 0)
        found.append(Square(queries=600)(form, x, y, make_threat("Linf", "0.03"), rng))
    broken = [(net(x_adv).argmax(1) != y) for x_adv in found]
    assert 0 < int(broken[0].sum()) < 24
    assert torch.equal(broken[0], broken[1])
    torch.testing.assert_close(found[0], found[1])
    assert sum(passed) > 600
