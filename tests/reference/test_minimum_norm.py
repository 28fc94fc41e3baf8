"""FMN and DDN against foolbox, and against linear classifiers, whose nearest adversarial image is known.

eps is tiny where distances are compared: an image within eps would leave with the first adversarial found.
"""

from __future__ import annotations

import dataclasses
import warnings

import eagerpy as ep
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deatbench.attacks.ddn import DDN
from deatbench.attacks.fmn import FMN, into_ball
from deatbench.attacks.gradient import SearchForm
from deatbench.attacks.minimum_norm import MinimumNorm
from deatbench.attacks.rng import ExampleRng
from deatbench.data import Dataset
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel, make_threat

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports from scipy.ndimage.filters
    import foolbox
    from foolbox.devutils import atleast_kd, flatten

TINY = "1e-9"
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}


class L2FMN(foolbox.attacks.L2FMNAttack):
    """foolbox 3.3.4 scales by min(1, |x| / |x|) instead of min(1, eps / |delta|) and so never projects."""

    def project(self, x: ep.Tensor, x0: ep.Tensor, epsilon: ep.Tensor) -> ep.Tensor:
        length = ep.maximum(flatten(x - x0).norms.l2(axis=-1), 1e-12)
        return x0 + (x - x0) * atleast_kd(ep.minimum(1, epsilon / length), x.ndim)


FOOLBOX_FMN = {"Linf": foolbox.attacks.LInfFMNAttack, "L2": L2FMN, "L1": foolbox.attacks.L1FMNAttack}


@pytest.fixture(scope="module")
def batch(digits: Dataset, robust_net: nn.Module) -> tuple[Tensor, Tensor]:
    """64 images, those among them that the network reads correctly."""
    ((x_NCHW, y_N),) = digits.test.batches([torch.arange(64)], torch.device("cpu"))
    right_N = robust_net(x_NCHW).argmax(1) == y_N
    return x_NCHW[right_N], y_N[right_N]


def attacked(attack: MinimumNorm, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    return attack(model, x, y, threat, ExampleRng(0, torch.arange(len(x)), attack.name))


def distances(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Distance of each adversarial image, infinite where there is none."""
    with torch.no_grad():
        return threat.distance(x_adv, x).where(model(x_adv).argmax(1) != y, torch.inf)


def by_foolbox(attack: foolbox.Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[0]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fmn_is_foolbox_fmn(norm: str, robust_net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Nearly the same distances. Ours goes 5 % further at first, so that iterates differ: single images end at another
    boundary, up to a third nearer or farther; most end where foolbox's do, and neither is nearer on the whole.

    Where foolbox finds nothing, ours has to find something all the same.
    """
    (x, y), threat = batch, make_threat(norm, TINY)
    ours = distances(robust_net, attacked(FMN(), robust_net, x, y, threat), x, y, threat)
    theirs = distances(robust_net, by_foolbox(FOOLBOX_FMN[norm](steps=100), robust_net, x, y), x, y, threat)
    assert bool(ours.isfinite().all())
    both = theirs.isfinite()
    assert both.float().mean() > 0.8
    ratio = ours[both] / theirs[both]
    assert (ratio - 1).abs().quantile(0.8) < 0.02
    assert float(ours[both].median()) == pytest.approx(float(theirs[both].median()), rel=0.02)
    assert float(ours[both].mean()) == pytest.approx(float(theirs[both].mean()), rel=0.05)
    for share in (0.25, 0.5, 0.75):
        eps = 1.001 * theirs[both].quantile(share)
        assert ((ours <= eps) == (theirs <= eps))[both].float().mean() > 0.94


def test_ddn_is_foolbox_ddn(robust_net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The same algorithm step by step; rounding decides now and then whether an iterate at the boundary counts."""
    (x, y), threat = batch, make_threat("L2", TINY)
    ours = distances(robust_net, attacked(DDN(), robust_net, x, y, threat), x, y, threat)
    theirs = distances(robust_net, by_foolbox(foolbox.attacks.DDNAttack(steps=100), robust_net, x, y), x, y, threat)
    assert bool(ours.isfinite().all())
    assert ((ours / theirs - 1).abs() < 1e-4).float().mean() > 0.95
    assert float(ours.median()) == pytest.approx(float(theirs.median()), rel=1e-3)


@pytest.mark.parametrize(
    ("attack", "norm", "eps"),
    [(FMN(), "Linf", "0.2"), (FMN(), "L2", "0.7"), (FMN(), "L1", "1.3"), (DDN(), "L2", "0.7")],
)
def test_leaving_early_changes_no_verdict(
    attack: MinimumNorm, norm: str, eps: str, robust_net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    (x, y), whole, counted = batch, make_threat(norm, TINY), Counted(robust_net)
    nearest = distances(robust_net, attacked(attack, robust_net, x, y, whole), x, y, whole)
    threat = make_threat(norm, eps)
    early = distances(robust_net, attacked(attack, counted, x, y, threat), x, y, threat)
    within = nearest <= threat.eps
    assert 0.2 < within.float().mean() < 0.8
    assert torch.equal(early <= threat.eps, within)
    assert counted.images < 0.85 * attack.steps * len(x)
    torch.testing.assert_close(early[~within], nearest[~within], rtol=1e-4, atol=0)


class Counted(nn.Module):
    """A network that counts the images it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


def linear(dimensions: int, num_classes: int, seed: int) -> nn.Linear:
    """A classifier with random weights [K, D]."""
    net = nn.Linear(dimensions, num_classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(generator=generator)
    return net


def boundary(net: nn.Linear, x_ND: Tensor, y_N: Tensor, norm: str) -> Tensor:
    """Distance of each image from the nearest class boundary: margin over the dual norm of its gradient."""
    with torch.no_grad():
        gap_NK = net(x_ND).gather(1, y_N[:, None]) - net(x_ND)
        slope_NK = torch.linalg.vector_norm(net.weight[y_N][:, None] - net.weight, DUAL[norm], dim=2)
        return (gap_NK / slope_NK).scatter(1, y_N[:, None], torch.inf).amin(1)


@settings(max_examples=15, deadline=None)
@given(
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    dimensions=st.integers(1, 40),
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 10**6),
)
def test_fmn_on_a_linear_classifier(norm: str, dimensions: int, num_classes: int, seed: int) -> None:
    """Nothing is nearer than the boundary. With two classes it is reached where [0, 1] is out of the way; with more,
    the nearest boundary need not be that of the class with the next best logit, which the margin climbs toward."""
    net, threat = linear(dimensions, num_classes, seed), make_threat(norm, TINY)
    x_ND = torch.rand(20, dimensions, generator=torch.Generator().manual_seed(seed))
    y_N = net(x_ND).argmax(1)
    true_N = boundary(net, x_ND, y_N, norm)
    found_N = distances(net, attacked(FMN(), net, x_ND, y_N, threat), x_ND, y_N, threat)
    assert bool((found_N >= true_N * (1 - 1e-4) - 1e-6).all())
    free_N = true_N < torch.minimum(x_ND, 1 - x_ND).amin(1)
    assert num_classes > 2 or bool((found_N <= 1.02 * true_N + 1e-6)[free_N].all())


@settings(max_examples=8, deadline=None)
@given(dimensions=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_ddn_on_a_linear_classifier(dimensions: int, seed: int) -> None:
    """Two classes: with more, the cross-entropy climbs toward several boundaries at once and ends beside the nearest.

    The radius begins at 1 and is cut by at most 5 % a step: what lies within 0.01 is out of reach of 100 steps.
    """
    net, threat = linear(dimensions, 2, seed), make_threat("L2", TINY)
    x_ND = torch.rand(20, dimensions, generator=torch.Generator().manual_seed(seed))
    y_N = net(x_ND).argmax(1)
    true_N = boundary(net, x_ND, y_N, "L2")
    found_N = distances(net, attacked(DDN(), net, x_ND, y_N, threat), x_ND, y_N, threat)
    assert bool((found_N >= true_N * (1 - 1e-4) - 1e-6).all())
    free_N = (true_N < torch.minimum(x_ND, 1 - x_ND).amin(1)) & (true_N > 0.01)
    assert bool((found_N[free_N] <= 1.05 * true_N[free_N]).all())


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_projection_is_the_nearest_point_of_the_ball(norm: str) -> None:
    """The angle at the projection toward any other point of the ball is at least a right one."""
    generator = torch.Generator().manual_seed(0)
    delta_RD, radius_R1 = torch.randn(30, 12, generator=generator), torch.rand(30, 1, generator=generator) * 3
    order = {"Linf": torch.inf, "L2": 2.0, "L1": 1.0}[norm]
    projected_RD = into_ball(delta_RD, radius_R1, norm)
    assert bool((torch.linalg.vector_norm(projected_RD, order, dim=1) <= radius_R1[:, 0] * (1 + 1e-5)).all())
    for _ in range(50):
        other_RD = torch.randn(30, 12, generator=generator)
        other_RD *= radius_R1 / torch.linalg.vector_norm(other_RD, order, dim=1, keepdim=True)
        assert bool((((delta_RD - projected_RD) * (other_RD - projected_RD)).sum(1) <= 1e-4).all())
    inside_RD = delta_RD * 0.01
    torch.testing.assert_close(into_ball(inside_RD, torch.full((30, 1), 10.0), norm), inside_RD)


@pytest.mark.parametrize(("attack", "norm"), [(FMN(), "Linf"), (DDN(), "L2")])
def test_a_search_form_that_errs_is_corrected(
    attack: MinimumNorm, norm: str, robust_net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """The cheap network sees its boundary a little too near; what is within eps still convinces the exact one."""
    x, y = batch

    class Hasty(nn.Module):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            logits_NK = robust_net(x_NCHW)
            return logits_NK - 0.3 * nn.functional.one_hot(y[:1].expand(len(x_NCHW)), logits_NK.shape[1])

    same = y == y[0]
    x, y = x[same], y[same]
    threat = make_threat(norm, {"Linf": "0.25", "L2": "1.0"}[norm])
    x_adv = attacked(attack, SearchForm(Hasty(), robust_net), x, y, threat)
    within = threat.distance(x_adv, x) <= threat.eps
    moved = (x_adv != x).flatten(1).any(1)
    assert bool((within & moved).any())
    with torch.no_grad():
        assert bool((robust_net(x_adv).argmax(1) != y)[within & moved].all())


@pytest.mark.parametrize(("attack", "norm"), [(FMN(steps=60), "L2"), (DDN(steps=60), "L2"), (FMN(steps=60), "Linf")])
def test_without_a_gradient_it_tries_a_random_direction(attack: MinimumNorm, norm: str) -> None:
    """A staircase: the gradient is 0 everywhere; the same seed tries the same direction."""

    class Stairs(nn.Module):
        def forward(self, x_ND: Tensor) -> Tensor:
            first_N = x_ND[:, 0].detach().mul(4).floor() + 0 * x_ND[:, 0]
            return torch.stack((first_N, 1.5 + 0 * first_N), dim=1)

    x, y = torch.full((30, 2), 0.45), torch.ones(30, dtype=torch.long)
    threat = make_threat(norm, "0.2")
    x_adv = attacked(attack, Stairs(), x, y, threat)
    assert bool(x_adv.isfinite().all())
    broken = Stairs()(x_adv).argmax(1) != y
    assert 3 < int(broken.sum()) < 30
    assert torch.equal(attacked(attack, Stairs(), x, y, threat), x_adv)


def test_what_they_refuse() -> None:
    net, x, y = linear(4, 2, 0), torch.rand(2, 4), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ConfigError, match=r"ddn minimises L2, not Linf \(use --norm L2, or --attacks fmn\)"):
        attacked(DDN(), net, x, y, make_threat("Linf", "0.1"))

    @dataclasses.dataclass(frozen=True)
    class L3(type(make_threat("L2", "1"))):  # type: ignore[misc]
        norm = "L3"

    with pytest.raises(ConfigError, match="fmn minimises Linf, L2, L1, not L3"):
        attacked(FMN(), net, x, y, L3(1.0, "1"))
    for wrong in ({"steps": 0}, {"gamma": 1.0}, {"gamma": 0.0}, {"step": 0.0}, {"step": float("nan")}):
        with pytest.raises(ConfigError, match="fmn: steps must be at least 1"):
            FMN(**wrong)  # type: ignore[arg-type]
