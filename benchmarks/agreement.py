"""Verdict for verdict: our AutoAttack with pyautoattack's draws against pyautoattack, image by image.

    python -m benchmarks.agreement --n 1000 --progress FOLDER

Both run under the evaluation loop with the same seed and batches, each member on the survivors of the one before. With
`--progress` a stopped comparison goes on where it was. A third column runs our own draws: there the verdicts are those
of other random numbers, and only the accuracies should agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import machine, results_file, write
from benchmarks.nets import NETS, Net, Places
from deatbench.attacks.autoattack import AutoAttack
from deatbench.engine.environment import choose_device
from deatbench.engine.evaluate import Evaluation, Settings, evaluate
from deatbench.engine.progress import Progress, SavedProgress
from deatbench.errors import DeatbenchError
from deatbench.threats import make_threat

SMALL = "abc_resnet2b,sdp_cifar_cnn_a_adv,kw_scaled_cifar_small_8px"
SIDES = {
    "published": ("reference", "own"),
    "ours, its draws": ("fast", "published"),
    "ours, own draws": ("fast", "own"),
}


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    device = choose_device(arguments.device)
    figures: dict[str, Any] = {"benchmark": "agreement", "machine": machine(device), "nets": []}
    path = arguments.out or results_file("agreement", device)
    try:
        for name in arguments.nets.split(","):
            net = NETS[name](Places(device, arguments.models, arguments.data))
            figures["nets"].append(compare(net, arguments, device))
            write(path, figures)
    except DeatbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        show(figures)
    return 0


def compare(net: Net, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Verdicts of each side on the first n images: accuracy after each member, and how many images differ."""
    images = net.images.subset(torch.arange(min(arguments.n, len(net.images))))
    threat = make_threat(arguments.norm, arguments.eps or net.eps)
    sides: dict[str, Evaluation] = {}
    for side in (side for side in SIDES if side in arguments.sides.split(";")):
        engine, draws = SIDES[side]
        settings = Settings(arguments.seed, arguments.batch_size, draws=draws)  # type: ignore[arg-type]
        attack = AutoAttack(engine)  # type: ignore[arg-type]
        key = {"net": net.name, "n": len(images), "threat": threat.record().slug, "side": side, "of": str(settings)}
        progress = SavedProgress(arguments.progress / f"{net.name}-{side}", key) if arguments.progress else Progress()
        sides[side] = evaluate(net.module, images, threat, [attack], settings, device=device, progress=progress)
        print(f"{net.name}: {side}: {100 * sides[side].robust['autoattack'].mean():.2f} %", file=sys.stderr, flush=True)
    expected = sides["published"].robust["autoattack"]
    return {
        "net": net.name,
        "n": len(images),
        "threat": threat.record().slug,
        "clean": float(sides["published"].clean_N.mean()),
        "after": {side: {part.name: part.robust_after for part in done.attacks} for side, done in sides.items()},
        "seconds": {side: {part.name: part.seconds for part in done.attacks} for side, done in sides.items()},
        "differ": {side: int(np.sum(done.robust["autoattack"] != expected)) for side, done in sides.items()},
    }


def show(figures: dict[str, Any]) -> None:
    """A row per network and side."""
    table = Table(title="AutoAttack standard, robust accuracy in percent after each member")
    columns = ("network", "n", "engine", "clean", "APGD-CE", "APGD-T", "FAB-T", "Square", "images that differ")
    for column in columns:
        table.add_column(column)
    for net in figures["nets"]:
        for side, after in net["after"].items():
            shares = (f"{100 * share:.2f}" for share in (net["clean"], *after.values()))
            table.add_row(net["net"], str(net["n"]), side, *shares, str(net["differ"][side]))
    Console().print(table)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=SMALL)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--eps", help="instead of the network's own")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", default=";".join(SIDES), help="which engines, with semicolons")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--progress", type=Path, help="folder where verdicts are kept as they come")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
