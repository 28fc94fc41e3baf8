"""Are input gradients right on this device? float32 against float64 on the CPU, low precision by its signs, folding."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from deatbench.archs.build import build_arch

ARCHS = ("preact_resnet18", "resnet18", "vgg16")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def network(arch: str, width: float = 1.0) -> nn.Module:
    """A CIFAR-10 network with seeded weights and batch-norm statistics of noise images, frozen, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_arch(arch, num_classes=10, in_channels=3, image_size=32, mean=MEAN, std=STD, width=width)
        with torch.no_grad():
            for _ in range(4):
                net.train()(torch.rand(16, 3, 32, 32))
    return net.eval().requires_grad_(False)


def images(n: int) -> tuple[Tensor, Tensor]:
    """n noise images and labels, the same each time."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator)


def input_gradient(net: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
    """Of the summed cross-entropy; the loss in float32 at least."""
    x = x_NCHW.detach().requires_grad_(True)
    logits = net(x)
    loss = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), y_N, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


class tf32:  # noqa: N801 - reads as a statement: `with tf32(True):`
    """TF32 on or off for convolutions and matrix products."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __enter__(self) -> None:
        self._before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.on

    def __exit__(self, *exc: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


class Check:
    """One architecture on one device; gradients that several questions need are computed once."""

    def __init__(self, arch: str, device: torch.device, width: float, n: int) -> None:
        self.device = device
        self.cpu_net = network(arch, width)
        self.net = copy.deepcopy(self.cpu_net).to(device)
        self.x_cpu, self.y_cpu = images(n)
        self.x, self.y = self.x_cpu.to(device), self.y_cpu.to(device)
        with tf32(False):
            self.strict = input_gradient(self.net, self.x, self.y).cpu()

    def against_float64(self) -> float:
        """Relative error of the float32 gradient, TF32 off."""
        exact = input_gradient(copy.deepcopy(self.cpu_net).double(), self.x_cpu.double(), self.y_cpu)
        return float((self.strict.double() - exact).norm() / exact.norm())

    def signs_in_tf32(self) -> float:
        """Share of the gradient's signs that TF32 keeps."""
        with tf32(True):
            return self._same_signs(input_gradient(self.net, self.x, self.y))

    def signs_in_bf16(self) -> float:
        """Share of the gradient's signs that a bfloat16 network with folded batch norm, channels last, keeps."""
        net = self.folded().to(torch.bfloat16).to(memory_format=torch.channels_last)
        x = self.x.to(torch.bfloat16, memory_format=torch.channels_last)
        return self._same_signs(input_gradient(net, x, self.y))

    def folded(self) -> nn.Module:
        """The network with its batch norm folded into the convolutions before it."""
        return fuse(self.net).requires_grad_(False)

    def folding_error(self) -> float:
        """Largest difference of the folded network's logits, relative to the largest logit."""
        with tf32(False), torch.no_grad():
            plain, folded = self.net(self.x), self.folded()(self.x)
        return float((plain - folded).abs().max() / plain.abs().max())

    def _same_signs(self, gradient: Tensor) -> float:
        return float((gradient.float().cpu().sign() == self.strict.sign()).float().mean())
