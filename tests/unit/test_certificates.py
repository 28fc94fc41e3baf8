"""Certificates hold: nothing in the ball falls below a bound, no broken image is proved, no other network is read."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from bounded_networks import CLASSES, Residual, Watched, ball, bounds_of, margins, networks, searched
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deatbench.archs.normalize import Normalize
from deatbench.attacks import make_attack
from deatbench.attacks.rng import ExampleRng
from deatbench.certificates import Certifier, crown, read
from deatbench.certificates.crown import Bounds
from deatbench.certificates.layers import Box, ReLU
from deatbench.data import Dataset
from deatbench.threats import make_threat

IMAGES = 64
EPS = ("0.002", "0.01", "0.03", "0.06", "0.1")


@settings(deadline=None, max_examples=40)
@given(made=networks(), eps=st.sampled_from([0.003, 0.03, 0.2]), label=st.integers(0, CLASSES - 1))
def test_nothing_in_the_box_is_below_or_above_its_bounds(
    made: tuple[nn.Module, Tensor], eps: float, label: int
) -> None:
    (model, x_CHW), functions_RK = made, margins(label)
    box = ball(x_CHW, eps)
    bounds = bounds_of(model, box)
    known = [bounds._boxes[step.inputs[0]] for step in bounds.network.steps if isinstance(step.layer, ReLU)]
    lower = torch.cat([*(part.lower.flatten() for part in known), bounds.lower(functions_RK)])
    upper = torch.cat([*(part.upper.flatten() for part in known), -bounds.lower(-functions_RK)])
    values = Watched(model, functions_RK)
    found = values(searched(values, box, len(functions_RK)))
    rounding = 1e-5 * found.abs().max()
    assert bool((found >= lower - rounding).all())
    assert bool((found <= upper + rounding).all())


def affine() -> nn.Sequential:
    """Every known layer but ReLU."""
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    layers = nn.Conv2d(2, 4, 3, 2, 1), norm, Residual(nn.Conv2d(4, 4, 3, 1, 1), False), nn.Flatten(), nn.Linear(80, 4)
    return nn.Sequential(Normalize((0.4, 0.6), (0.3, 0.2)), *layers).eval()


def least_of_linearised(model: nn.Module, x_CHW: Tensor, box: Box, functions_RK: Tensor) -> Tensor:
    """The least margins over a box if the network were its tangent at the image; in float64."""
    net = copy.deepcopy(model).double()

    def values(x: Tensor) -> Tensor:
        return functions_RK.double() @ net(x[None])[0]

    slope = torch.autograd.functional.jacobian(values, x_CHW.double())
    worst = torch.where(slope > 0, box.lower.double(), box.upper.double())
    return (values(x_CHW.double()) + (slope * (worst - x_CHW.double())).flatten(1).sum(1)).detach()


def test_of_an_affine_network_they_are_the_least_values() -> None:
    model, x_CHW = affine(), torch.rand(2, 9, 7)
    box = ball(x_CHW, 0.1)
    expected = least_of_linearised(model, x_CHW, box, margins(1))
    torch.testing.assert_close(bounds_of(model, box).lower(margins(1)).double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(made=networks())
def test_of_one_image_they_are_its_margins(made: tuple[nn.Module, Tensor]) -> None:
    model, x_CHW = made
    found = bounds_of(model, Box(x_CHW, x_CHW)).lower(margins(0))
    expected = (margins(0) @ model(x_CHW[None])[0]).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_they_do_not_depend_on_how_many_rows_go_at_once(
    robust_net: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, found = ball(image(digits, 0)[0], 0.05), []
    for at_once in (crown.AT_ONCE, 2**14, 100):
        monkeypatch.setattr(crown, "AT_ONCE", at_once)
        bounds = bounds_of(robust_net, box)
        found.append(torch.stack([bounds.lower(margins(label, 10)) for label in range(10)]))
        assert bounds.rows_used > 100  # more than one part, then
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5 * float(found[0].abs().max()))


# Proofs.


def image(digits: Dataset, at: int) -> tuple[Tensor, int]:
    ((x_NCHW, y_N),) = digits.test.batches([torch.tensor([at])], torch.device("cpu"))
    return x_NCHW[0], int(y_N)


@pytest.fixture(scope="module")
def proofs(robust_net: nn.Module, digits: Dataset) -> dict[str, list[bool]]:
    """Which of some test images are proved robust at each radius."""
    network = read(robust_net, image(digits, 0)[0][None])
    certifiers = {eps: Certifier(network, make_threat("Linf", eps)) for eps in EPS}
    return {
        eps: [certifier.proved(*image(digits, at)) for at in range(IMAGES)] for eps, certifier in certifiers.items()
    }


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("attack", ["apgd-ce", "pgd-20"])
def test_no_image_is_proved_that_an_attack_breaks(
    robust_net: nn.Module, digits: Dataset, proofs: dict[str, list[bool]], attack: str, eps: str
) -> None:
    threat, at = make_threat("Linf", eps), torch.arange(IMAGES)
    ((x_NCHW, y_N),) = digits.test.batches([at], torch.device("cpu"))
    x_adv = make_attack(attack)(robust_net, x_NCHW, y_N, threat, ExampleRng(0, at, attack))
    with torch.no_grad():
        broken_N = robust_net(x_adv).argmax(1) != y_N
    assert bool(broken_N.any())
    assert not bool((broken_N & torch.tensor(proofs[eps])).any())


def test_most_are_proved_at_a_small_radius_and_fewer_at_larger_ones(proofs: dict[str, list[bool]]) -> None:
    counts = [sum(proofs[eps]) for eps in EPS]
    assert counts[0] > 0.9 * IMAGES
    assert 0 < counts[-2] < counts[1]
    for smaller, larger in itertools.pairwise(EPS):
        assert all(proofs[smaller][at] for at in range(IMAGES) if proofs[larger][at])


def test_no_misclassified_image_is_proved(robust_net: nn.Module, digits: Dataset) -> None:
    certifier = Certifier(read(robust_net, image(digits, 0)[0][None]), make_threat("Linf", "0.0001"))
    x_CHW, label = image(digits, 0)
    assert [certifier.proved(x_CHW, other) for other in range(10)] == [other == label for other in range(10)]


def test_no_proof_takes_more_rows_than_allowed(robust_net: nn.Module, digits: Dataset) -> None:
    network, threat, (x_CHW, label) = (
        read(robust_net, image(digits, 0)[0][None]),
        make_threat("Linf", "0.03"),
        image(digits, 0),
    )
    bounds = Bounds(network, Certifier(network, threat)._ball(x_CHW))
    bounds.refine(10**9)
    assert bounds.rows_used > 0
    assert Certifier(network, threat, bounds.rows_used).proved(x_CHW, label)
    assert not Certifier(network, threat, 0).proved(x_CHW, label)


@pytest.mark.parametrize(
    ("gap", "slack", "proved"), [(0.0005, {}, False), (0.01, {}, True), (0.0005, {"slack": 0.0}, True)]
)
def test_a_margin_that_rounding_may_have_made_proves_nothing(gap: float, slack: dict[str, float], proved: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, 1.0 - gap])
    x_CHW = torch.rand(1, 2, 2)
    assert Certifier(read(model, x_CHW[None]), make_threat("Linf", "0.1"), **slack).proved(x_CHW, 0) == proved


@pytest.mark.parametrize("at", range(3))
def test_a_promise_is_the_least_margin_of_the_linearised_network(
    robust_net: nn.Module, digits: Dataset, at: int
) -> None:
    (x_CHW, label), threat = image(digits, at), make_threat("Linf", "0.07")
    certifier = Certifier(read(robust_net, x_CHW[None]), threat)
    box = ball(x_CHW, threat.eps + threat.tolerance)
    expected = float(least_of_linearised(robust_net, x_CHW, box, margins(label, 10)).min())
    assert certifier.promise(x_CHW, label) == pytest.approx(expected, rel=1e-4, abs=1e-4)
