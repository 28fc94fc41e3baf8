"""What Square gains where only a window's part of the first layers is computed: our attack with and without, A B A B.

python -m benchmarks.square                                # the networks at hand, one CPU thread
python -m benchmarks.square --nets resnet18 --n 4 --queries 2000
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gradients import images, network
from benchmarks.measuring import machine, results_file, timed, write
from benchmarks.nets import Places, small
from deatbench.attacks.gradient import SearchForm
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square import Square
from deatbench.engine import nearby
from deatbench.engine.nearby import neighbours
from deatbench.engine.shadow import AttackForm
from deatbench.errors import MissingError
from deatbench.threats import make_threat

CPU = torch.device("cpu")
SMALL = ("kw_scaled_cifar_small_8px", "sdp_cifar_cnn_a_adv", "abc_resnet2b")
SEEDED = ("resnet18", "preact_resnet18", "vgg16")  # seeded weights on noise images: what passes cost, no accuracy
SEEDED_EPS = "0.002"  # so small that most images stand to the end


def subject(name: str, n: int, places: Places) -> tuple[nn.Module, Tensor, Tensor, str]:
    """A network in eval mode, images that it takes for their labels, and the radius."""
    if name in SMALL:
        net = small(name, places)
        (x, y) = next(iter(net.images.batches([torch.arange(8 * n)], CPU)))
        module, eps = net.module, net.eps
    else:
        module, eps = network(name), SEEDED_EPS
        x, _ = images(n)
        y = module(x).argmax(1)
    right = torch.nonzero(module(x).argmax(1) == y)[:n, 0]
    return module, x[right], y[right], eps


@torch.no_grad()
def measured(name: str, n: int, queries: int, rounds: int, places: Places) -> dict[str, Any]:
    """Seconds of each round, their ratio, and on how many images the two ways end apart."""
    module, x, y, eps = subject(name, n, places)
    cheap = AttackForm(module)
    forms = {"whole": SearchForm(cheap, module), "windows": SearchForm(cheap, module)}
    forms["windows"].near = partial(neighbours, cheap, count=lambda images: None)
    attack, threat = Square(queries=queries), make_threat("Linf", eps)
    seconds: dict[str, list[float]] = {way: [] for way in forms}
    broken: dict[str, Tensor] = {}
    for form in forms.values():  # warmed up
        Square(queries=20)(form, x, y, threat, ExampleRng(0, torch.arange(len(x)), "square/0", 0))
    for _ in range(rounds):
        for way, form in forms.items():
            rng = ExampleRng(0, torch.arange(len(x)), "square/0", 0)
            spent, x_adv = timed(partial(attack, form, x, y, threat, rng), CPU)
            seconds[way].append(round(spent, 3))
            broken[way] = module(x_adv).argmax(1) != y
    return {
        "net": name,
        "eps": eps,
        "n": len(x),
        "queries": queries,
        "survivors": int((~broken["whole"]).sum()),
        "verdicts_that_differ": int((broken["whole"] != broken["windows"]).sum()),
        "seconds": seconds,
        "ratio": statistics.median(seconds["whole"]) / statistics.median(seconds["windows"]),
    }


def main() -> None:
    """Measure, print a line per network, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join((*SMALL, *SEEDED)))
    parser.add_argument("--n", type=int, help="images (default: 40 for small networks, 2 for others)")
    parser.add_argument("--queries", type=int, help="(default: 5000 for small networks, 1500 for others)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--least-saved", type=int, default=nearby.LEAST_SAVED, help="see deatbench/engine/nearby.py")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    nearby.LEAST_SAVED = asked.least_saved
    figures: dict[str, Any] = {"benchmark": "square", "machine": machine(CPU), "nets": []}
    path = asked.out or results_file("square", CPU)
    for name in asked.nets.split(","):
        few = name not in SMALL
        try:
            found = measured(
                name,
                asked.n or (2 if few else 40),
                asked.queries or (1500 if few else 5000),
                asked.rounds,
                Places(CPU, models=asked.models, data=asked.data),
            )
        except MissingError as error:
            found = {"net": name, "not_measured": str(error)}
        figures["nets"].append(found)
        write(path, figures)
        if not asked.json:
            print(found.get("not_measured") or f"{name}: {found['ratio']:.2f} x, {found['seconds']}")
    if asked.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
