"""What every training method promises. A new one is tested by being registered, with its default hyper-parameters."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks.rng import BatchRng
from deatbench.data import Dataset
from deatbench.methods import METHODS, Batch, Losses, Method
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.threats import THREATS, make_threat

pytestmark = pytest.mark.parametrize("name", METHODS.names())
EPS = {"Linf": "0.1", "L2": "0.7", "L1": "2"}


def method_of(name: str) -> Method:
    return METHODS[name](**METHODS.bind(name, {}))


def inner(norm: str = "Linf", **changes: Any) -> Inner:
    fields: dict[str, Any] = {"steps": 3, "rel_step": 0.5, "random_start": True, "bn_mode": "eval"}
    return Inner(make_threat(norm, EPS.get(norm, "0.1")), **(fields | changes))


def net(num_classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, num_classes)
    )


def batch(name: str, digits: Dataset, seed: int = 0, n: int = 24, memory: dict[str, Tensor] | None = None) -> Batch:
    """The same images each time; with a fresh memory unless one is given."""
    ((x_NCHW, y_N),) = digits.train.batches([torch.arange(n)], torch.device("cpu"))
    memory = method_of(name).memory(x_NCHW) if memory is None else memory
    return Batch(x_NCHW, y_N, BatchRng(torch.Generator().manual_seed(seed)), memory=memory)


def step(name: str, model: nn.Module, digits: Dataset, **changes: Any) -> Losses:
    return method_of(name).step(model, batch(name, digits), inner(**changes))


def passes_of_the_attack(name: str, digits: Dataset) -> int:
    """How often the perturbation asks the network."""
    model, asked = net().eval(), []
    model.register_forward_pre_hook(lambda module, inputs: asked.append(True))
    method_of(name).perturb(model, batch(name, digits), inner())
    return len(asked)


@pytest.mark.parametrize("norm", THREATS.names())
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_perturbation_is_admissible(name: str, norm: str, bn_mode: str, digits: Dataset) -> None:
    model, task, images, method = net(), inner(norm, bn_mode=bn_mode), batch(name, digits), method_of(name)
    before = images.x_NCHW.clone()
    method.step(model, images, task)  # a memory fills with the first step
    x_adv = method.perturb(model, images, task)
    assert x_adv.shape == images.x_NCHW.shape
    assert bool((task.threat.distance(x_adv, before) <= method.reach * task.threat.eps + task.threat.tolerance).all())
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1
    assert torch.equal(images.x_NCHW, before)
    if METHODS[name].adversarial:
        assert not torch.equal(x_adv, before)


@pytest.mark.parametrize("num_classes", [10, 12])
def test_loss_is_finite_and_reaches_every_weight(name: str, num_classes: int, digits: Dataset) -> None:
    model = net(num_classes).train()
    losses = step(name, model, digits)
    assert losses.loss.ndim == 0
    assert torch.isfinite(losses.loss)
    for logits_NK in (losses.clean_logits_NK, losses.adv_logits_NK):
        assert logits_NK is None or logits_NK.shape == (24, num_classes)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p is not model[0].bias)  # type: ignore[union-attr]


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_every_part_is_back_in_its_mode(name: str, bn_mode: str, digits: Dataset) -> None:
    model = net().train()
    model[1].eval()  # somebody froze this one
    step(name, model, digits, bn_mode=bn_mode)
    assert [part.training for part in model] == [True, False, True, True, True]


def test_the_attack_leaves_statistics_and_weights_alone(name: str, digits: Dataset) -> None:
    """With bn_mode eval, as many attack steps as you like change nothing: only the loss's own passes count."""
    one, many = net().train(), net().train()
    step(name, one, digits, steps=1)
    step(name, many, digits, steps=6)
    assert one[1].num_batches_tracked == many[1].num_batches_tracked  # type: ignore[comparison-overlap]
    fresh = net()
    for ours, theirs in zip(many.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs)

    model = net().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method_of(name).perturb(model, batch(name, digits), inner())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_bn_mode_is_obeyed(name: str, digits: Dataset) -> None:
    if not passes_of_the_attack(name, digits):
        pytest.skip("its attack asks no network")
    seen: list[bool] = []
    model = net().train()
    model[1].register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    step(name, model, digits, bn_mode="eval")
    assert seen[0] is False
    assert seen[-1] is True
    seen.clear()
    step(name, model, digits, bn_mode="train")
    assert all(seen)


def test_a_step_is_a_function_of_its_batch(name: str, digits: Dataset) -> None:
    results: list[Tensor] = []
    for noise in (1, 2):
        model = net().train()
        torch.manual_seed(noise)  # the global generator must not matter
        step(name, model, digits)
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    assert torch.equal(*results)


def test_a_few_steps_learn(name: str, digits: Dataset) -> None:
    """Under the optimizer that it is published with, the method's own loss falls."""
    model, method = net().train(), method_of(name)
    optimizer = OPTIMIZERS[method.optimizer](model.parameters(), lr=0.05)
    losses = []
    memory = batch(name, digits).memory
    for t in range(12):
        optimizer.zero_grad()
        loss = method.step(model, batch(name, digits, seed=t, memory=memory), inner()).loss
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_two_classes_are_enough(name: str, digits: Dataset) -> None:
    model, images = net(2).train(), batch(name, digits)
    losses = method_of(name).step(model, replace(images, y_N=images.y_N % 2), inner())
    assert torch.isfinite(losses.loss)


def test_an_image_of_one_class_twice_is_an_image_of_one_class(name: str, digits: Dataset) -> None:
    """CutMix's mixed labels reach attack and loss: equal labels change nothing, other labels do."""
    plain = batch(name, digits)
    share_N = torch.linspace(0, 1, len(plain.y_N))
    losses = []
    for other_N in (None, plain.y_N, plain.y_N.roll(1)):
        images = batch(name, digits)
        if other_N is not None:
            images = replace(images, other_N=other_N, share_N=share_N)
        losses.append(method_of(name).step(net().train(), images, inner()).loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("norm", THREATS.names())
def test_memory_is_written_in_place(name: str, norm: str, digits: Dataset) -> None:
    """A captured graph and a resume state hold on to its tensors; a fresh one says nothing about earlier images."""
    images, method = batch(name, digits), method_of(name)
    before = dict(images.memory)
    assert all(not tensor.any() for tensor in before.values())
    for _ in range(2):
        method.step(net().train(), images, inner(norm))
    assert images.memory.keys() == before.keys()
    assert all(images.memory[key] is before[key] and not before[key].requires_grad for key in before)
    assert all(torch.isfinite(tensor).all() and tensor.any() for tensor in before.values())


def test_replays_and_reach_are_declared(name: str) -> None:
    assert method_of(name).replays >= 1
    assert method_of(name).reach >= 1


def test_hyper_parameters_are_plain_and_costs_are_known(name: str) -> None:
    parameters = METHODS.bind(name, {})
    assert all(isinstance(value, (bool, int, float, str)) for value in parameters.values())
    assert method_of(name).passes(inner(steps=10)) >= 3
    assert method_of(name).optimizer in OPTIMIZERS
    assert copy.copy(method_of(name)) == method_of(name)
