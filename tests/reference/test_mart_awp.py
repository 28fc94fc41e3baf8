"""MART and AWP against their papers' formulas: with probabilities, image by image, and with a second network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks.rng import BatchRng
from deatbench.data import Dataset
from deatbench.errors import ConfigError, UnknownNameError
from deatbench.methods import METHODS, Batch, Method
from deatbench.methods.awp import AWP
from deatbench.methods.base import Inner
from deatbench.methods.mart import MART
from deatbench.methods.pgd_at import PGDAT
from deatbench.methods.trades import TRADES
from deatbench.threats import make_threat

N = 16
WRAPPED: dict[str, Method] = {"pgd-at": PGDAT(), "trades": TRADES(), "mart": MART()}
wraps = pytest.mark.parametrize("wraps", WRAPPED)


class Net(nn.Module):
    """Layers that AWP moves (`conv`, `linear`), and parameters that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.offset_CHW = nn.Parameter(torch.full((4, 8, 8), 0.1))  # more than one dimension, but no weight
        self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(256, 10)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.linear((self.norm(self.conv(x_NCHW)) + self.offset_CHW).relu().flatten(1))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double().train()


def batch_of(digits: Dataset, **mixing: Any) -> tuple[Batch, Tensor]:
    """A batch in float64 and images near it."""
    ((x_NCHW, y_N),) = digits.train.batches([torch.arange(N)], torch.device("cpu"))
    noise = torch.rand(x_NCHW.shape, generator=torch.Generator().manual_seed(1))
    rng = BatchRng(torch.Generator().manual_seed(0))
    return Batch(x_NCHW.double(), y_N, rng, **mixing), (x_NCHW + 0.4 * noise - 0.2).clamp(0, 1).double()


def logits_as_images(clean_NK: Tensor, adv_NK: Tensor, y_N: Tensor, **mixing: Any) -> tuple[Batch, Tensor]:
    """What nn.Flatten turns into these logits."""
    rng = BatchRng(torch.Generator().manual_seed(0))
    return Batch(clean_NK[:, :, None, None], y_N, rng, **mixing), adv_NK[:, :, None, None]


def boosted_cross_entropy(q_K: Tensor, y: int) -> Tensor:
    wrong = max((q_K[k] for k in range(len(q_K)) if k != y), key=lambda q: float(q.detach()))
    return -q_K[y].log() - (1 - wrong).log()


def divergence(p_K: Tensor, q_K: Tensor) -> Tensor:
    return (p_K * (p_K.log() - q_K.log())).sum()


def mart_of_one(p_K: Tensor, q_K: Tensor, y: int, beta: float = 5.0) -> Tensor:
    return boosted_cross_entropy(q_K, y) + beta * divergence(p_K, q_K) * (1 - p_K[y])


def written_out(wraps: str, model: nn.Module, batch: Batch, x_adv_NCHW: Tensor) -> Tensor:
    """The wrapped method's loss by its paper's formula."""
    labels = batch.y_N.tolist()
    if wraps == "pgd-at":
        return torch.stack([-q[y].log() for q, y in zip(model(x_adv_NCHW).softmax(1), labels, strict=True)]).mean()
    rows = zip(model(batch.x_NCHW).softmax(1), model(x_adv_NCHW).softmax(1), labels, strict=True)
    if wraps == "mart":
        return torch.stack([mart_of_one(p, q, y) for p, q, y in rows]).mean()
    return torch.stack([-p[y].log() + 6.0 * divergence(p, q) for p, q, y in rows]).mean()


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def states(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


# MART


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_mart_is_the_papers_loss_with_its_gradient(digits: Dataset, beta: float) -> None:
    """Nothing is detached: the gradient goes through the clean prediction and through the weight 1 - p_y as well."""
    ours, theirs, (batch, x_adv) = net(), net(), batch_of(digits)
    found = MART(beta).loss(ours, batch, x_adv)
    p_NK, q_NK = theirs(batch.x_NCHW).softmax(1), theirs(x_adv).softmax(1)
    rows = zip(p_NK, q_NK, batch.y_N.tolist(), strict=True)
    expected = torch.stack([mart_of_one(p, q, y, beta) for p, q, y in rows]).mean()
    torch.testing.assert_close(found.loss, expected, rtol=1e-12, atol=0)
    found.loss.backward()
    expected.backward()
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-9, atol=1e-12)
    assert found.clean_logits_NK is not None
    assert found.adv_logits_NK is not None
    torch.testing.assert_close(found.clean_logits_NK.softmax(1), p_NK)
    torch.testing.assert_close(found.adv_logits_NK.softmax(1), q_NK)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_mart_with_few_classes(num_classes: int) -> None:
    torch.manual_seed(0)
    clean_NK, adv_NK = torch.randn(2, 8, num_classes, dtype=torch.float64).unbind()
    y_N = torch.arange(8) % num_classes
    batch, x_adv = logits_as_images(clean_NK, adv_NK, y_N)
    rows = zip(clean_NK.softmax(1), adv_NK.softmax(1), y_N.tolist(), strict=True)
    expected = torch.stack([mart_of_one(p, q, y) for p, q, y in rows]).mean()
    torch.testing.assert_close(MART().loss(nn.Flatten(), batch, x_adv).loss, expected, rtol=1e-12, atol=0)


def test_mart_of_mixed_and_smoothed_labels() -> None:
    """Both labels' losses in their shares; smoothing spreads the target of -log q_y alone."""
    torch.manual_seed(0)
    clean_NK, adv_NK = torch.randn(2, 8, 5, dtype=torch.float64).unbind()
    y_N, other_N, share_N = torch.arange(8) % 5, torch.arange(8) // 2 % 5, torch.linspace(0, 1, 8).double()
    batch, x_adv = logits_as_images(clean_NK, adv_NK, y_N, other_N=other_N, share_N=share_N, smoothing=0.1)

    def smoothed(p_K: Tensor, q_K: Tensor, y: int) -> Tensor:
        return mart_of_one(p_K, q_K, y) - 0.1 * -q_K[y].log() + 0.1 * -q_K.log().mean()

    expected = torch.zeros((), dtype=torch.float64)
    for i, (p, q) in enumerate(zip(clean_NK.softmax(1), adv_NK.softmax(1), strict=True)):
        expected += share_N[i] * smoothed(p, q, int(y_N[i])) / 8
        expected += (1 - share_N[i]) * smoothed(p, q, int(other_N[i])) / 8
    torch.testing.assert_close(MART().loss(nn.Flatten(), batch, x_adv).loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [20.0, 200.0, 1e4])
@pytest.mark.parametrize("right", [True, False])
def test_mart_of_saturated_logits(size: float, right: bool) -> None:
    """One class certain in float32: 1 - q_k is 0 there as a difference, but not as a sum; the pull stays."""
    clean_NK = torch.zeros(1, 3).index_fill(1, torch.tensor(0), size).requires_grad_()
    adv_NK = torch.tensor([[0.0, 1.0, 0.5]]).index_fill(1, torch.tensor(0 if right else 2), size).requires_grad_()
    batch, x_adv = logits_as_images(clean_NK, adv_NK, torch.tensor([0]))
    loss = MART().loss(nn.Flatten(), batch, x_adv).loss
    assert torch.isfinite(loss)
    pull = torch.autograd.grad(loss, [clean_NK, adv_NK])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in pull)
    if not right:  # -log q_0 and -log(1 - q_2) are `size` and `size - 1` and a little
        q_K = torch.tensor([0.0, 1.0, size], dtype=torch.float64).log_softmax(0)
        torch.testing.assert_close(loss.double(), -q_K[0] - q_K[:2].logsumexp(0), rtol=1e-5, atol=0)
        torch.testing.assert_close(pull[1][0, 2], torch.tensor(2.0), rtol=1e-3, atol=0)


def test_mart_attacks_as_pgd_does(digits: Dataset) -> None:
    inner = Inner(make_threat("Linf", "0.1"), steps=3, rel_step=0.5, random_start=True, bn_mode="eval")
    model = net().eval()
    one, other = (method.perturb(model, batch_of(digits)[0], inner) for method in (MART(), PGDAT()))
    assert torch.equal(one, other)


# AWP


def moved_by_second_network(wraps: str, model: Net, batch: Batch, x_adv: Tensor, gamma: float) -> Net:
    """The network at w + v, found as the released code does: an SGD step of a second network, then its difference."""
    proxy, displaced = copy.deepcopy(model), copy.deepcopy(model)
    sgd = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-written_out(wraps, proxy, batch, x_adv)).backward()
    sgd.step()
    with torch.no_grad():
        for layer in ("conv", "linear"):
            w = displaced.get_parameter(f"{layer}.weight")
            difference = proxy.get_parameter(f"{layer}.weight") - w
            w.add_(gamma * w.norm() / difference.norm() * difference)
    return displaced


@wraps
def test_awp_is_the_gradient_at_the_moved_weights(digits: Dataset, wraps: str) -> None:
    """Loss, gradient and batch norm's statistics are those of one pass of a network that stands at w + v."""
    model, (batch, x_adv), method = net(), batch_of(digits), AWP(wraps, gamma=0.05)
    expected = moved_by_second_network(wraps, model, batch, x_adv, 0.05)
    loss = written_out(wraps, expected, batch, x_adv)
    loss.backward()
    with method.displaced(model, batch, x_adv):
        found = method.loss(model, batch, x_adv).loss
        found.backward()
    torch.testing.assert_close(found, loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients(model), gradients(expected), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()), rtol=1e-9, atol=1e-12)


@wraps
def test_awp_gives_the_weights_back(digits: Dataset, wraps: str) -> None:
    """Bit by bit, in their places; nothing but the gradients and the loss's own statistics is left of the step."""
    model, method = net().float(), AWP(wraps, gamma=0.3)
    batch, x_adv = batch_of(digits)
    batch, x_adv = Batch(batch.x_NCHW.float(), batch.y_N, batch.rng), x_adv.float()
    before, places = states(model), [value.data_ptr() for value in model.state_dict().values()]
    with method.displaced(model, batch, x_adv):
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
        method.loss(model, batch, x_adv).loss.backward()
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert int(model.get_buffer("norm.num_batches_tracked")) == (1 if wraps == "pgd-at" else 2)
    assert places == [value.data_ptr() for value in model.state_dict().values()]

    before = states(model)
    with pytest.raises(KeyboardInterrupt), method.displaced(model, batch, x_adv):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@wraps
def test_awp_moves_each_layer_uphill_by_its_share(digits: Dataset, wraps: str) -> None:
    model, (batch, x_adv), method = net(), batch_of(digits), AWP(wraps, gamma=0.01)
    before, at_w = states(model), method.loss(model, batch, x_adv).loss
    with method.displaced(model, batch, x_adv):
        moved = {key: value.detach() - before[key] for key, value in model.named_parameters()}
        at_w_plus_v = method.loss(model, batch, x_adv).loss
    for key, v in moved.items():
        share = 0.01 if key in ("conv.weight", "linear.weight") else 0.0
        torch.testing.assert_close(v.norm(), share * before[key].norm(), rtol=1e-9, atol=0)
    assert bool(at_w_plus_v > at_w + 1e-3)


@wraps
@pytest.mark.parametrize(("gamma", "tolerance"), [(0.0, 0.0), (1e-9, 1e-6)])
def test_awp_without_length_is_the_wrapped_method(digits: Dataset, wraps: str, gamma: float, tolerance: float) -> None:
    plain, model, (batch, x_adv) = net(), net(), batch_of(digits)
    WRAPPED[wraps].loss(plain, batch, x_adv).loss.backward()
    method = AWP(wraps, gamma)
    with method.displaced(model, batch, x_adv):
        method.loss(model, batch, x_adv).loss.backward()
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=tolerance, atol=tolerance)


@wraps
def test_awp_attacks_as_what_it_wraps(digits: Dataset, wraps: str) -> None:
    inner = Inner(make_threat("Linf", "0.1"), steps=3, rel_step=0.5, random_start=True, bn_mode="eval")
    model, wrapped = net().eval(), WRAPPED[wraps]
    one, other = (method.perturb(model, batch_of(digits)[0], inner) for method in (AWP(wraps), wrapped))
    assert torch.equal(one, other)
    assert AWP(wraps).passes(inner) == wrapped.passes(inner) + (3 if wraps == "pgd-at" else 6)


def test_awp_leaves_frozen_and_idle_layers_alone(digits: Dataset) -> None:
    """Neither a layer that is not trained nor one that the loss does not depend on has a direction to go."""
    model, (batch, x_adv) = net(), batch_of(digits)
    model.conv.weight.requires_grad_(False)
    model.idle = nn.Linear(3, 3).double()
    before = states(model)
    with AWP().displaced(model, batch, x_adv):
        still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert still == {key for key, _ in model.named_parameters()} - {"linear.weight"}


def test_awp_passes_its_parameters_on() -> None:
    assert AWP("trades", beta=3.0).wrapped == TRADES(3.0)
    assert AWP("mart", beta=3.0).wrapped == MART(3.0)
    assert AWP("trades").wrapped == TRADES()
    assert METHODS.bind("awp", {"wraps": "mart", "beta": 4}) == {"wraps": "mart", "gamma": 0.005, "beta": 4.0}
    assert METHODS.bind("awp", {})["beta"] == "auto"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AWP("tradse"), "did you mean trades"),
        (lambda: AWP("standard"), "it wraps pgd-at, trades, mart"),
        (lambda: AWP(gamma=-0.1), "gamma"),
        (lambda: AWP(beta=6.0), "pgd-at has no beta"),
        (lambda: AWP("trades", beta=-1.0), "beta must be at least 0"),
        (lambda: MART(-1.0), "beta must be at least 0"),
        (lambda: METHODS.bind("awp", {"beta": "much"}), "beta='much'"),
    ],
)
def test_what_cannot_be_meant(make: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert says in str(caught.value)


def test_an_unknown_name_is_one() -> None:
    with pytest.raises(UnknownNameError):
        AWP("tradse")
