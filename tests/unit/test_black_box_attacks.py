"""Attacks that ask the target for verdicts only: images made on another network, and noise."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks import ATTACKS, make_attack
from deatbench.attacks.gaussian_noise import GaussianNoise
from deatbench.attacks.pgd import PGD
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.transfer import Transfer
from deatbench.errors import ConfigError
from deatbench.threats import make_threat

N = 24


class Quantised(nn.Module):
    """A network behind a rounding of its pixels, which stops every gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.model((x_NCHW.detach() * 15).round() / 15)


def net(num_classes: int = 3, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, num_classes))


def batch(model: nn.Module) -> tuple[Tensor, Tensor]:
    x_NCHW = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x_NCHW, model(x_NCHW).argmax(1)


def rng() -> ExampleRng:
    return ExampleRng(0, torch.arange(N), "transfer/0")


def transfer(surrogate: nn.Module, inner: str = "pgd-20") -> Transfer:
    return Transfer(surrogate, source="zoo:small", sha256="ab" * 32, inner=inner)


def test_transfer_makes_the_images_of_the_inner_attack_on_the_surrogate() -> None:
    surrogate, threat = net(), make_threat("Linf", "0.1")
    surrogate.train()
    target = Quantised(surrogate).eval()  # puts the surrogate into eval mode too
    x, y = batch(target)
    expected = PGD(20)(surrogate, x, y, threat, rng())
    surrogate.train()
    x_adv = transfer(surrogate)(Quantised(net().eval()), x, y, threat, rng())
    assert torch.equal(x_adv, expected)
    assert surrogate.training
    assert all(part.training for part in surrogate.modules())
    with torch.no_grad():
        assert int((target.eval()(x_adv).argmax(1) != y).sum()) > 0


def test_transfer_needs_a_surrogate_and_is_listed() -> None:
    with pytest.raises(ConfigError, match=r"transfer needs a network .* \(name it with --surrogate MODEL\)"):
        make_attack("transfer")
    assert "transfer" in ATTACKS.names()
    assert "--surrogate" in ATTACKS.summary("transfer")


@pytest.mark.parametrize("inner", ["apgd-ce", "square", "fmn", "autoattack"])
def test_transfer_refuses_attacks_that_stop_at_the_boundary(inner: str) -> None:
    with pytest.raises(ConfigError, match=f"transfer: {inner} stops at the surrogate's boundary"):
        transfer(net(), inner)


def test_transfer_refuses_a_surrogate_that_does_not_fit() -> None:
    model = net(4).eval()
    x, y = batch(model)
    with pytest.raises(ConfigError, match="zoo:small tells 3 classes apart, the model 4"):
        transfer(net(3))(model, x, y, make_threat("Linf", "0.1"), rng())
    with pytest.raises(ConfigError, match="zoo:small: its gradient is interrupted"):
        transfer(Quantised(net(4)))(model, x, y, make_threat("Linf", "0.1"), rng())


def test_transfers_record_names_the_surrogate_and_the_inner_attack() -> None:
    params = transfer(net(), "cw-7").params()
    assert json.loads(json.dumps(params)) == params
    assert params["surrogate"] == "zoo:small"
    assert params["surrogate_sha256"] == "ab" * 32
    assert (params["inner"], params["steps"], params["rel_step"]) == ("cw-7", 7, 0.25)
    assert transfer(net(), "cw-7").passes(10) == 7
    assert "Linear" not in repr(transfer(net()))


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.1"), ("L2", "0.4")])
def test_noise_fills_the_ball(norm: str, eps: str) -> None:
    """Nearly all of it is used: in Linf two thirds of a Gaussian lie within one deviation, the others are cut."""
    threat = make_threat(norm, eps)

    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x)
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    model, x = Never(), torch.full((N, 1, 4, 4), 0.5)
    x_adv = GaussianNoise(draws=5)(model, x, torch.zeros(N, dtype=torch.long), threat, rng())
    assert torch.equal(x_adv, x)
    assert len(model.seen) == 5
    seen = torch.cat(model.seen)
    far = threat.distance(seen, x.repeat(5, 1, 1, 1))
    assert bool((far <= threat.eps + threat.tolerance).all())
    assert bool((far > 0.99 * threat.eps).all())
    assert len(seen.unique(dim=0)) == 5 * N
    if norm == "Linf":
        cut = ((seen - 0.5).abs() > 0.999 * threat.eps).float().mean()
        assert float(cut) == pytest.approx(0.317, abs=0.04)


def test_noise_keeps_the_first_draw_that_breaks_and_asks_no_more() -> None:
    """Draws belong to images: more of them add broken images and leave those found as they are."""
    model, threat = net().eval(), make_threat("Linf", "0.25")
    x, y = batch(model)
    few, many = (GaussianNoise(draws)(model, x, y, threat, rng()) for draws in (2, 12))
    with torch.no_grad():
        broken_few, broken_many = (model(x_adv).argmax(1) != y for x_adv in (few, many))
    assert 0 < int(broken_few.sum()) < int(broken_many.sum()) < N
    assert torch.equal(many[broken_few], few[broken_few])
    assert torch.equal(many[~broken_many], x[~broken_many])
    with pytest.raises(ConfigError, match="draws must be at least 1"):
        GaussianNoise(draws=0)
