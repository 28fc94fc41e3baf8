"""Networks small enough for tests: a CNN for digits, and the published CIFAR-10 networks that tests may find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.archs.normalize import Normalize
from deatbench.data import Images


def digits_cnn(num_classes: int = 10) -> nn.Sequential:
    """Two strided convolutions and a linear layer for 1x8x8 images; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, num_classes),
        )


FACTORIES = """
import pathlib, safetensors.torch
from torch import nn
pathlib.Path("loaded").touch()
def net(name="robust"):
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
                        nn.Flatten(), nn.Linear(512, 10))
    net.load_state_dict(safetensors.torch.load_file(f"{name}.safetensors"))
    return net
def weak(): return net("weak")
"""


def write_factories(folder: Path, robust: nn.Module, weak: nn.Module) -> None:
    """`./net.py:net` and `./net.py:weak` in a folder: a user's own file, which leaves `loaded` behind when it runs."""
    (folder / "net.py").write_text(FACTORIES)
    safetensors.torch.save_file(robust.state_dict(), folder / "robust.safetensors")
    safetensors.torch.save_file(weak.state_dict(), folder / "weak.safetensors")


def train_briefly(net: nn.Module, images: Images, eps: float, epochs: int = 12) -> nn.Module:
    """Adam on clean images, or on three steps of PGD at Linf `eps`; a few seconds."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator).split(64)
        for x_NCHW, y_N in images.batches(order, torch.device("cpu")):
            x_adv = x_NCHW
            for _ in range(3 if eps else 0):
                x = x_adv.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(F.cross_entropy(net(x), y_N), x)
                x_adv = (x + eps / 2 * gradient.sign()).clamp(x_NCHW - eps, x_NCHW + eps).clamp(0, 1).detach()
            optimizer.zero_grad()
            F.cross_entropy(net(x_adv), y_N).backward()
            optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@dataclass(frozen=True)
class PublishedNet:
    """A network and the L-infinity radius that it was trained for."""

    module: nn.Module
    eps: str

    @classmethod
    def load(cls, name: str, folder: Path) -> PublishedNet:
        net, mean, std, eps = SHARED_NETS[name]
        module = net()
        module.load_state_dict(safetensors.torch.load_file(folder / f"{name}.safetensors"))
        return cls(nn.Sequential(Normalize(mean, std), module).eval(), eps)


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class _ResNet2b(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(_Block(8, 16, 2), _Block(16, 16, 1))
        self.linear1 = nn.Linear(1024, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(self.layer1(F.relu(self.conv1(x))).flatten(1))))


def _small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


# name: constructor, mean, std, eps
SHARED_NETS = {
    "abc_resnet2b": (_ResNet2b, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616), "2/255"),
    "sdp_cifar_cnn_a_adv": (
        _small_cnn,
        (125.3 / 255, 123 / 255, 113.9 / 255),
        (63 / 255, 62.1 / 255, 66.7 / 255),
        "2/255",
    ),
    "kw_scaled_cifar_small_8px": (_small_cnn, (0.485, 0.456, 0.406), (0.225, 0.225, 0.225), "8/255"),
}
