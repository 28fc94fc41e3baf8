"""What every threat model promises, whatever its norm. A new one is tested by being registered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
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
    towards_grey = x_NCHW + (0.5 - x_NCHW) * min(0.9, threat.eps / 4)  # at most eps / 2 away, in either norm
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
    steep = w_NCHW.flatten(1).abs().amax(1) > 1e-2
    assert bool((gain_N[steep] > 0).all())
    assert bool((threat.distance(moved, x_NCHW) <= step * (1 + 1e-3) + threat.tolerance).all())
    assert torch.isfinite(moved).all()


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
