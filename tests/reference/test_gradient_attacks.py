"""Our attacks against other people's code and against formulas written a second time."""

from __future__ import annotations

import copy

import pytest
import torch
import torchattacks
from small_nets import PublishedNet
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.attacks.cw import CW
from deatbench.attacks.fgsm import FGSM
from deatbench.attacks.gradient import cross_entropy, input_gradient, margin
from deatbench.attacks.pgd import PGD
from deatbench.attacks.rng import ExampleRng
from deatbench.data import Dataset, Images
from deatbench.threats import ThreatModel, make_threat

CPU = torch.device("cpu")
EPS = {"Linf": "0.15", "L2": "1.0"}


def batch(images: Images, n: int) -> tuple[Tensor, Tensor]:
    (found,) = images.batches([torch.arange(n)], CPU)
    return found


def attacked(attack: PGD | CW | FGSM, model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel) -> Tensor:
    return attack(model, x_NCHW, y_N, threat, ExampleRng(0, torch.arange(len(x_NCHW)), attack.name))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("net", ["standard_net", "robust_net"])
def test_pgd_is_torchattacks_pgd(net: str, norm: str, digits: Dataset, request: pytest.FixtureRequest) -> None:
    """In float64: where p_y is near 1, the sum of losses and torchattacks' mean of losses round differently."""
    model, threat = copy.deepcopy(request.getfixturevalue(net)).double(), make_threat(norm, EPS[norm])
    x_NCHW, y_N = batch(digits.test, 48)
    x_NCHW = x_NCHW.double()
    reference, extra = {"Linf": (torchattacks.PGD, {}), "L2": (torchattacks.PGDL2, {"eps_for_division": 0.0})}[norm]
    theirs = reference(model, eps=threat.eps, alpha=0.25 * threat.eps, steps=10, random_start=False, **extra)
    ours = attacked(PGD(steps=10, random_start=False), model, x_NCHW, y_N, threat)
    assert (ours - theirs(x_NCHW, y_N)).abs().max() <= 1e-6
    assert (ours - x_NCHW).abs().max() > 0.5 * threat.eps / (8 if norm == "L2" else 1)


def test_pgd_on_a_published_network(published_nets: dict[str, PublishedNet], cifar10_test: Images) -> None:
    """The accuracy in the weights' own table: abc_resnet2b keeps 56.9 % of the first 1,000 under PGD-20."""
    published = published_nets["abc_resnet2b"]
    x_NCHW, y_N = batch(cifar10_test, 1000)
    x_adv_NCHW = attacked(PGD(steps=20), published.module, x_NCHW, y_N, make_threat("Linf", published.eps))
    with torch.no_grad():
        accuracy = float((published.module(x_adv_NCHW).argmax(1) == y_N).float().mean())
    assert accuracy == pytest.approx(0.569, abs=0.003)


def test_fgsm_is_torchattacks_fgsm(standard_net: nn.Module, digits: Dataset) -> None:
    x_NCHW, y_N = batch(digits.test, 48)
    threat = make_threat("Linf", "0.1")
    ours = attacked(FGSM(), standard_net, x_NCHW, y_N, threat)
    assert (ours - torchattacks.FGSM(standard_net, eps=0.1)(x_NCHW, y_N)).abs().max() <= 1e-6


def reference_margin(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """max over wrong classes of z_j - z_y, one image at a time."""
    rows = []
    for logits_K, y in zip(logits_NK, y_N.tolist(), strict=True):
        wrong = [logits_K[k] for k in range(len(logits_K)) if k != y]
        rows.append(torch.stack(wrong).max() - logits_K[y])
    return torch.stack(rows)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_margin_against_its_definition(num_classes: int) -> None:
    torch.manual_seed(num_classes)
    logits_NK, y_N = torch.randn(40, num_classes), torch.randint(num_classes, (40,))
    assert torch.equal(margin(logits_NK, y_N), reference_margin(logits_NK, y_N))
    assert torch.equal(margin(logits_NK, y_N) > 0, logits_NK.argmax(1) != y_N)


def test_cw_is_pgd_on_the_margin(robust_net: nn.Module, digits: Dataset) -> None:
    """The steps of torchattacks' PGD with its loss exchanged for the margin."""
    threat = make_threat("Linf", "0.15")
    x_NCHW, y_N = batch(digits.test, 48)
    x_adv = x_NCHW.clone()
    for _ in range(10):
        x = x_adv.detach().requires_grad_(True)
        reference_margin(robust_net(x), y_N).sum().backward()
        moved = x.detach() + threat.eps / 4 * x.grad.sign()  # type: ignore[union-attr]
        x_adv = (x_NCHW + (moved - x_NCHW).clamp(-threat.eps, threat.eps)).clamp(0, 1)
    robust_net.zero_grad()
    ours = attacked(CW(steps=10, random_start=False), robust_net, x_NCHW, y_N, threat)
    assert (ours - x_adv).abs().max() <= 1e-6


def test_cw_has_the_gradient_of_torchattacks_cw(robust_net: nn.Module, digits: Dataset) -> None:
    """f as torchattacks writes it, with kappa beyond reach; it takes the largest wrong logit for at least 0, so that
    logits are shifted above 0 first, which no margin notices."""
    x_NCHW, y_N = batch(digits.test, 48)
    reference = torchattacks.CW(robust_net, kappa=1e9)
    x = x_NCHW.clone().requires_grad_(True)
    (theirs,) = torch.autograd.grad(reference.f(robust_net(x) + 100, y_N).sum(), x)
    assert torch.allclose(input_gradient(robust_net, x_NCHW, y_N, margin), -theirs, atol=1e-6)


def test_cross_entropy_gradient_does_not_depend_on_the_batch(robust_net: nn.Module, digits: Dataset) -> None:
    """A mean over the batch would shrink it; the sum does not."""
    x_NCHW, y_N = batch(digits.test, 48)
    whole = input_gradient(robust_net, x_NCHW, y_N, cross_entropy)
    one = input_gradient(robust_net, x_NCHW[5:6], y_N[5:6], cross_entropy)
    assert torch.allclose(whole[5:6], one, atol=1e-6)
    x = x_NCHW.clone().requires_grad_(True)
    (mean,) = torch.autograd.grad(F.cross_entropy(robust_net(x), y_N), x)
    assert torch.allclose(whole, 48 * mean, atol=1e-5)
