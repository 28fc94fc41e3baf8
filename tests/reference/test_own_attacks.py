"""Our APGD, FAB-T and Square reach the published code's verdicts image by image when they take its random draws."""

from __future__ import annotations

from collections.abc import Callable

import pyautoattack.fab_projections as published_projections
import pyautoattack.square as published_square
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from small_nets import PublishedNet
from torch import Tensor, nn

from deatbench.attacks import Attack
from deatbench.attacks.apgd import APGDCE, APGDDLR, APGDT
from deatbench.attacks.autoattack import STANDARD, Member
from deatbench.attacks.fab import FABT
from deatbench.attacks.restarts import all_runs
from deatbench.attacks.rng import ExampleRng, PublishedRng
from deatbench.attacks.square import Square
from deatbench.data import Dataset, Images
from deatbench.threats import ThreatModel, make_threat

CPU = torch.device("cpu")
SEED = 3


class Fresh(nn.Module):
    """Logits that may be written into, as the published Square does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW).clone()


def apgd(model: nn.Module, threat: ThreatModel, loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    attack = APGDAttack(model, n_iter=25, norm=threat.norm, eps=threat.eps, seed=SEED, loss=loss, device=CPU)
    return attack.perturb


def apgd_t(model: nn.Module, threat: ThreatModel) -> Callable[[Tensor, Tensor], Tensor]:
    attack = APGDAttack_targeted(
        model, n_iter=25, norm=threat.norm, eps=threat.eps, seed=SEED, n_target_classes=5, device=CPU
    )
    return attack.perturb


def fab_t(model: nn.Module, threat: ThreatModel) -> Callable[[Tensor, Tensor], Tensor]:
    attack = FABAttack_PT(model, norm=threat.norm, n_iter=25, eps=threat.eps, seed=SEED, n_target_classes=5, device=CPU)
    attack.targeted = True
    return attack.perturb


def square(model: nn.Module, threat: ThreatModel) -> Callable[[Tensor, Tensor], Tensor]:
    attack = SquareAttack(
        model, norm=threat.norm, n_queries=400, eps=threat.eps, seed=SEED, device=CPU, resc_schedule=False
    )
    return attack.perturb


PAIRS: dict[str, tuple[Attack, Callable[[nn.Module, ThreatModel], Callable[[Tensor, Tensor], Tensor]]]] = {
    "apgd-ce": (APGDCE(steps=25), lambda model, threat: apgd(model, threat, "ce")),
    "apgd-dlr": (APGDDLR(steps=25), lambda model, threat: apgd(model, threat, "dlr")),
    "apgd-t": (APGDT(steps=25, targets=5), apgd_t),
    "fab-t": (FABT(steps=25, targets=5), fab_t),
    "square": (Square(queries=400), square),
}


def correct(model: nn.Module, images: Images, n: int) -> tuple[Tensor, Tensor]:
    """The correctly classified among the first n images."""
    ((x_NCHW, y_N),) = images.batches([torch.arange(n)], CPU)
    with torch.no_grad():
        kept_N = model(x_NCHW).argmax(1) == y_N
    return x_NCHW[kept_N], y_N[kept_N]


def broken(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> list[bool]:
    with torch.no_grad():
        fooled_N = model(x_adv).argmax(1) != y
    return (fooled_N & (threat.distance(x_adv, x) <= threat.eps + threat.tolerance)).tolist()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.2"), ("L2", "0.8"), ("L1", "2.5")])
def test_published_draws_give_published_verdicts(
    robust_net: nn.Module, digits: Dataset, name: str, norm: str, eps: str
) -> None:
    ours, theirs = PAIRS[name]
    threat = make_threat(norm, eps)
    x_NCHW, y_N = correct(robust_net, digits.test, 48)
    with torch.random.fork_rng(devices=[]):
        expected = broken(robust_net, theirs(Fresh(robust_net), threat)(x_NCHW, y_N).detach(), x_NCHW, y_N, threat)
    found = broken(robust_net, ours(robust_net, x_NCHW, y_N, threat, PublishedRng(SEED)), x_NCHW, y_N, threat)
    assert found == expected
    assert 0 < sum(found) < len(found)  # both outcomes occur, so that this can fail


@pytest.mark.parametrize("name", PAIRS)
def test_own_draws_do_not_depend_on_the_batch(robust_net: nn.Module, digits: Dataset, name: str) -> None:
    attack, threat = PAIRS[name][0], make_threat("Linf", "0.2")
    x_NCHW, y_N = correct(robust_net, digits.test, 30)
    indices = torch.arange(len(x_NCHW))

    def verdicts(batch_size: int) -> list[bool]:
        out = []
        for part in indices.split(batch_size):
            x_adv = attack(robust_net, x_NCHW[part], y_N[part], threat, ExampleRng(SEED, part, name))
            out += broken(robust_net, x_adv, x_NCHW[part], y_N[part], threat)
        return out

    assert verdicts(7) == verdicts(len(indices))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_moves_to_a_hyperplane_are_the_published_projections(norm: str, data: st.DataObject) -> None:
    """Same length of the move, same side reached; the published code finds them by sorting."""
    threat = make_threat(norm, "0.1")
    seed, dimension = data.draw(st.integers(0, 10**6)), data.draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.rand(16, dimension, generator=generator)
    w_ND = torch.randn(16, dimension, generator=generator)
    b_N = (w_ND * torch.rand(16, dimension, generator=generator)).sum(1) * data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    move = getattr(published_projections, f"projection_{norm.lower()}")
    expected, found = move(x_ND.clone(), w_ND.clone(), b_N.clone()), threat.to_hyperplane(x_ND, w_ND, b_N)
    zero = torch.zeros_like(x_ND)
    assert torch.allclose(threat.distance(found, zero), threat.distance(expected, zero), atol=2e-4)
    gaps = [((w_ND * (x_ND + step)).sum(1) - b_N).abs() for step in (found, expected)]
    assert bool((gaps[0] <= gaps[1] + 2e-3).all())
    assert bool(((x_ND + found >= -1e-5) & (x_ND + found <= 1 + 1e-5)).all())


def test_the_move_is_right_where_the_gradient_is_nearly_zero() -> None:
    """At an image's size, from 1e-9 to 0.1 in one gradient: there the published L2 code may need float64."""
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.rand(64, 3072, generator=generator) * 0.8 + 0.1
    w_ND = (
        10 ** (torch.rand(64, 3072, generator=generator) * -8 - 1) * torch.randn(64, 3072, generator=generator).sign()
    )
    w_ND *= torch.rand(64, 3072, generator=generator) < 0.3
    b_N = (w_ND * (x_ND + 0.05 * w_ND.sign())).sum(1)
    short = make_threat("L2", "0.5").to_hyperplane(x_ND.clone(), w_ND.clone(), b_N.clone()).double().norm(dim=1)
    exact = published_projections.projection_l2(x_ND.double(), w_ND.double(), b_N.double()).norm(dim=1)
    torch.testing.assert_close(short, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("member", STANDARD)
@pytest.mark.parametrize("net", ["abc_resnet2b", "sdp_cifar_cnn_a_adv", "kw_scaled_cifar_small_8px"])
def test_published_settings_on_published_networks(
    published_nets: dict[str, PublishedNet], cifar10_test: Images, member: str, net: str
) -> None:
    published = published_nets[net]
    threat = make_threat("Linf", published.eps)
    own = {"apgd-ce": APGDCE(), "apgd-t": APGDT(), "fab-t": FABT(), "square": Square()}[member]
    x_NCHW, y_N = correct(published.module, cifar10_test, 128)
    expected = Member(member)(published.module, x_NCHW, y_N, threat, PublishedRng(0))
    found = own(published.module, x_NCHW, y_N, threat, PublishedRng(0))
    args = (x_NCHW, y_N, threat)
    assert broken(published.module, found, *args) == broken(published.module, expected, *args)


L1_NETS = [
    ("abc_resnet2b", "3"),
    ("sdp_cifar_cnn_a_adv", "6"),
    ("kw_scaled_cifar_small_8px", "12"),
]  # both outcomes occur


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t"])
@pytest.mark.parametrize(("net", "eps"), L1_NETS)
def test_published_settings_in_l1_on_published_networks(
    published_nets: dict[str, PublishedNet], cifar10_test: Images, member: str, net: str, eps: str
) -> None:
    """On pixels k / 256. There float32 holds x + (y - x) and its way back to x exactly.

    Elsewhere the published code counts what rounding leaves of a change taken back whole as a changed pixel, and the
    width of its steps follows that count; ours leaves nothing.
    """
    model, threat = published_nets[net].module, make_threat("L1", eps)
    ((x_NCHW, y_N),) = cifar10_test.batches([torch.arange(96)], CPU)
    x_NCHW = (x_NCHW * 255).round() / 256
    with torch.no_grad():
        kept_N = model(x_NCHW).argmax(1) == y_N
    x_NCHW, y_N = x_NCHW[kept_N], y_N[kept_N]
    own = {"apgd-ce": APGDCE(restarts=5, large_reps=True), "apgd-t": APGDT(targets=5, large_reps=True)}
    expected = Member(member, "standard", "L1")(model, x_NCHW, y_N, threat, PublishedRng(0))
    found = all_runs(own.get(member, FABT()), model, x_NCHW, y_N, threat, PublishedRng(0))
    verdicts = broken(model, found, x_NCHW, y_N, threat)
    assert verdicts == broken(model, expected, x_NCHW, y_N, threat)
    assert 0 < sum(verdicts) < len(verdicts)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("net", "eps"), L1_NETS)
def test_square_in_l1_on_published_networks(
    published_nets: dict[str, PublishedNet], cifar10_test: Images, monkeypatch: pytest.MonkeyPatch, net: str, eps: str
) -> None:
    """With the exact projection on both sides.

    Square divides what a window holds by its length: where the published projection leaves rounding errors in an
    emptied window, these become a change of full length. One image that then ends sooner moves all later draws of its
    batch.
    """
    model, threat = published_nets[net].module, make_threat("L1", eps)

    def exact(x: Tensor, change: Tensor, radius: float) -> Tensor:
        return threat.scaled(radius / threat.eps).project(x + change, x) - (x + change)

    monkeypatch.setattr(published_square, "L1_projection", exact)
    x_NCHW, y_N = correct(model, cifar10_test, 48)
    theirs = SquareAttack(
        Fresh(model), norm="L1", n_queries=1000, eps=threat.eps, seed=SEED, device=CPU, resc_schedule=False
    )
    with torch.random.fork_rng(devices=[]):
        expected = broken(model, theirs.perturb(x_NCHW, y_N), x_NCHW, y_N, threat)
    found = broken(model, Square(queries=1000)(model, x_NCHW, y_N, threat, PublishedRng(SEED)), x_NCHW, y_N, threat)
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 2
    assert 0 < sum(found) < len(found)


class Exact(nn.Module):
    """A linear network in float64, so that an image's logits depend on its batch by next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(1).double() @ self.weight


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_square_walks_the_same_way_however_far_it_looks_ahead(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x_NCHW = Exact(), torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y_N, threat = net(x_NCHW).argmax(1), make_threat(norm, {"Linf": "0.03", "L2": "0.2", "L1": "1"}[norm])
    found = []
    for most in (1, 5, 32):
        monkeypatch.setattr("deatbench.attacks.square_search.MOST_AHEAD", most)
        found.append(Square(queries=300)(net, x_NCHW, y_N, threat, ExampleRng(SEED, torch.arange(12), "square/0")))
    assert all(torch.allclose(images, found[0], rtol=0, atol=1e-6) for images in found)
    assert 0 < int((net(found[0]).argmax(1) != y_N).sum()) < 12
