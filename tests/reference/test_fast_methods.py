"""free, fgsm-rs, n-fgsm and gradalign against their papers' formulas, written anew; float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.attacks.rng import BatchRng
from deatbench.data import Dataset
from deatbench.errors import ConfigError
from deatbench.methods import Batch, Method
from deatbench.methods.base import Inner
from deatbench.methods.fgsm_rs import FGSMRS
from deatbench.methods.free import Free
from deatbench.methods.gradalign import GradAlign, misalignment
from deatbench.methods.n_fgsm import NFGSM
from deatbench.threats import make_threat

EPS = {"Linf": 0.1, "L2": 0.7}
norms = pytest.mark.parametrize("norm", EPS)


def net(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """float64, with batch norm; the same weights each time. Smooth under Tanh, for finite differences."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), nn.Flatten(), nn.Linear(384, 10))
    return nn.Sequential(*layers).double()


def inner(norm: str) -> Inner:
    """steps, rel_step and random_start are of no account to these methods."""
    return Inner(make_threat(norm, str(EPS[norm])), steps=7, rel_step=0.1, random_start=False, bn_mode="eval")


def batch(digits: Dataset, method: Method, first: int = 0, n: int = 16, seed: int = 5) -> Batch:
    ((x_NCHW, y_N),) = digits.train.batches([torch.arange(first, first + n)], torch.device("cpu"))
    x_NCHW = x_NCHW.double()
    return Batch(x_NCHW, y_N, BatchRng(torch.Generator().manual_seed(seed)), memory=method.memory(x_NCHW))


def length(v_NCHW: Tensor) -> Tensor:
    return v_NCHW.square().sum((1, 2, 3), keepdim=True).sqrt()


def noise(x_NCHW: Tensor, norm: str, radius: float, seed: int = 5) -> Tensor:
    """Uniform in the cube; in the Euclidean ball a direction and then a radius: the draws that a batch's rng makes."""
    generator = torch.Generator().manual_seed(seed)
    if norm == "Linf":
        return radius * (2 * torch.empty_like(x_NCHW).uniform_(generator=generator) - 1)
    direction = torch.empty_like(x_NCHW).normal_(generator=generator)
    share = torch.empty_like(x_NCHW[:, :1, :1, :1]).uniform_(generator=generator)
    return direction / length(direction) * radius * share


def steepest(gradient: Tensor, norm: str) -> Tensor:
    return gradient.sign() if norm == "Linf" else gradient / length(gradient)


def shortened(delta: Tensor, norm: str, eps: float) -> Tensor:
    """Onto the ball."""
    return delta.clamp(-eps, eps) if norm == "Linf" else delta * (eps / length(delta)).clamp(max=1)


def input_gradient(model: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Tensor:
    x = x_NCHW.clone().requires_grad_(True)
    return torch.autograd.grad(F.cross_entropy(model(x), y_N), x)[0]


# -- fgsm-rs and n-fgsm


@norms
def test_fgsm_rs_is_one_projected_step_from_noise(norm: str, digits: Dataset) -> None:
    method, model, eps = FGSMRS(), net().eval(), EPS[norm]
    images = batch(digits, method)
    x, delta = images.x_NCHW, noise(images.x_NCHW, norm, eps)
    start = (x + delta).clamp(0, 1)
    moved = start + 1.25 * eps * steepest(input_gradient(model, start, images.y_N), norm)
    expected = (x + shortened(moved - x, norm, eps)).clamp(0, 1)
    assert torch.allclose(method.perturb(model, images, inner(norm)), expected, rtol=0, atol=1e-12)


@norms
@pytest.mark.parametrize("k", [0.0, 2.0])
def test_n_fgsm_is_one_step_from_strong_noise_and_no_way_back(norm: str, k: float, digits: Dataset) -> None:
    method, model, task = NFGSM(k=k), net().eval(), inner(norm)
    images = batch(digits, method)
    x, eps = images.x_NCHW, EPS[norm]
    noisy = (x + noise(x, norm, k * eps)).clamp(0, 1)
    expected = (noisy + eps * steepest(input_gradient(model, noisy, images.y_N), norm)).clamp(0, 1)
    found = method.perturb(model, images, task)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    farthest = task.threat.distance(found, x).max() / eps
    assert farthest <= method.reach + 1e-9
    if k:
        assert farthest > (2.5 if norm == "Linf" else 1.2)  # high dimensions: noise and step are nearly orthogonal
    assert method.reach == k + 1


@pytest.mark.parametrize("method", [FGSMRS(), NFGSM(), Free()])
def test_the_loss_is_cross_entropy_where_the_attack_ended(method: Method, digits: Dataset) -> None:
    images, model = batch(digits, method), net().train()
    x_adv = torch.rand_like(images.x_NCHW)
    expected = -F.softmax(copy.deepcopy(model)(x_adv), 1).gather(1, images.y_N[:, None]).log().mean()
    assert torch.allclose(method.loss(model, images, x_adv).loss, expected, rtol=1e-12)


# -- free


@norms
def test_free_is_algorithm_1(norm: str, digits: Dataset) -> None:
    """Three batches, four replays each; Algorithm 1's loop in plain torch, under SGD with momentum."""
    method, task, eps = Free(replays=4), inner(norm), EPS[norm]
    ours, theirs = net().train(), net().train()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9) for model in (ours, theirs)]
    memory = batch(digits, method).memory
    delta = torch.zeros_like(memory["delta"])
    for t in range(3):
        images = batch(digits, method, first=16 * t)
        images.memory.update(memory)
        x, y = images.x_NCHW, images.y_N
        for _ in range(method.replays):
            optimizers[0].zero_grad()
            method.step(ours, images, task)
            optimizers[0].step()

            x_adv = (x + delta).clamp(0, 1).requires_grad_(True)
            optimizers[1].zero_grad()
            F.cross_entropy(theirs(x_adv), y).backward()
            optimizers[1].step()
            moved = x_adv.detach() + eps * steepest(x_adv.grad, norm) - x  # type: ignore[arg-type]
            delta = (x + shortened(moved, norm, eps)).clamp(0, 1) - x
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    assert torch.allclose(memory["delta"], delta, rtol=0, atol=1e-12)
    assert delta.abs().max() > 0.1 * eps


def test_free_keeps_its_perturbation_from_batch_to_batch(digits: Dataset) -> None:
    method, task, model = Free(), inner("Linf"), net().train()
    first = batch(digits, method)
    assert torch.equal(method.perturb(model, first, task), first.x_NCHW)
    method.step(model, first, task)
    second = batch(digits, method, first=16)
    second.memory.update(first.memory)
    expected = (second.x_NCHW + first.memory["delta"]).clamp(0, 1)
    assert torch.equal(method.perturb(model, second, task), expected)
    assert not torch.equal(expected, second.x_NCHW)


# -- gradalign


def regulariser(model: nn.Module, x_NCHW: Tensor, noisy_NCHW: Tensor, y_N: Tensor) -> Callable[..., Tensor]:
    """1 − mean cosine as a function of the weights (and of those under the gradient at x), by functional transforms."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def gradient(weights: dict[str, Tensor], at_NCHW: Tensor) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            state = weights | {name: buffer.clone() for name, buffer in buffers.items()}
            return F.cross_entropy(torch.func.functional_call(model, state, (x,)), y_N)

        return torch.func.grad(loss)(at_NCHW).flatten(1)

    def value(weights: dict[str, Tensor], weights_at_x: dict[str, Tensor]) -> Tensor:
        return 1 - F.cosine_similarity(gradient(weights_at_x, x_NCHW), gradient(weights, noisy_NCHW), eps=0).mean()

    return value


@norms
def test_gradalign_attacks_by_fgsm_and_draws_eta_in_the_ball(norm: str, digits: Dataset) -> None:
    method, model, eps = GradAlign(), net().eval(), EPS[norm]
    images = batch(digits, method)
    x = images.x_NCHW
    expected = (x + eps * steepest(input_gradient(model, x, images.y_N), norm)).clamp(0, 1)
    assert torch.allclose(method.perturb(model, images, inner(norm)), expected, rtol=0, atol=1e-12)
    assert torch.allclose(images.memory["noisy"], (x + noise(x, norm, eps)).clamp(0, 1), rtol=0, atol=1e-12)


def losses(method: GradAlign, model: nn.Module, digits: Dataset) -> tuple[Batch, Tensor, Tensor]:
    """The batch after its attack, x_adv and the loss there, batch norm in training mode."""
    images = batch(digits, method)
    x_adv = method.perturb(model.eval(), images, inner("Linf"))
    return images, x_adv, method.loss(model.train(), images, x_adv).loss


@pytest.mark.parametrize("lam", [0.2, 2.0])
def test_gradalign_is_equation_4(lam: float, digits: Dataset) -> None:
    model = net()
    images, x_adv, loss = losses(GradAlign(lam), model, digits)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    value = regulariser(model, images.x_NCHW, images.memory["noisy"], images.y_N)(weights, weights)
    assert value > 0.02
    assert torch.allclose(loss, F.cross_entropy(model(x_adv), images.y_N) + lam * value, rtol=1e-10)


@pytest.mark.parametrize("detach", [False, True])
def test_gradalign_differentiates_through_its_gradients(detach: bool, digits: Dataset) -> None:
    """Against central differences of the regulariser along random directions of all weights together."""
    gradients = []
    for lam in (1.0, 0.0):
        model = net(nn.Tanh)
        images, _, loss = losses(GradAlign(lam, detach), model, digits)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    value = regulariser(model, images.x_NCHW, images.memory["noisy"], images.y_N)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in weights.items()}
        ends = [{name: w + h * way[name] for name, w in weights.items()} for h in (1e-5, -1e-5)]
        ahead, behind = (float(value(end, weights if detach else end)) for end in ends)
        pairs = zip(*gradients, way.values(), strict=True)
        found = sum(float(((with_it - without) * v).sum()) for with_it, without, v in pairs)
        assert found == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)
        assert abs(found) > 1e-3


def test_gradalign_without_its_regulariser_is_fgsm_training(digits: Dataset) -> None:
    model = net()
    images, x_adv, loss = losses(GradAlign(lam=0.0), model, digits)
    assert torch.equal(loss, F.cross_entropy(model(x_adv), images.y_N))
    assert model[1].num_batches_tracked == 2  # by the method and by this test: no pass for a regulariser


def test_misalignment_ignores_gradients_without_direction() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64).unbind()
    a[1] = 0
    b[3] = 0
    a.requires_grad_(True)
    b.requires_grad_(True)
    found = misalignment(a, b)
    kept = [0, 2, 4]
    expected = 1 - F.cosine_similarity(a[kept].flatten(1), b[kept].flatten(1)).mean()
    assert torch.allclose(found, expected)
    for gradient in torch.autograd.grad(found, (a, b)):
        assert torch.isfinite(gradient).all()
        assert not gradient[[1, 3]].any()
        assert gradient[kept].any()
    assert misalignment(a * 0, b) == 0
    assert misalignment(a * 1e-9, b).item() == pytest.approx(found.item())  # confident images still have a direction


def test_gradalign_survives_a_network_without_gradients(digits: Dataset) -> None:
    model, method = net(), GradAlign()
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[4].bias)
    images = batch(digits, method)
    loss = method.step(model.train(), images, inner("Linf")).loss
    assert loss.item() == pytest.approx(math.log(10))
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())  # type: ignore[arg-type]


# -- what cannot be


@pytest.mark.parametrize(
    "make",
    [
        lambda: Free(replays=0),
        lambda: FGSMRS(alpha=0.0),
        lambda: NFGSM(k=-1.0),
        lambda: NFGSM(alpha=0.0),
        lambda: GradAlign(lam=-0.1),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Method]) -> None:
    with pytest.raises(ConfigError, match=r"must be at least|must be greater"):
        make()
