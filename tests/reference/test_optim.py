"""DEAT's optimizer against Algorithm 2 of the paper and against the released form, both written anew; float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from deatbench.optim import OPTIMIZERS
from deatbench.optim.deat import DEAT

STEPS = 60
Gradient = Callable[[Tensor], Tensor]


def problem() -> tuple[Tensor, Gradient]:
    """A starting point and the gradient of a smooth, non-quadratic loss at any point."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    target = torch.randn(7, 5, dtype=torch.float64, generator=generator)

    def gradient(theta: Tensor) -> Tensor:
        return (theta - target) + 0.5 * torch.sin(3 * theta)

    return start, gradient


def learning_rates() -> Iterator[float]:
    """A schedule that moves, as in training."""
    return (0.1 * (0.5 + 0.5 * math.cos(math.pi * t / STEPS)) for t in range(STEPS))


def paper(start: Tensor, gradient: Gradient, k1: float, k2: float, wd: float) -> Tensor:
    """Algorithm 2, letter by letter, all h_t kept; L2 regularisation is part of the gradient."""
    theta, h = start.clone(), [torch.zeros_like(start), torch.zeros_like(start)]
    for lr in learning_rates():
        g = gradient(theta) + wd * theta
        h.append(k2 * h[-2] + (1 - k2) * g)
        theta = theta - lr / math.sqrt((1 + k1) ** 2 + k1**2) * ((1 + k1) * h[-1] - k1 * h[-2])
    return theta


def released(start: Tensor, gradient: Gradient, beta0: float, beta1: float, wd: float) -> Tensor:
    """The positive-negative momentum form: two buffers that change places, decoupled decay by the plain lr."""
    theta, buffers = start.clone(), [torch.zeros_like(start), torch.zeros_like(start)]
    noise_norm = math.sqrt((1 + beta0) ** 2 + beta0**2)
    for t, lr in enumerate(learning_rates()):
        g = gradient(theta)
        theta = theta * (1 - lr * wd)
        positive, negative = (buffers[0], buffers[1]) if t % 2 == 0 else (buffers[1], buffers[0])
        positive.mul_(beta1**2).add_(g, alpha=1 - beta1**2)
        theta = theta - lr * (positive * (1 + beta0) - negative * beta0) / noise_norm
    return theta


def optimized(start: Tensor, gradient: Gradient, name: str = "deat", **settings: object) -> Tensor:
    theta = nn.Parameter(start.clone())
    optimizer = OPTIMIZERS[name]([theta], lr=1.0, **settings)
    for lr in learning_rates():
        optimizer.param_groups[0]["lr"] = lr
        theta.grad = gradient(theta.detach())
        optimizer.step()
    return theta.detach()


@pytest.mark.parametrize(("k1", "k2"), [(1.0, 0.8), (0.5, 0.0), (0.0, 0.9), (2.0, 0.5)])
@pytest.mark.parametrize("wd", [0.0, 5e-2])
def test_deat_is_algorithm_2(k1: float, k2: float, wd: float) -> None:
    start, gradient = problem()
    ours = optimized(start, gradient, k1=k1, k2=k2, weight_decay=wd)
    assert torch.allclose(ours, paper(start, gradient, k1, k2, wd), rtol=0, atol=1e-10)
    assert (ours - start).abs().max() > 0.1


@pytest.mark.parametrize("wd", [0.0, 5e-2])
def test_deat_is_the_released_form(wd: float) -> None:
    start, gradient = problem()
    ours = optimized(start, gradient, k1=1.0, k2=0.9**2, weight_decay=wd, decoupled=True)
    assert torch.allclose(ours, released(start, gradient, 1.0, 0.9, wd), rtol=0, atol=1e-10)


def test_coupled_and_decoupled_decay_differ() -> None:
    start, gradient = problem()
    coupled, decoupled = (optimized(start, gradient, weight_decay=5e-2, decoupled=flag) for flag in (False, True))
    assert (coupled - decoupled).abs().max() > 1e-3


def test_k1_one_k2_zero_is_optimistic_gradient_descent() -> None:
    start, gradient = problem()
    theta, last = start.clone(), torch.zeros_like(start)
    for lr in learning_rates():
        g = gradient(theta)
        theta, last = theta - lr * (2 * g - last), g
    ours = optimized(start, gradient, k1=1.0, k2=0.0, normalize=False, weight_decay=0.0)
    assert torch.allclose(ours, theta, rtol=0, atol=1e-10)


def test_k1_zero_averages_every_second_gradient() -> None:
    start, gradient = problem()
    theta, averages = start.clone(), {0: torch.zeros_like(start), 1: torch.zeros_like(start)}
    for t, lr in enumerate(learning_rates()):
        averages[t % 2] = 0.8 * averages[t % 2] + 0.2 * gradient(theta)
        theta = theta - lr * averages[t % 2]
    ours = optimized(start, gradient, k1=0.0, k2=0.8, weight_decay=0.0)
    assert torch.allclose(ours, theta, rtol=0, atol=1e-10)


def test_k1_zero_k2_zero_is_plain_sgd() -> None:
    start, gradient = problem()
    ours = optimized(start, gradient, k1=0.0, k2=0.0, weight_decay=1e-2)
    theirs = optimized(start, gradient, name="sgd", momentum=0.0, weight_decay=1e-2)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_momentum_sgd(momentum: float) -> None:
    start, gradient = problem()
    theta, velocity = start.clone(), torch.zeros_like(start)
    for lr in learning_rates():
        velocity = momentum * velocity + gradient(theta) + 1e-2 * theta
        theta = theta - lr * velocity
    ours = optimized(start, gradient, name="sgd", momentum=momentum, weight_decay=1e-2)
    assert torch.allclose(ours, theta, rtol=0, atol=1e-10)


def test_a_parameter_without_gradient_is_skipped() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = DEAT([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert (used < 1).all()


@pytest.mark.parametrize(("k1", "k2", "normalize"), [(1.0, 0.8, True), (0.5, 0.0, False), (0.0, 0.9, True)])
def test_at_the_shifted_point_the_update_averages_gradients_and_no_more(k1: float, k2: float, normalize: bool) -> None:
    """phi_{t+1} = phi_t - lr' · h_t, with h_t computed here from the gradients at theta_t."""
    start, gradient = problem()
    theta = torch.nn.Parameter(start.clone())
    optimizer = OPTIMIZERS["deat"]([theta], lr=0.05, k1=k1, k2=k2, normalize=normalize, weight_decay=0.0)
    rate = 0.05 / (((1 + k1) ** 2 + k1**2) ** 0.5 if normalize else 1.0)
    phi, h = start.clone(), [torch.zeros_like(start), torch.zeros_like(start)]
    for _ in range(12):
        g = gradient(theta.detach())
        h.append(k2 * h[-2] + (1 - k2) * g)
        phi = phi - rate * h[-1]
        theta.grad = g.clone()
        optimizer.step()
        ((parameter, shift),) = optimizer.shifts()
        assert parameter is theta
        torch.testing.assert_close(theta.detach() + shift, phi)
    assert (k1 == 0) == torch.equal(theta.detach(), theta.detach() + shift)
