"""Our training step against the public loops: same network, batch and number of attack steps, one process, A B A B.

    python -m benchmarks.training --device cuda --out training.json
    python -m benchmarks.training --device cuda --only ours,amp --ours "compile=off" --ours "graph=off"
    python -m benchmarks.training --quick

The table comes last. Preparation (compiling, capturing, choosing algorithms) is measured apart. One contestant that
breaks leaves the others alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import machine, write
from benchmarks.race import EPOCH, Contestant, Race, measure
from deatbench.engine.environment import hardware_name


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
        "images": arguments.images,
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
        f"{document['arch']}, {document['images']}, batch {document['batch_size']}, PGD-{document['attack_steps']}, "
        f"{document['hardware']}"
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
    parser.add_argument("--images", choices=("cifar", "digits"), default="cifar", help="3x32x32 or 1x8x8, random")
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
