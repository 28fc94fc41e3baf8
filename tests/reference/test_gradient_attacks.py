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
from deatbench.attacks.gradient_ascent import LONG, GradientAscent
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


class OneByOne(nn.Module):
    """A network that is shown one image at a time, so that no batch mate touches its arithmetic; counts the images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.images += len(x_NCHW)
        return torch.cat([self.model(x_1CHW) for x_1CHW in x_NCHW.split(1)])


def plainly(attack: GradientAscent, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """All steps for all images."""
    x_adv = threat.random_start(x, ExampleRng(0, torch.arange(len(x)), attack.name))
    for _ in range(attack.steps):
        gradient = input_gradient(model, x_adv, y, attack.loss)
        x_adv = threat.project(threat.ascend(x_adv, gradient, attack.rel_step * threat.eps), x)
    return x_adv


@pytest.mark.parametrize("attack", [PGD(LONG), PGD(101), PGD(102), PGD(103), CW(100)], ids=lambda attack: attack.name)
def test_images_that_go_in_circles_leave_with_their_last_iterate(
    attack: GradientAscent, robust_net: nn.Module, digits: Dataset
) -> None:
    """Bit by bit what all steps give, whichever point of its cycle the last step falls on."""
    model, threat = OneByOne(robust_net), make_threat("Linf", "0.15")
    x, y = batch(digits.test, 16)
    whole = plainly(attack, model, x, y, threat)
    passes = model.images
    assert passes == 16 * attack.steps
    assert torch.equal(attacked(attack, model, x, y, threat), whole)
    assert model.images - passes < (0.5 if attack.steps >= 100 else 0.95) * passes


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_images_that_do_not_go_in_circles_stay(norm: str, robust_net: nn.Module, digits: Dataset) -> None:
    """In L2 the gradient's length varies and few iterates return; in Linf a step of eps/1000 arrives nowhere."""
    model, threat = OneByOne(robust_net), make_threat(norm, EPS[norm])
    attack = PGD(LONG + 1, rel_step=0.25 if norm == "L2" else 1e-3)
    x, y = batch(digits.test, 6)
    assert torch.equal(attacked(attack, model, x, y, threat), plainly(attack, model, x, y, threat))
    assert model.images == 2 * 6 * attack.steps


def test_cycles_of_odd_length_are_left_alone() -> None:
    """Three iterates in turn: after 4 steps none stands where it stood, and the last one is the right one."""

    class Carousel(nn.Module):
        """Logits whose gradient in the first pixel is +1, +1, -2 in turn, by where the pixel is, and so comes back."""

        def forward(self, x_N1: Tensor) -> Tensor:
            slope_N1 = torch.where(x_N1.detach() > 0.6, -2.0, 1.0)
            return torch.cat((0 * x_N1, slope_N1 * x_N1), dim=1)

    class Sum(PGD):
        def loss(self, logits_NK: Tensor, y_N: Tensor) -> Tensor:
            return logits_NK[:, 1]

    class Line(type(make_threat("Linf", "1"))):  # type: ignore[misc]
        def ascend(self, x_adv: Tensor, gradient: Tensor, step: float | Tensor) -> Tensor:
            return x_adv + 0.125 * gradient

        def random_start(self, x: Tensor, rng: ExampleRng) -> Tensor:
            return x

    x, y = torch.tensor([[0.4375], [0.5]]), torch.zeros(2, dtype=torch.long)
    threat = Line(0.5, "0.5")
    for steps in range(LONG, LONG + 12):
        expected = plainly(Sum(steps), Carousel(), x, y, threat)
        assert torch.equal(attacked(Sum(steps), Carousel(), x, y, threat), expected)
