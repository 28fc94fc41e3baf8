"""The figures of the AutoAttack measurement as tables."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.engines import ENGINES, SETTINGS
from deatbench.attacks.autoattack import STANDARD


def show(figures: dict[str, Any], console: Console) -> None:
    """The tables, last of all that is printed."""
    facts, settings = figures["machine"], figures["settings"]
    shortened = "" if {key: settings[key] for key in SETTINGS} == SETTINGS else "  SHORTENED: not AutoAttack"
    console.print(
        f"{facts['hardware']}, {facts['cores']} cores; torch {facts['torch']}, "
        f"pyautoattack {facts['packages'].get('pyautoattack')}, deatbench {facts['git']}; {facts['date']}; "
        f"ours: {settings['rows']} rows, {settings['precision']}{', compiled' if settings['compile'] else ''}"
        f"{'' if settings['certificates'] else ', no certificates'}; "
        f"pyautoattack: batches of {settings['batch_size']}{shortened}"
    )
    console.print(_suite_table(figures), _member_table(figures))
    for name, reason in figures["skipped"].items():
        console.print(f"{name}: not measured: {reason}", soft_wrap=True)


def _suite_table(figures: dict[str, Any]) -> Table:
    table = Table(title="ours / pyautoattack")
    for heading in ("net", "members", "eps", "n", "clean", "robust", "proved", "verdicts differ"):
        table.add_column(heading)
    for heading in ("s, each round", "s per survivor", "ratio", "warm-up s"):
        table.add_column(heading, justify="right")
    for net in figures["nets"]:
        a, b = ENGINES
        each = {name: " ".join(f"{r['seconds']:.2f}" for r in net["rounds"] if r["engine"] == name) for name in ENGINES}
        per = {name: "-" if (s := net["seconds_per_survivor"][name]) is None else f"{s:.3f}" for name in ENGINES}
        table.add_row(
            net["net"],
            "standard" if net["members"] == list(STANDARD) else " ".join(net["members"]),
            net["eps"],
            str(net["n"]),
            f"{net['clean_acc']:.2%}",
            f"{net['robust_acc'][a]:.2%} / {net['robust_acc'][b]:.2%}",
            next(str(r["proved"]) for r in reversed(net["rounds"]) if r["engine"] == a),
            str(net["verdicts_differ"]),
            f"{each[a]} / {each[b]}",
            f"{per[a]} / {per[b]}",
            f"{net['ratio']:.2f}",
            f"{net['warm_up_seconds'][a]:.1f} / {net['warm_up_seconds'][b]:.1f}",
        )
    return table


def _member_table(figures: dict[str, Any]) -> Table:
    table = Table(title="member by member: median seconds, robust accuracy after it")
    for heading in ("net", "member", "ours s", "pyautoattack s", "ratio", "ours", "pyautoattack"):
        table.add_column(heading)
    for net in figures["nets"]:
        for member in net["members"]:
            cells = {}
            for name in ENGINES:
                mine = [r for r in net["rounds"] if r["engine"] == name and member in r["member_seconds"]]
                cells[name] = (
                    (statistics.median(r["member_seconds"][member] for r in mine), mine[-1]["robust_after"][member])
                    if mine
                    else None
                )
            (a, b) = (cells[name] for name in ENGINES)
            table.add_row(
                net["net"],
                member,
                f"{a[0]:.2f}" if a else "nothing left",
                f"{b[0]:.2f}" if b else "nothing left",
                f"{b[0] / a[0]:.2f}" if a and b and a[0] else "-",
                f"{a[1]:.2%}" if a else "-",
                f"{b[1]:.2%}" if b else "-",
            )
    return table
