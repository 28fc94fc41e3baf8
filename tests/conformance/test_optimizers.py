"""What every optimizer promises. A new one is tested by being registered, with its default hyper-parameters."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from deatbench.optim import OPTIMIZERS

pytestmark = pytest.mark.parametrize("name", OPTIMIZERS.names())


class Run:
    """A few parameters, one of them laid out as channels_last, on a loss with noise."""

    def __init__(self, name: str, lr: float | Tensor = 0.05) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = nn.ParameterList(
            [
                nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)),
                nn.Parameter(torch.randn(4, generator=generator)),
            ]
        )
        self.optimizer = OPTIMIZERS[name](self.net.parameters(), lr=lr)

    def steps(self, first: int, last: int) -> None:
        for t in range(first, last):
            generator = torch.Generator().manual_seed(t)
            self.optimizer.zero_grad(set_to_none=True)
            loss = sum((p - torch.randn(p.shape, generator=generator)).square().sum() for p in self.net)
            loss.backward()  # type: ignore[union-attr]
            self.optimizer.step()

    def weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.net]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("cut", [1, 2, 7])
def test_state_dict_round_trip_continues_identically(name: str, cut: int) -> None:
    whole, first = Run(name), Run(name)
    whole.steps(0, 20)
    first.steps(0, cut)
    file = io.BytesIO()
    torch.save((first.optimizer.state_dict(), first.net.state_dict()), file)
    file.seek(0)
    optimizer_state, weights = torch.load(file, weights_only=True)
    second = Run(name)
    second.net.load_state_dict(weights)
    second.optimizer.load_state_dict(optimizer_state)
    second.steps(cut, 20)
    assert same(second.weights(), whole.weights())


def test_lr_may_be_a_tensor(name: str) -> None:
    """As a captured graph needs it: changed in place, without a new step being compiled."""
    plain, tensor = Run(name), Run(name, torch.tensor(0.05))
    for run in (plain, tensor):
        run.steps(0, 5)
    plain.optimizer.param_groups[0]["lr"] = 0.01
    tensor.optimizer.param_groups[0]["lr"].fill_(0.01)
    for run in (plain, tensor):
        run.steps(5, 10)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain.weights(), tensor.weights(), strict=True))


def test_lr_zero_changes_nothing_and_lr_counts(name: str) -> None:
    still, moved = Run(name, 0.0), Run(name)
    before = copy.deepcopy(still.weights())
    still.steps(0, 3)
    moved.steps(0, 3)
    assert same(still.weights(), before)
    assert not same(moved.weights(), before)


def test_the_loss_goes_down(name: str) -> None:
    run = Run(name)
    far = float(run.weights()[0].norm())
    run.steps(0, 60)
    assert float(run.weights()[0].norm()) < far  # the noisy targets average to 0


def test_a_closure_is_evaluated(name: str) -> None:
    run = Run(name)

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = sum(p.square().sum() for p in run.net)
        loss.backward()  # type: ignore[union-attr]
        return loss  # type: ignore[return-value]

    first = run.optimizer.step(closure)
    second = run.optimizer.step(closure)
    assert second.detach() < first.detach()  # type: ignore[union-attr]
