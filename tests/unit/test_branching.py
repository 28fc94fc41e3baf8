"""Branch and bound: a bound holds where its signs do, both signs together hold everywhere, more cases prove more."""

from __future__ import annotations

import pytest
import torch
from bounded_networks import CLASSES, Watched, ball, bounds_of, margins, networks, searched
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deatbench.certificates import Certifier, branching, certify, read
from deatbench.certificates.branching import _split, all_exceed
from deatbench.certificates.crown import Bounds, Cases
from deatbench.data import Dataset
from deatbench.threats import make_threat

FEW = CLASSES - 1


def values_and_bounds(made: tuple[nn.Module, Tensor], eps: float) -> tuple[Tensor, Tensor, Bounds]:
    """Of points of the ball: the inputs of all ReLUs [N, M] and the margins [N, K − 1]; and the ball's bounds."""
    model, x_CHW = made
    watched, box = Watched(model, margins(0)), ball(x_CHW, eps)
    found = watched(searched(watched, box, FEW)).detach()
    return found[:, :-FEW], found[:, -FEW:], bounds_of(model, box)


def cases_of(signs_RN: Tensor) -> Cases:
    return Cases(margins(0).repeat(len(signs_RN) // FEW, 1), signs_RN, torch.zeros_like(signs_RN))


@settings(deadline=None, max_examples=30)
@given(made=networks(), eps=st.sampled_from([0.03, 0.2]), share=st.sampled_from([0.0, 0.2, 1.0]))
def test_a_bound_holds_where_its_signs_do(made: tuple[nn.Module, Tensor], eps: float, share: float) -> None:
    inputs_NM, margins_NK, bounds = values_and_bounds(made, eps)
    signs_NM = inputs_NM.sign() * (torch.rand(inputs_NM.shape) < share)
    cases = cases_of(signs_NM[:20].float().repeat_interleave(FEW, 0))
    lower_NK = bounds.lower_in(cases).view(20, FEW)
    for signs_M, lower_K in zip(signs_NM, lower_NK, strict=False):
        agree_N = (inputs_NM.sign() * signs_M.abs() == signs_M).all(1)
        assert agree_N.any()
        assert (margins_NK[agree_N] > lower_K - 1e-4 * margins_NK.abs().max()).all()
    assert (cases.losses_RN <= 0).all()
    assert not (cases.losses_RN * cases.signs_RN).any()  # no line is left around a neuron whose sign is known


def test_without_signs_it_is_crowns_bound() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES)).eval()
    bounds = bounds_of(model, ball(torch.rand(1, 5, 5), 0.1))
    cases = cases_of(torch.zeros(FEW, 36))
    torch.testing.assert_close(bounds.lower_in(cases), bounds.lower(margins(0)))
    assert (cases.losses_RN < 0).any()


@settings(deadline=None, max_examples=20)
@given(made=networks(), eps=st.sampled_from([0.03, 0.2]))
def test_what_is_proved_holds_everywhere(made: tuple[nn.Module, Tensor], eps: float) -> None:
    _, margins_NK, bounds = values_and_bounds(made, eps)
    lowest, size = float(margins_NK.min()), float(margins_NK.abs().max())
    crowns = float(bounds.lower(margins(0)).min())
    assert not all_exceed(bounds, margins(0), lowest + 1e-4 * size, 200)
    assert all_exceed(bounds, margins(0), crowns - 1e-4 * size, 0)
    for share in (0.2, 0.5, 0.8):
        threshold = crowns + share * (lowest - crowns)
        found = [all_exceed(bounds, margins(0), threshold, cases) for cases in (0, 20, 200)]
        assert found == sorted(found)  # more cases never prove less


def test_telling_signs_apart_proves_what_crown_cannot(
    robust_net: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((x_NCHW, y_N),) = digits.test.batches([torch.arange(40)], torch.device("cpu"))
    certifier = Certifier(read(robust_net, x_NCHW), make_threat("Linf", "0.13"))

    def proved(most_cases: int) -> int:
        monkeypatch.setattr(certify, "MOST_CASES", most_cases)
        return sum(certifier.proved(x_CHW, label) for x_CHW, label in zip(x_NCHW, y_N.tolist(), strict=True))

    assert 0 < proved(0) < proved(600) < 40
    monkeypatch.setattr(branching, "AT_ONCE", 1)
    assert proved(0) < proved(600)


def test_where_nothing_is_left_to_tell_apart_a_case_stays_as_it_is() -> None:
    losses_RN = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    signs_RN = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    once = _split(Cases(torch.zeros(2, 3), signs_RN, losses_RN))
    assert once.signs_RN.tolist() == [[0, 1, 0], [-1, 0, 0], [0, -1, 0], [-1, 0, 0]]
    assert not once.losses_RN.any()
    assert torch.equal(_split(once).signs_RN, once.signs_RN.repeat(2, 1))
