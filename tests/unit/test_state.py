"""The training state: what going back restores, and what a saved state may not bring along."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deatbench.engine.environment import choose_device
from deatbench.engine.state import TrainState
from deatbench.errors import ConfigError
from deatbench.records import Flag

WRONG = Flag(code="nonfinite_loss", message="the loss became NaN or infinite in epoch 1")


def made(**form: bool) -> TrainState:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return TrainState.fresh(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **form))


def test_back_at_the_very_start_a_method_remembers_nothing() -> None:
    state = made()
    state.mark_sound()
    state.memory = {"delta": torch.full((2,), torch.nan)}
    state.take_back(WRONG)
    assert state.memory == {}


def test_later_its_memory_is_put_back_where_it_was() -> None:
    state = made()
    state.memory = {"delta": torch.ones(2)}
    state.mark_sound()
    tensor = state.memory["delta"].fill_(torch.nan)
    state.take_back(WRONG)
    assert state.memory["delta"] is tensor
    assert tensor.tolist() == [1, 1]


def test_a_saved_update_takes_the_form_of_this_device() -> None:
    """As when a run that began on a CPU goes on where updates are fused: a captured step needs that."""
    saved, state = made(foreach=True), made(fused=True)
    for parameter in saved.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    saved.optimizer.step()
    state.restore(saved.dump())
    (group,) = state.optimizer.param_groups
    assert (group["fused"], group["foreach"], group["momentum"]) == (True, None, 0.9)
    for ours, theirs in zip(state.model.parameters(), saved.model.parameters(), strict=True):
        buffers = [of.optimizer.state[p]["momentum_buffer"] for of, p in ((state, ours), (saved, theirs))]
        torch.testing.assert_close(*buffers, rtol=0, atol=0)


@pytest.mark.parametrize(("rank", "count", "index"), [(None, 4, None), ("2", 4, 2), ("3", 1, 0)])
def test_each_process_takes_its_gpu_or_the_only_one(
    rank: str | None, count: int, index: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device("auto") == (torch.device("cuda") if index is None else torch.device("cuda", index))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU: there are 2"):
        choose_device("cuda")
