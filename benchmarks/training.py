"""Our training step against the public loops: same network, batch and number of attack steps, one process, A B A B.

    python -m benchmarks.training --device cuda --out training.json
    python -m benchmarks.training --device cuda --only ours,amp --ours "compile=off" --ours "graph=off"
    python -m benchmarks.training --quick

The table comes last. Preparation (compiling, capturing, choosing algorithms) is measured apart. One contestant that
breaks leaves the others alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measuring import machine, now, write
from benchmarks.public_loops import PUBLIC_LOOPS, PublicLoop
from deatbench.archs.build import build_arch, count_flops
from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.data.augment import augment
from deatbench.data.images import TensorImages
from deatbench.engine.environment import choose_device, hardware_name
from deatbench.engine.execution import Execution
from deatbench.engine.monitor import Monitor
from deatbench.engine.state import TrainState
from deatbench.engine.step import FREE_STEPS, Step
from deatbench.engine.train import Plan
from deatbench.methods import METHODS
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.records import ModelSpec
from deatbench.threats import make_threat

EPOCH = 49_000  # images: CIFAR-10 without 2 % for validation
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}


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
        self.model = build_arch(arguments.arch, num_classes=10, in_channels=3, image_size=32, **CIFAR, **self.params)
        self.flops = count_flops(self.model, (1, 3, 32, 32))
        n = 20 * arguments.batch_size
        split = TensorImages(torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (n,)))
        self.data = Dataset("random", tuple("0123456789"), (3, 32, 32), split, split, split, source="random", **CIFAR)
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
            spec=ModelSpec(arch=config.arch.name, params={}, num_classes=10, in_channels=3, image_size=32, **CIFAR),
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


def figures(race: Race, arguments: argparse.Namespace, results: list[Contestant]) -> dict[str, Any]:
    """All that was measured: {ratios, gflops, hardware, rows, ...}."""
    best = {c.name: min(c.blocks) for c in results if c.blocks}
    rows = []
    for c in results:
        if not c.blocks:
            continue
        rate = arguments.batch_size / best[c.name]
        rows.append(
            {
                "name": c.name,
                "seconds_per_step": best[c.name],
                "blocks": c.blocks,
                "images_per_second": rate,
                "forwards_per_image": c.cost,
                "tflops": rate * c.cost * race.flops / 1e12,
                "ratio": best[c.name] / best[c.against] if c.against in best else None,
                "seconds_per_epoch": EPOCH // arguments.batch_size * best[c.name],
                "prepared_seconds": c.prepared,
                "peak_gb": c.peak_gb,
                "loss": c.loss(),
                "notes": c.notes,
            }
        )
    return {
        "ratios": {row["name"]: row["ratio"] for row in rows if not str(row["name"]).startswith("ours")},
        "gflops": max((row["tflops"] for row in rows if row["name"] == "ours"), default=0.0) * 1e3,
        "hardware": hardware_name(race.device),
        "arch": arguments.arch,
        "width": arguments.width,
        "batch_size": arguments.batch_size,
        "attack_steps": arguments.attack_steps,
        "precision": race.precision,
        "forward_flop": race.flops,
        "rows": rows,
        "machine": machine(race.device),
    }


def table(document: dict[str, Any]) -> Table:
    """The figures for people."""
    title = (
        f"{document['arch']}, batch {document['batch_size']}, PGD-{document['attack_steps']}, {document['hardware']}"
    )
    shown = Table(title=title)
    for column in (
        "step by",
        "ms/step",
        "images/s",
        "F/image",
        "TFLOP/s",
        "× ours",
        "s/epoch",
        "ready s",
        "GB",
        "loss",
    ):
        shown.add_column(column, justify="left" if column == "step by" else "right", no_wrap=True)
    for row in document["rows"]:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        peak = f"{row['peak_gb']:.2f}" if row["peak_gb"] is not None else ""
        shown.add_row(
            row["name"],
            f"{row['seconds_per_step'] * 1e3:,.2f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['forwards_per_image']:g}",
            f"{row['tflops']:,.3f}",
            ratio,
            f"{row['seconds_per_epoch']:,.2f}",
            f"{row['prepared_seconds']:.1f}",
            peak,
            f"{row['loss']:.3f}",
        )
    return shown


def profile(race: Race, contestant: Contestant) -> None:
    """Where the device's time goes, kernel by kernel, in three steps."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if race.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as trace:
        race.run(contestant, 100, 3)
    key = "self_cuda_time_total" if race.device.type == "cuda" else "self_cpu_time_total"
    print(trace.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=70), file=sys.stderr)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="preact_resnet18")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each contestant")
    parser.add_argument("--rounds", type=int, default=2, help="turns that the measured steps are taken in")
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of our step")
    parser.add_argument("--ours", action="append", default=[], help='another form of our step: "compile=off graph=off"')
    parser.add_argument("--ours-methods", default="trades", help="our other methods, with commas")
    parser.add_argument("--only", default="", help="names of contestants, with commas")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: width 1/8, batch 16, 2 steps")
    parser.add_argument("--profile", action="store_true", help="also print where our step's time goes")
    parser.add_argument("--json", action="store_true", help="figures on stdout instead of the table")
    parser.add_argument("--out", type=Path, help="write the figures here too")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.width, arguments.batch_size, arguments.steps = 0.125, 16, 2
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    race, results = Race(arguments), []  # type: tuple[Race, list[Contestant]]
    started = time.perf_counter()
    try:
        measure(race, arguments, results)
    finally:
        document = figures(race, arguments, results)
        if arguments.out:
            write(arguments.out, document)
        if arguments.profile and results:
            profile(race, results[0])
        if arguments.json:
            print(json.dumps(document, indent=1))
        else:
            Console(width=150).print(table(document))
        print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    return 0 if results else 1


if __name__ == "__main__":
    sys.exit(main())
