"""A training batch's targets, smoothed and mixed, against formulas written out in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deatbench.attacks.rng import BatchRng
from deatbench.methods.base import Batch

N, K = 6, 5


def a_batch(smoothing: float = 0.0, mixed: bool = False, seed: int = 0) -> tuple[Batch, Tensor]:
    """A batch and logits for it."""
    generator = torch.Generator().manual_seed(seed)
    x_NCHW = torch.rand(N, 1, 4, 4, generator=generator)
    y_N, other_N = torch.randint(K, (2, N), generator=generator)
    share_N = torch.rand(N, generator=generator)
    logits_NK = 4 * torch.randn(N, K, generator=generator)
    mixture = {"other_N": other_N, "share_N": share_N} if mixed else {}
    return Batch(x_NCHW, y_N, BatchRng(generator), smoothing=smoothing, **mixture), logits_NK


def targets(batch: Batch, smoothing: float) -> np.ndarray:
    """What the network should answer, one distribution an image."""
    target_NK = np.zeros((N, K))
    for n in range(N):
        share = 1.0 if batch.share_N is None else float(batch.share_N[n])
        target_NK[n, batch.y_N[n]] += share
        if batch.other_N is not None:
            target_NK[n, batch.other_N[n]] += 1 - share
    return (1 - smoothing) * target_NK + smoothing / K


def cross_entropies(target_NK: np.ndarray, logits_NK: Tensor) -> np.ndarray:
    """-sum t log p, one number an image."""
    odds_NK = np.exp(logits_NK.detach().double().numpy())
    return -(target_NK * np.log(odds_NK / odds_NK.sum(1, keepdims=True))).sum(1)


@given(smoothing=st.floats(0, 1), mixed=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_cross_entropy_is_that_to_the_smoothed_and_mixed_targets(smoothing: float, mixed: bool, seed: int) -> None:
    batch, logits_NK = a_batch(smoothing, mixed, seed)
    loss = batch.cross_entropy(logits_NK)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(cross_entropies(targets(batch, smoothing), logits_NK).mean(), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_its_gradient_is_softmax_less_target(smoothing: float, mixed: bool) -> None:
    batch, logits_NK = a_batch(smoothing, mixed)
    batch.cross_entropy(logits_NK.requires_grad_()).backward()
    expected_NK = (logits_NK.detach().double().softmax(1) - torch.from_numpy(targets(batch, smoothing))) / N
    assert logits_NK.grad is not None
    torch.testing.assert_close(logits_NK.grad.double(), expected_NK, rtol=1e-4, atol=1e-7)


@given(smoothing=st.floats(0, 1), mixed=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_attacks_ascend_the_mixed_loss_without_smoothing(smoothing: float, mixed: bool, seed: int) -> None:
    batch, logits_NK = a_batch(smoothing, mixed, seed)
    loss_N = batch.label_loss(logits_NK, batch.y_N)
    assert loss_N.shape == (N,)
    np.testing.assert_allclose(loss_N.numpy(), cross_entropies(targets(batch, 0.0), logits_NK), rtol=1e-4, atol=1e-5)


def test_mean_mixes_any_loss_of_the_labels() -> None:
    batch, logits_NK = a_batch(smoothing=0.3, mixed=True)
    assert batch.share_N is not None
    assert batch.other_N is not None

    def margin(y_N: Tensor) -> Tensor:
        return logits_NK.amax(1) - logits_NK[range(N), y_N]

    expected = 0.0
    for n in range(N):
        top, share = float(logits_NK[n].max()), float(batch.share_N[n])
        own, other = float(logits_NK[n, batch.y_N[n]]), float(logits_NK[n, batch.other_N[n]])
        expected += (share * (top - own) + (1 - share) * (top - other)) / N
    assert batch.mean(margin).item() == pytest.approx(expected, rel=1e-5)
    plain, _ = a_batch(smoothing=0.3)
    assert plain.mean(margin).item() == pytest.approx(margin(plain.y_N).mean().item(), rel=1e-6)


def test_a_share_of_one_or_zero_is_a_plain_batch() -> None:
    batch, logits_NK = a_batch()
    other_N = (batch.y_N + 1) % K
    for share, labels_N in ((1.0, batch.y_N), (0.0, other_N)):
        mixed = Batch(
            batch.x_NCHW, batch.y_N, batch.rng, other_N=other_N, share_N=torch.full((N,), share), smoothing=0.1
        )
        plain = Batch(batch.x_NCHW, labels_N, batch.rng, smoothing=0.1)
        assert mixed.cross_entropy(logits_NK).item() == pytest.approx(plain.cross_entropy(logits_NK).item(), rel=1e-6)
        assert torch.equal(mixed.label_loss(logits_NK, batch.y_N), plain.label_loss(logits_NK, labels_N))


def test_batches_do_not_share_memory() -> None:
    one, other = a_batch()[0], a_batch()[0]
    one.memory["delta"] = torch.zeros(1)
    assert other.memory == {}
