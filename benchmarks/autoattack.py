"""AutoAttack, deatbench's own beside pyautoattack's: the same images in the same process, in turn.

    python -m benchmarks.autoattack --nets abc_resnet2b,digits_vgg16 --n 64

Both get one seed and one batch size. Their random draws differ, so that a few verdicts may; they are counted.
Usage and what we expect: benchmarks/NOTES.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console

from benchmarks.autoattack_tables import show
from benchmarks.engines import ENGINES, SETTINGS, Outcome, Task
from benchmarks.measuring import machine, results_file, timed, write
from benchmarks.nets import NETS, Net, Places, given
from deatbench.attacks.autoattack import STANDARD
from deatbench.engine.environment import choose_device
from deatbench.engine.search import Precision
from deatbench.errors import ConfigError, DeatbenchError, MissingError
from deatbench.threats import make_threat

SHOWN = ("batch_size", "rows", "precision", "compile", "certificates", "rounds", "seed")


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        figures = measure(arguments)
    except DeatbenchError as error:
        print(f"error: {error.message}. {error.hint or ''}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(figures, indent=1))
    show(figures, Console(stderr=arguments.json, width=None if sys.stdout.isatty() else 160))
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures; written to the results file after each round, so that an end by force keeps the rounds before."""
    device = choose_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    places = Places(
        device, arguments.models, arguments.data, arguments.train_steps, arguments.width, arguments.keep_model
    )
    figures: dict[str, Any] = {
        "benchmark": "autoattack",
        "machine": machine(device),
        "settings": {key: getattr(arguments, key) for key in (*SHOWN, *SETTINGS)},
        "nets": [],
        "skipped": {},
    }
    out = arguments.out or results_file("autoattack", device)
    for name in _names(arguments):
        try:
            net = _net(name, arguments, places)
        except MissingError as error:
            figures["skipped"][name] = error.message
            continue
        for suite in _suites(arguments):
            task = _task(net, suite, arguments, device)
            figures["nets"].append(_report(net, task))
            _measure_rounds(figures["nets"][-1], task, arguments.rounds, lambda: write(out, figures))
    write(out, figures)
    print(f"figures: {os.path.relpath(out)}", file=sys.stderr)
    return figures


def _suites(arguments: argparse.Namespace) -> list[tuple[str, ...]]:
    """What is timed on each network: the whole suite, some members as a suite, or members one by one."""
    if arguments.members is None:
        return [STANDARD]
    members = tuple(arguments.members.split(","))
    for name in set(members) - set(STANDARD):
        raise ConfigError(f"no member {name!r} of AutoAttack", ", ".join(STANDARD))
    return [members] if arguments.together else [(name,) for name in members]


def _names(arguments: argparse.Namespace) -> list[str]:
    if arguments.nets is None:
        return list(NETS)
    names = arguments.nets.split(",")
    for name in set(names) - NETS.keys():
        raise ConfigError(f"no net {name!r}", ", ".join(NETS))
    return names


def _net(name: str, arguments: argparse.Namespace, places: Places) -> Net:
    if name == "resnet18" and arguments.model:
        return given(arguments.model, arguments.eps, places)
    net = NETS[name](places)
    return dataclasses.replace(net, eps=arguments.eps or net.eps)


def _report(net: Net, task: Task) -> dict[str, Any]:
    """What is known about a network before it is attacked, and what warming both up cost."""
    warm_up = dataclasses.replace(task, steps=min(2, task.steps), queries=min(4, task.queries))
    return {
        "net": net.name,
        "about": net.about,
        "eps": net.eps,
        "n": len(task.images),
        "members": list(task.members),
        "warm_up_seconds": {
            name: round(timed(partial(run, warm_up), task.device)[0], 3) for name, run in ENGINES.items()
        },
        "rounds": [],
    }


def _measure_rounds(report: dict[str, Any], task: Task, rounds: int, save: Callable[[], None]) -> None:
    """Both engines in the order A B A B; `save` is called after each round."""
    verdicts: dict[str, Outcome] = {}
    for number in range(1, rounds + 1):
        for name, run in ENGINES.items():
            print(f"{report['net']}: round {number} of {rounds}, {name}", file=sys.stderr)
            verdicts[name] = run(task)
            report["rounds"].append({"round": number, "engine": name, **_figures(verdicts[name])})
        report |= _summary(report["rounds"], verdicts)
        save()


def _task(net: Net, members: tuple[str, ...], arguments: argparse.Namespace, device: torch.device) -> Task:
    n = min(arguments.n or net.usual_n, len(net.images))
    return Task(
        module=net.module,
        images=net.images.subset(torch.arange(n)),
        threat=make_threat("Linf", net.eps),
        device=device,
        members=members,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        rows=arguments.rows,
        precision=arguments.precision,
        compiled=arguments.compile,
        certificates=arguments.certificates,
        steps=arguments.steps,
        queries=arguments.queries,
    )


def _figures(done: Outcome) -> dict[str, Any]:
    return {
        "seconds": round(done.seconds, 3),
        "clean_acc": float(done.clean_N.mean()),
        "robust_acc": float(done.robust_N.mean()),
        "survivors": int(done.robust_N.sum()),
        "member_seconds": done.member_seconds,
        "robust_after": done.robust_after,
        "proved": done.proved,
        "proof_seconds": done.proof_seconds,
    }


def _summary(rounds: list[dict[str, Any]], last: dict[str, Outcome]) -> dict[str, Any]:
    """Medians over the rounds; verdicts that differ between the two, and within one between its rounds."""
    seconds = {name: statistics.median(r["seconds"] for r in rounds if r["engine"] == name) for name in ENGINES}
    survivors = {name: int(done.robust_N.sum()) for name, done in last.items()}
    return {
        "clean_acc": float(last["deatbench"].clean_N.mean()),
        "robust_acc": {name: float(done.robust_N.mean()) for name, done in last.items()},
        "verdicts_differ": int(np.sum(last["deatbench"].robust_N != last["pyautoattack"].robust_N)),
        "same_in_all_rounds": {
            name: len({r["robust_acc"] for r in rounds if r["engine"] == name}) == 1 for name in ENGINES
        },
        "seconds": seconds,
        "seconds_per_survivor": {
            name: seconds[name] / survivors[name] if survivors[name] else None for name in ENGINES
        },
        "ratio": seconds["pyautoattack"] / seconds["deatbench"],
    }


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoattack", description=__doc__)
    add = parser.add_argument
    add("--nets", help=f"comma-separated, of: {', '.join(NETS)}; all by default")
    add("--model", help="a MODEL argument in place of the briefly trained resnet18")
    add("--n", type=int, help="images, from the start of the test split; by default what suits each net on a CPU")
    add("--eps", help="L-infinity radius, such as 8/255; by default each net's own")
    add("--members", help=f"time these one by one, each from all correct images: {','.join(STANDARD)}")
    add("--together", action="store_true", help="the --members as one suite, each on the survivors of those before")
    add("--batch-size", type=int, default=250, help="pyautoattack's, in images; 250 is its default")
    add("--rows", type=int, default=500, help="ours: images, or (image, target) pairs, worked on at once")
    add("--precision", choices=get_args(Precision), default="fp32", help="of our search; verdicts are fp32")
    add("--compile", action="store_true", help="our search through torch.compile")
    add("--no-certificates", dest="certificates", action="store_false", help="ours attacks also what a bound proves")
    add("--rounds", type=int, default=2, help="each round runs both, ours first")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="auto, cpu, cuda")
    add("--threads", type=int, help="torch's threads")
    add("--models", type=Path, help="folder of the small networks' weights")
    add("--data", type=Path, help="folder of CIFAR-10")
    add("--train-steps", type=int, default=48, help="adversarial steps of the briefly trained resnet18")
    add("--width", type=float, default=1.0, help="width of the briefly trained resnet18")
    add("--keep-model", type=Path, help="keep the briefly trained network here, for --model next time")
    add("--steps", type=int, default=SETTINGS["steps"], help="shorter APGD and FAB, to rehearse")
    add("--queries", type=int, default=SETTINGS["queries"], help="shorter Square, to rehearse")
    add("--json", action="store_true", help="figures on stdout, tables on stderr")
    add("--out", type=Path, help="results file; by default a new one under benchmarks/results/")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
