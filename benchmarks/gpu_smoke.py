"""The first minute on a new machine: are gradients right, and how fast are passes? Fits into 90 seconds of GPU time.

    python -m benchmarks.gpu_smoke --out smoke.json
    python -m benchmarks.gpu_smoke --device cpu --quick

One part that breaks leaves the others alone. Exits 1 if a check fails.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gradients import ARCHS, Check, network, tf32
from benchmarks.measuring import machine, write
from benchmarks.throughput import FORMS, PRECISIONS, Passes, first_conv_ms, matmul_tflops, seconds_each
from deatbench.archs.build import count_flops
from deatbench.engine.environment import choose_device
from deatbench.errors import DeatbenchError

SAME_GRADIENT = 1e-2  # relative; a ReLU whose input rounds across 0 costs more than rounding: 3e-3 seen, TF32 5e-2
SAME_LOGITS = 1e-4
SIGNS = {"tf32": 0.93, "bf16": 0.75}  # of noise images and random weights


@dataclass(frozen=True)
class Line:
    """One line of the table: PASS, FAIL, SKIP or, for what is only measured, nothing."""

    part: str
    what: str
    value: str
    verdict: str = ""
    figure: float | None = None


class Smoke:
    """The parts, in order of importance: what is cut off when time is up is what matters least."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.device, self.quick = device, arguments.quick
        self.width = 0.125 if self.quick else 1.0
        self.batches = [8] if self.quick else [int(size) for size in arguments.batches.split(",")]
        self.compiled = arguments.compile.split(",") if arguments.compile else []
        self.deadline = time.monotonic() + arguments.budget

    def parts(self) -> list[tuple[str, Callable[[], Iterator[Line]]]]:
        return [
            ("gradients", self.gradients),
            ("peak", self.peak),
            ("first convolution", self.first_convolution),
            ("graph", self.graph),
            ("throughput", self.throughput),
        ]

    def gradients(self) -> Iterator[Line]:
        for arch in ARCHS:
            check = Check(arch, self.device, self.width, 8 if self.quick else 64)
            yield _below("gradients", f"{arch}: float32 against float64", check.against_float64(), SAME_GRADIENT)
            yield _below("gradients", f"{arch}: folded logits", check.folding_error(), SAME_LOGITS)
            if self.device.type == "cuda":
                yield _above("gradients", f"{arch}: signs kept in tf32", check.signs_in_tf32(), SIGNS["tf32"])
            yield _above("gradients", f"{arch}: signs kept in bf16", check.signs_in_bf16(), SIGNS["bf16"])

    def peak(self) -> Iterator[Line]:
        size = 512 if self.quick else 8192
        found = matmul_tflops(self.device, size)
        yield Line("peak", f"matmul {size}³", f"{found:.2f} TFLOP/s", figure=found)

    def first_convolution(self) -> Iterator[Line]:
        batch = 8 if self.quick else 512
        for channels in (3, 4, 8):
            found = first_conv_ms(self.device, channels, batch)
            yield Line(
                "first conv", f"input gradient, {channels} channels, batch {batch}", f"{found:.3f} ms", "", found
            )

    def graph(self) -> Iterator[Line]:
        """A replayed graph gives the gradient that eager execution gives."""
        if self.device.type != "cuda":
            yield Line("graph", "gradient of a replayed graph", "no CUDA", "SKIP")
            return
        with tf32(False):
            passes = Passes(network("resnet18", self.width), 32, "fp32", True, self.device)
            expected, replay = passes.gradient(), passes.in_form("graph", "gradient")
            passes.x.copy_(torch.rand_like(passes.x))
            fresh, found = passes.gradient(), replay()
            error = float((found - fresh).norm() / fresh.norm())
            moved = float((fresh - expected).norm()) > 0
        yield _below("graph", "replay on new images against eager", error if moved else float("inf"), SAME_GRADIENT)

    def throughput(self) -> Iterator[Line]:
        net = network("resnet18", self.width)
        flops = count_flops(net, (1, 3, 32, 32))
        for batch, precision, form, folded in self._plans():
            name = f"resnet18 batch {batch} {precision} {form}{' folded' if folded else ''}"
            if time.monotonic() > self.deadline:
                yield Line("throughput", name, "not measured: out of time", "SKIP")
                continue
            try:
                yield from self._speed(name, net, flops, batch, precision, form, folded)
            except Exception as error:
                yield Line("throughput", name, _first_line(error), "FAIL")

    def _plans(self) -> list[tuple[int, str, str, bool]]:
        """Batch, precision, form, folded. Compiling takes seconds each: only where asked for, and last."""
        cuda = self.device.type == "cuda"
        precisions = [name for name in PRECISIONS if cuda or name == "fp32"]
        forms = [form for form in FORMS if form == "eager" or (form == "graph" and cuda)]
        plans = [
            (batch, precision, form, folded)
            for precision in precisions
            for form in forms
            for folded in (True, False)
            for batch in self.batches
        ]
        return plans + [(self.batches[len(self.batches) // 2], name, "compile", True) for name in self.compiled]

    def _speed(
        self, name: str, net: torch.nn.Module, flops: int, batch: int, precision: str, form: str, folded: bool
    ) -> Iterator[Line]:
        with tf32(precision == "tf32"):
            passes = Passes(copy.deepcopy(net), batch, precision, folded, self.device)
            for work, cost in (("forward", flops), ("gradient", 2 * flops)):
                if form == "compile" and work == "forward":
                    continue  # compiled anew without gradients: seconds that are better spent
                started = time.perf_counter()
                call = passes.in_form(form, work)
                call()
                first = time.perf_counter() - started
                rate = batch / seconds_each(call, self.device)
                compiled = f", first call {first:.1f} s" if form == "compile" else ""
                text = f"{rate:,.0f} images/s, {rate * cost / 1e12:.2f} TFLOP/s{compiled}"
                yield Line("throughput", f"{name}: {work}", text, figure=rate)


def _below(part: str, what: str, value: float, bound: float) -> Line:
    return Line(part, what, f"{value:.1e} (at most {bound:g})", "PASS" if value <= bound else "FAIL", value)


def _above(part: str, what: str, value: float, bound: float) -> Line:
    return Line(part, what, f"{value:.2%} (at least {bound:.0%})", "PASS" if value >= bound else "FAIL", value)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def run(smoke: Smoke) -> list[Line]:
    """Every part's lines; one that breaks is one failed line, its traceback on stderr."""
    lines: list[Line] = []
    for name, part in smoke.parts():
        started = time.monotonic()
        try:
            lines.extend(part())
        except Exception as error:
            traceback.print_exc()
            lines.append(Line(name, "broke", _first_line(error), "FAIL"))
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    return lines


def show(lines: list[Line], facts: dict[str, object]) -> None:
    table = Table(title=f"{facts['hardware']}, torch {facts['torch']}, deatbench {facts['git']}, {facts['date']}")
    for heading in ("part", "what", "found", ""):
        table.add_column(heading, no_wrap=True)
    for line in lines:
        table.add_row(line.part, line.what, line.value, line.verdict)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_smoke", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="width 0.125, batch 8: a rehearsal")
    parser.add_argument("--batches", default="128,512,2048", help="batch sizes of the throughput part")
    parser.add_argument("--compile", default="bf16,fp32", help="precisions measured compiled, at the middle batch")
    parser.add_argument("--budget", type=float, default=75.0, help="seconds after which no new speed is measured")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args(argv)
    try:
        device = choose_device(arguments.device)
    except DeatbenchError as error:
        print(f"error: {error.message}. {error.hint or ''}", file=sys.stderr)
        return 2
    facts, lines = machine(device), run(Smoke(arguments, device))
    if arguments.out:
        figures = {"benchmark": "gpu_smoke", "machine": facts, "lines": [asdict(line) for line in lines]}
        write(arguments.out, figures)
    show(lines, facts)
    return 1 if any(line.verdict == "FAIL" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
