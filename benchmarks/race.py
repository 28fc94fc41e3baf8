"""Contestants for the training step: ours in its forms, the public loops; one network, one set of random images."""

from __future__ import annotations

import argparse
import copy
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import now
from benchmarks.public_loops import PUBLIC_LOOPS, PublicLoop
from deatbench.archs.build import build_arch, count_flops
from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.data.augment import augment
from deatbench.data.images import TensorImages
from deatbench.engine.environment import choose_device
from deatbench.engine.execution import Execution
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.state import TrainState
from deatbench.engine.step import FREE_STEPS, Step
from deatbench.methods import METHODS
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.records import ModelSpec
from deatbench.threats import make_threat

EPOCH = 49_000  # images: CIFAR-10 without 2 % for validation
PIXELS: dict[str, dict[str, Any]] = {  # size and normalisation of the images
    "cifar": {"shape": (3, 32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)},
    "digits": {"shape": (1, 8, 8), "mean": (0.3049,), "std": (0.3756,)},
}


@dataclass
class Contestant:
    """Something that takes training steps, and what was measured of it."""

    name: str
    cost: float
    step: Callable[[Tensor, Tensor, int], None]
    loss: Callable[[], float]
    prepared: float = 0.0
    blocks: list[float] = field(default_factory=list)
    peak_gb: float | None = None
    notes: list[str] = field(default_factory=list)
    against: str = "ours"  # whose seconds it is compared with


class Notes(Monitor):
    """Collects what the step has to say, and says it on stderr."""

    def __init__(self, name: str, into: list[str]) -> None:
        self.name, self.into = name, into

    def note(self, text: str) -> None:
        self.into.append(text)
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)


class Race:
    """One network, one set of random images, several contestants."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = choose_device(arguments.device)
        precision = arguments.precision
        self.precision = ("bf16" if self.device.type == "cuda" else "fp32") if precision == "auto" else precision
        self.params = {} if arguments.width == 1.0 else {"width": arguments.width}
        torch.manual_seed(0)
        self.shape = PIXELS[arguments.images]["shape"]
        self.pixels = {key: PIXELS[arguments.images][key] for key in ("mean", "std")}
        self.spec = {"num_classes": 10, "in_channels": self.shape[0], "image_size": self.shape[1], **self.pixels}
        self.model = build_arch(arguments.arch, **self.spec, **self.params)
        self.flops = count_flops(self.model, (1, *self.shape))
        n = 20 * arguments.batch_size
        split = TensorImages(torch.randint(256, (n, *self.shape), dtype=torch.uint8), torch.randint(10, (n,)))
        classes = tuple("0123456789")
        self.data = Dataset("random", classes, self.shape, split, split, split, source="random", **self.pixels)
        self.augment = augment("crop-flip")

    def ours(self, name: str, method: str, execution: Execution) -> Contestant:
        config = RunConfig.model_validate(
            {
                "arch": self.arguments.arch,
                "dataset": "random",
                "method": method,
                "batch_size": self.arguments.batch_size,
                "precision": self.precision,
            }
        )
        model = copy.deepcopy(self.model).to(self.device).to(memory_format=torch.channels_last)
        plan = Plan(
            config=config,
            method=METHODS[method](**METHODS.bind(method, {})),
            inner=Inner(make_threat("Linf", "8/255"), self.arguments.attack_steps, 0.25, True, "eval"),
            data=self.data,
            spec=ModelSpec(arch=config.arch.name, params={}, **self.spec),
            augment=self.augment,
            device=self.device,
            peak_lr=0.05,
        )
        optimizer = OPTIMIZERS[plan.method.optimizer](model.parameters(), lr=0.05)
        state = TrainState.fresh(model, optimizer, ema=0.0)
        notes: list[str] = []
        step = Step(plan, state, Notes(name, notes), execution)

        def work(x_NCHW: Tensor, y_N: Tensor, position: int) -> None:
            step(x_NCHW, y_N, position, 0.05)

        def loss() -> float:
            return float(state.totals[1] / state.totals[0])

        return Contestant(name, plan.method.passes(plan.inner), work, loss, notes=notes)

    def public(self, loop: PublicLoop) -> Contestant:
        layout = torch.channels_last if loop.channels_last else torch.contiguous_format
        model = copy.deepcopy(self.model).to(self.device).to(memory_format=layout).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        generator = torch.Generator(self.device)
        last: list[Tensor] = [torch.zeros(())]

        def work(x_NCHW: Tensor, y_N: Tensor, position: int) -> None:
            torch.backends.cudnn.benchmark = True
            generator.manual_seed(position)
            x_NCHW = self.augment(x_NCHW, y_N, generator).x_NCHW.contiguous(memory_format=layout)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=loop.autocast):
                loss = loop.loss(model, x_NCHW, y_N, self.arguments.attack_steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last[0] = loss.detach()
            if loop.waits:
                float(last[0])

        against = "ours-trades" if loop.name.startswith("trades") else "ours"
        steps = self.arguments.attack_steps
        return Contestant(loop.name, loop.cost(steps), work, lambda: float(last[0]), against=against)

    def run(self, contestant: Contestant, first: int, steps: int) -> float:
        """Seconds per step."""
        order = torch.arange(len(self.data.train)).split(self.arguments.batch_size)
        batches = [order[(first + i) % len(order)] for i in range(steps)]
        started = now(self.device)
        for i, (x_NCHW, y_N) in enumerate(self.data.train.batches(batches, self.device)):
            contestant.step(x_NCHW, y_N, first + i)
        return (now(self.device) - started) / steps

    def warm_up(self, contestant: Contestant) -> None:
        """Everything that happens once; also the memory that one contestant needs."""
        cuda = self.device.type == "cuda"
        steps = FREE_STEPS + 2 if cuda else 1
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        contestant.prepared = steps * self.run(contestant, 0, steps)
        if cuda:
            contestant.peak_gb = (torch.cuda.max_memory_allocated() - before) / 1e9
        print(f"{contestant.name}: ready after {contestant.prepared:.1f} s", file=sys.stderr, flush=True)


def contestants(race: Race, arguments: argparse.Namespace) -> list[tuple[str, Callable[[], Contestant]]]:
    """Names and how to make them, in the order in which they run."""
    made: list[tuple[str, Callable[[], Contestant]]] = [("ours", lambda: race.ours("ours", "pgd-at", Execution()))]
    for text in arguments.ours:
        made.append((f"ours {text}", lambda text=text: race.ours(f"ours {text}", "pgd-at", Execution.parse(text))))
    if arguments.ours_methods:
        for method in arguments.ours_methods.split(","):
            made.append((f"ours-{method}", lambda m=method: race.ours(f"ours-{m}", m, Execution())))
    for loop in PUBLIC_LOOPS:
        if loop.name != "amp" or race.device.type == "cuda":
            made.append((loop.name, lambda loop=loop: race.public(loop)))
    if arguments.only:
        wanted = arguments.only.split(",")
        made = [(name, make) for name, make in made if name in wanted or name.partition(" ")[0] in wanted]
    return made


def measure(race: Race, arguments: argparse.Namespace, results: list[Contestant]) -> None:
    """Warm each up, then let them take turns; whoever raises is out."""
    for name, make in contestants(race, arguments):
        try:
            contestant = make()
            race.warm_up(contestant)
            results.append(contestant)
        except Exception as error:
            traceback.print_exc()
            print(f"{name}: out of the race: {type(error).__name__}", file=sys.stderr, flush=True)
    block = max(1, arguments.steps // arguments.rounds)
    for turn in range(arguments.rounds):
        for contestant in results:
            try:
                contestant.blocks.append(race.run(contestant, 10 + turn * block, block))
            except Exception:
                traceback.print_exc()
