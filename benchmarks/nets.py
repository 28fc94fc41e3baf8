"""The networks that AutoAttack is timed on, each with its images and radius; one that is not at hand says why."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from deatbench.archs.build import build_arch
from deatbench.data import Dataset, Images, load_dataset
from deatbench.engine.checkpoint import save_weights
from deatbench.errors import ConfigError, MissingError
from deatbench.models import ModelRequest, load_model
from deatbench.records import ModelSpec
from deatbench.store import Home

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Places:
    """Where weights and images lie, and what the briefly trained network is made with; None: the usual places."""

    device: torch.device
    models: Path | None = None
    data: Path | None = None
    train_steps: int = 48
    width: float = 1.0
    keep: Path | None = None


@dataclass(frozen=True)
class Net:
    """A network in eval mode on its device, the test images it is attacked on and the L-infinity radius.

    `usual_n` is how many images make a measurement of minutes on two CPU cores.
    """

    name: str
    module: nn.Module
    images: Images
    eps: str
    usual_n: int
    about: str


def small(name: str, places: Places) -> Net:
    """One of the small CIFAR-10 networks with published weights, as the tests build them."""
    nets = _small_nets()
    folder = places.models or Path(os.environ.get("DEATBENCH_MODELS") or SHARED / "models")
    if not (folder / f"{name}.safetensors").is_file():
        raise MissingError(f"no {name}.safetensors in {folder}", "give --models or DEATBENCH_MODELS")
    published = nets.PublishedNet.load(name, folder)
    return _net(name, published.module, cifar10(places).test, published.eps, 256, "small, robust", places)


def weak_resnet18(places: Places) -> Net:
    """The CIFAR-10 ResNet-18 inside pyautoattack's wheel: 94 % clean, 0 at 8/255."""
    import pyautoattack
    from pyautoattack.examples.resnet import ResNet18

    module = ResNet18()
    path = Path(pyautoattack.__file__).parent / "examples" / "model_test.pt"
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _net("weak_resnet18", module, cifar10(places).test, "8/255", 64, "not robust", places)


def zoo(name: str, entry: str, usual_n: int, places: Places) -> Net:
    """A network of model_zoo/ on its data set at its radius."""
    return given(entry, None, places, name=name, usual_n=usual_n)


def given(text: str, eps: str | None, places: Places, name: str | None = None, usual_n: int = 8) -> Net:
    """Whatever a MODEL argument names; `eps` where the model does not say it."""
    loaded = load_model(ModelRequest(text, Home(ROOT), places.device))
    eps = eps or (loaded.threat.eps_text if loaded.threat else None)
    if eps is None:
        raise ConfigError(f"{text} does not say its radius", "give --eps")
    dataset = loaded.dataset or "cifar10"
    test = cifar10(places).test if dataset == "cifar10" else load_dataset(dataset, places.data, download=False).test
    width = f" x {loaded.params['width']:g}" if "width" in loaded.params else ""
    return _net(
        name or loaded.name, loaded.module, test, eps, usual_n, f"{loaded.source}, {loaded.arch}{width}", places
    )


def briefly_trained(arch: str, places: Places) -> Net:
    """A network of the registry after a few dozen adversarial steps: weak in accuracy, hard to fool where it is right.

    What AutoAttack costs for an image that survives depends on the architecture, not on how good its weights are; so it
    gets images of the test split that it classifies correctly.
    """
    data = cifar10(places)
    spec = ModelSpec(
        arch=arch,
        params={"width": places.width},
        num_classes=10,
        in_channels=3,
        image_size=32,
        mean=data.mean,
        std=data.std,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    _train(module.to(places.device), data.train, places)
    if places.keep is not None:
        save_weights(places.keep, module, spec)
    steps = f"{places.train_steps} steps of 2-step PGD, batch 64, width {places.width:g}"
    about = f"briefly trained: {steps}; test images that it gets right"
    return _net(arch, module, _right(module, data.test, places), "8/255", 4, about, places)


def cifar10(places: Places) -> Dataset:
    """CIFAR-10 from --data, DEATBENCH_DATA or beside the checkout. Raises MissingError if it is nowhere."""
    usual = SHARED / "data" if (SHARED / "data").is_dir() and "DEATBENCH_DATA" not in os.environ else None
    return load_dataset("cifar10", places.data or usual, download=False)


NETS: dict[str, Callable[[Places], Net]] = {
    "abc_resnet2b": lambda places: small("abc_resnet2b", places),
    "sdp_cifar_cnn_a_adv": lambda places: small("sdp_cifar_cnn_a_adv", places),
    "kw_scaled_cifar_small_8px": lambda places: small("kw_scaled_cifar_small_8px", places),
    "weak_resnet18": weak_resnet18,
    "resnet18": lambda places: briefly_trained("resnet18", places),
    "preact_resnet18": lambda places: briefly_trained("preact_resnet18", places),
    "vgg11": lambda places: zoo("vgg11", "zoo:cifar10-vgg11-pgd-at-639310-s0", 32, places),
    "digits_vgg16": lambda places: zoo("digits_vgg16", "zoo:digits-vgg16-pgd-at-8a4b92-s0", 64, places),
    "digits_preact": lambda places: zoo("digits_preact", "zoo:digits-preact_resnet18-pgd-at-ba708f-s0", 64, places),
}


def _net(name: str, module: nn.Module, images: Images, eps: str, usual_n: int, about: str, places: Places) -> Net:
    return Net(name, module.to(places.device).eval().requires_grad_(False), images, eps, usual_n, about)


def _train(module: nn.Module, images: Images, places: Places, eps: float = 8 / 255) -> None:
    """Adam on two steps of PGD, the same batches each time."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)[: 64 * places.train_steps].split(64)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module.train()
    for x_NCHW, y_N in images.batches(order, places.device):
        noise = torch.rand(x_NCHW.shape, generator=generator).to(places.device)
        x_adv = (x_NCHW + eps * (2 * noise - 1)).clamp(0, 1)
        for _ in range(2):
            x = x_adv.requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(module(x), y_N), x)
            x_adv = (x.detach() + eps / 2 * gradient.sign()).clamp(x_NCHW - eps, x_NCHW + eps).clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(module(x_adv), y_N).backward()
        optimizer.step()
    optimizer.zero_grad()


def _right(module: nn.Module, images: Images, places: Places) -> Images:
    """Those of `images` that the network, put into eval mode, classifies correctly, in their order."""
    indices = torch.arange(len(images)).split(500)
    with torch.no_grad():
        module.eval()
        right = [(module(x).argmax(1) == y).cpu() for x, y in images.batches(indices[:4], places.device)]
    return images.subset(torch.nonzero(torch.cat(right))[:, 0])


def _small_nets() -> ModuleType:
    """tests/small_nets.py, which defines these networks for the tests as well."""
    path = ROOT / "tests" / "small_nets.py"
    spec = importlib.util.spec_from_file_location("small_nets", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MissingError(f"{path} is not there", "run from a checkout")
    module = sys.modules["small_nets"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
