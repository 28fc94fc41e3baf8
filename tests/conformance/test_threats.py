"""What every threat model promises, whatever its norm. A new one is tested by being registered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize
from torch import Tensor

from deatbench.attacks.rng import ExampleRng
from deatbench.threats import THREATS, ThreatModel, make_threat

SHAPE = (2, 1, 4, 4)
EPS = ("1e-4", "1/255", "8/255", "0.3", "2")
pixels = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
anything = hnp.arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32))
threats = st.builds(make_threat, st.sampled_from(THREATS.names()), st.sampled_from(EPS))
each = settings(max_examples=60, deadline=None)


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array.copy()) for array in arrays)


def admissible(threat: ThreatModel, x_adv: Tensor, x: Tensor) -> bool:
    inside = threat.distance(x_adv, x) <= threat.eps + threat.tolerance
    return bool(inside.all() and (x_adv >= 0).all() and (x_adv <= 1).all())


@each
@given(threats, pixels, anything)
def test_projection_lands_in_the_ball_and_stays_put(threat: ThreatModel, x: np.ndarray, far: np.ndarray) -> None:
    x_NCHW, far_NCHW = tensors(x, far)
    once = threat.project(far_NCHW, x_NCHW)
    assert admissible(threat, once, x_NCHW)
    assert torch.allclose(threat.project(once, x_NCHW), once, rtol=0, atol=1e-6)
    assert torch.equal(x_NCHW, torch.from_numpy(x))
    assert torch.equal(far_NCHW, torch.from_numpy(far))


@each
@given(threats, pixels)
def test_projection_keeps_what_is_admissible(threat: ThreatModel, x: np.ndarray) -> None:
    (x_NCHW,) = tensors(x)
    assert torch.allclose(threat.project(x_NCHW.clone(), x_NCHW), x_NCHW, rtol=0, atol=1e-7)
    grey = torch.full_like(x_NCHW, 0.5)
    share_N = (0.5 * threat.eps / threat.distance(grey, x_NCHW).clamp_min(1e-9)).clamp_max(0.9)
    towards_grey = x_NCHW + (grey - x_NCHW) * share_N[:, None, None, None]  # eps / 2 away, or nearly grey
    assert torch.allclose(threat.project(towards_grey, x_NCHW), towards_grey, rtol=0, atol=1e-6)


@each
@given(threats, pixels, st.integers(0, 99))
def test_random_start_is_in_the_ball_and_random(threat: ThreatModel, x: np.ndarray, seed: int) -> None:
    (x_NCHW,) = tensors(x)

    def start(key: int) -> Tensor:
        return threat.random_start(x_NCHW, ExampleRng(key, torch.tensor([4, 7]), "test/0"))

    assert admissible(threat, start(seed), x_NCHW)
    assert torch.equal(start(seed), start(seed))
    assert not torch.equal(start(seed), start(seed + 1))
    assert torch.equal(x_NCHW, torch.from_numpy(x))


@each
@given(threats, pixels, hnp.arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=16)))
def test_ascend_raises_a_linear_objective(threat: ThreatModel, x: np.ndarray, weights: np.ndarray) -> None:
    x_NCHW, w_NCHW = tensors(x, weights)
    step = 0.25 * threat.eps
    moved = threat.ascend(x_NCHW, w_NCHW, step)
    gain_N = ((moved.double() - x_NCHW.double()) * w_NCHW.double()).sum(dim=(1, 2, 3))
    blocked = torch.where(w_NCHW > 0, x_NCHW >= 1, x_NCHW <= 0)  # what [0, 1] keeps from rising need not be tried
    steep = w_NCHW.masked_fill(blocked, 0).flatten(1).abs().amax(1) > 1e-2
    assert bool((gain_N[steep] > 0).all())
    assert bool((threat.distance(moved, x_NCHW) <= step * (1 + 1e-3) + threat.tolerance).all())
    assert torch.isfinite(moved).all()


@pytest.mark.parametrize("norm", [name for name in THREATS.names() if name != "L2"])
@each
@given(pixels, anything, st.sampled_from(("0.01", "0.3", "1", "4")))
def test_projection_is_no_farther_than_any_admissible_point(
    norm: str, x: np.ndarray, far: np.ndarray, eps: str
) -> None:
    """For a convex set: p is the nearest point to y where no admissible z has (y - p)·(z - p) > 0.

    L2 scales first and clips then, as published: that is admissible, but not always nearest.
    """
    threat = make_threat(norm, eps)
    x_NCHW, far_NCHW = (array.double() for array in tensors(x, far))
    nearest = threat.project(far_NCHW, x_NCHW)
    assert admissible(threat, nearest, x_NCHW)
    w_ND = (far_NCHW - nearest).flatten(1)
    best_N = (w_ND * (nearest - x_NCHW).flatten(1)).sum(1)
    steepest_ND = steepest_admissible(threat, x_NCHW.flatten(1), w_ND)
    assert bool(((w_ND * steepest_ND).sum(1) <= best_N + 1e-5).all())


def steepest_admissible(threat: ThreatModel, x_ND: Tensor, w_ND: Tensor) -> Tensor:
    """The admissible change along which w·z rises most, coordinate by coordinate: slow, plain and exact."""
    room_ND = torch.where(w_ND > 0, 1 - x_ND, x_ND)
    if threat.norm == "Linf":
        return w_ND.sign() * room_ND.clamp_max(threat.eps)
    change_ND = torch.zeros_like(x_ND)
    for n in range(len(x_ND)):
        left = threat.eps
        for d in w_ND[n].abs().argsort(descending=True).tolist():
            move = min(left, float(room_ND[n, d]))
            change_ND[n, d] = move * w_ND[n, d].sign()
            left -= move
    return change_ND


@pytest.mark.parametrize("norm", THREATS.names())
@each
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from((0.3, 1.0, 3.0)))
def test_move_to_a_hyperplane_is_the_shortest(norm: str, seed: int, dimension: int, reach: float) -> None:
    """Against scipy's linear and quadratic programs, on one row; where the plane is out of reach the gap is least."""
    generator = np.random.default_rng(seed)
    x, w, goal = generator.random(dimension), generator.standard_normal(dimension), generator.random(dimension)
    x[generator.random(dimension) < 0.3] = 0.0
    b = float(w @ x + reach * (w @ (goal - x)))
    row = [torch.from_numpy(value).float()[None] for value in (x, w)]
    threat = make_threat(norm, "1")
    move = threat.to_hyperplane(*row, torch.tensor([b], dtype=torch.float32))[0].double().numpy()
    assert (x + move > -1e-5).all()
    assert (x + move < 1 + 1e-5).all()
    farthest = np.where(w * np.sign(b - w @ x) > 0, 1 - x, -x)
    if abs(w @ farthest) <= abs(b - w @ x):
        assert w @ (x + move) == pytest.approx(w @ (x + farthest), abs=1e-4)
    else:
        assert w @ (x + move) == pytest.approx(b, abs=1e-4)
        assert length(move, norm) == pytest.approx(shortest_length(x, w, b, norm), abs=1e-3)


def length(move: np.ndarray, norm: str) -> float:
    return float(np.linalg.norm(move, {"L1": 1, "L2": 2, "Linf": np.inf}[norm]))


def shortest_length(x: np.ndarray, w: np.ndarray, b: float, norm: str) -> float:
    """Length of the shortest move within [0, 1] onto w·z = b, by scipy."""
    bounds = list(zip(-x, 1 - x, strict=True))
    if norm == "L2":
        plane = {"type": "eq", "fun": lambda m: w @ (x + m) - b, "jac": lambda m: w}
        start = np.where(w * np.sign(b - w @ x) > 0, 1 - x, -x) * 0.5
        found = optimize.minimize(
            lambda m: m @ m, start, jac=lambda m: 2 * m, bounds=bounds, constraints=[plane], options={"ftol": 1e-12}
        )
        return length(found.x, norm)
    size = len(x)  # the move m, then its size t: one per coordinate for L1, one for all for Linf
    sizes = np.eye(size) if norm == "L1" else np.ones((size, 1))
    above = np.block([[np.eye(size), -sizes], [-np.eye(size), -sizes]])
    found = optimize.linprog(
        np.concatenate([np.zeros(size), np.ones(sizes.shape[1])]),
        A_ub=above,
        b_ub=np.zeros(2 * size),
        A_eq=np.concatenate([w, np.zeros(sizes.shape[1])])[None],
        b_eq=[b - w @ x],
        bounds=bounds + [(0, None)] * sizes.shape[1],
    )
    return float(found.fun)


@each
@given(threats, pixels, pixels, pixels)
def test_distance_is_a_norm_per_image(threat: ThreatModel, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    a_NCHW, b_NCHW, c_NCHW = tensors(a, b, c)
    ab, bc, ac = (threat.distance(*pair) for pair in ((a_NCHW, b_NCHW), (b_NCHW, c_NCHW), (a_NCHW, c_NCHW)))
    assert ab.shape == (SHAPE[0],)
    assert torch.allclose(threat.distance(b_NCHW, a_NCHW), ab)
    assert bool((threat.distance(a_NCHW, a_NCHW) == 0).all())
    assert bool((ac <= ab + bc + 1e-5).all())
    assert torch.allclose(threat.distance(a_NCHW[1:], b_NCHW[1:]), ab[1:], rtol=1e-6)


@pytest.mark.parametrize("norm", THREATS.names())
def test_the_steepest_step_beats_random_ones(norm: str) -> None:
    threat = make_threat(norm, "0.5")
    generator = torch.Generator().manual_seed(0)
    x, w = torch.full(SHAPE, 0.5), torch.randn(SHAPE, generator=generator)
    best = ((threat.ascend(x, w, 0.1) - x) * w).sum(dim=(1, 2, 3))
    for _ in range(50):
        way = torch.randn(SHAPE, generator=generator)
        other = x + 0.1 * way / threat.distance(x + way, x).reshape(-1, 1, 1, 1)
        assert bool((((other - x) * w).sum(dim=(1, 2, 3)) < best).all())


@pytest.mark.parametrize("norm", THREATS.names())
def test_zero_gradient_and_zero_distance_are_no_division_by_zero(norm: str) -> None:
    threat, x = make_threat(norm, "8/255"), torch.rand(SHAPE)
    assert torch.equal(threat.ascend(x, torch.zeros(SHAPE), 0.1), x)
    assert torch.equal(threat.project(x, x), x)


@pytest.mark.parametrize("norm", THREATS.names())
def test_its_record_says_what_it_is(norm: str) -> None:
    record = make_threat(norm, " 8/255 ").record()
    assert (record.norm, record.eps, record.eps_text) == (norm, 8 / 255, "8/255")


@pytest.mark.parametrize("norm", THREATS.names())
def test_random_starts_fill_the_ball(norm: str) -> None:
    """In the middle of [0, 1] nothing is cut: the start must neither hug the image nor the sphere."""
    threat, x = make_threat(norm, "0.1"), torch.full((200, 1, 4, 4), 0.5)
    distance_N = threat.distance(threat.random_start(x, ExampleRng(0, torch.arange(200), "fill")), x)
    assert distance_N.max() > 0.9 * threat.eps
    assert distance_N.unique().numel() > 190


def test_random_starts_in_l1_are_uniform_in_the_ball() -> None:
    """Against the ball's known moments: E|x_d| = eps / (D + 1), E length = eps·D / (D + 1), no sign preferred."""
    threat, x = make_threat("L1", "0.4"), torch.full((4000, 1, 1, 4), 0.5)
    delta = threat.random_start(x, ExampleRng(0, torch.arange(4000), "moments")) - x
    assert torch.allclose(delta.abs().mean(0), torch.tensor(0.4 / 5), rtol=0.06)
    assert delta.abs().flatten(1).sum(1).mean() == pytest.approx(0.4 * 4 / 5, rel=0.02)
    assert delta.mean(0).abs().amax() < 0.006
    inner = (delta.abs().flatten(1).sum(1) < 0.2).float().mean()
    assert inner == pytest.approx(0.5**4, rel=0.2)  # half the radius holds 1/16 of the volume


def test_a_step_in_l1_is_sparse_and_passes_over_what_cannot_move() -> None:
    threat, x = make_threat("L1", "1"), torch.full((1, 1, 10, 30), 0.5)
    w = torch.linspace(1, 2, 300).reshape(1, 1, 10, 30)
    x[0, 0, -1, -1] = 1.0  # the steepest is already at the border
    delta = (threat.ascend(x, w, 0.3) - x).flatten()
    assert torch.nonzero(delta)[:, 0].tolist() == [296, 297, 298]
    assert torch.allclose(delta[296:299], torch.tensor(0.1))


@pytest.mark.parametrize("spread", [1.0, 20.0])
@pytest.mark.parametrize("eps", ["0.01", "12", "400"])
def test_projection_onto_the_l1_ball_is_exact_in_high_dimension(eps: str, spread: float) -> None:
    """Changes of very unequal sizes at many border pixels, against bisection in float64."""
    generator = torch.Generator().manual_seed(0)
    threat, x = make_threat("L1", eps), torch.rand(20, 3, 32, 32, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.2] = 0.0
    size = torch.exp(-spread * torch.rand(x.shape, generator=generator))
    far = x + size * torch.randn(x.shape, generator=generator)
    delta, exact = (far - x).double(), torch.where(far > x, 1 - x, x).double()
    low, high = torch.zeros(20, 1, 1, 1).double(), delta.abs().amax((1, 2, 3), keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        kept = torch.minimum((delta.abs() - middle).clamp_min(0), exact)
        over = kept.sum((1, 2, 3), keepdim=True) > threat.eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    found = threat.project(far, x)
    assert (found - (x + delta.sign() * kept)).abs().amax() < 3e-7
    assert bool((threat.distance(found, x) <= threat.eps + threat.tolerance).all())
