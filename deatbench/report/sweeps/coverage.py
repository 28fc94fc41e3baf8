"""What every report says of its sweep: how much of it is done, what failed, how it was measured, and all its data."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from deatbench.records import SweepResult
from deatbench.report.escape import plain
from deatbench.report.metrics import describe, place
from deatbench.report.setups import inner_attack, setting
from deatbench.report.sweeps.cells import CHECKPOINTS
from deatbench.report.sweeps.document import Data, Section, Value
from deatbench.report.sweeps.reading import Swept
from deatbench.report.wording import NORMS, duration

NAMED = 50  # missing runs that are named on the page


def in_a_line(sweep: Swept) -> str:
    """`45 of 48 runs finished, 1 failed; 3.2 h of training on …`."""
    done = f"{len(sweep.results):,}" + (f" of {len(sweep.planned):,}" if sweep.planned else "")
    words = f"{done} {'run' if len(sweep.results) == 1 else 'runs'} finished"
    words += f", {len(sweep.failed)} failed" if sweep.failed else ""
    machines = ", ".join(sorted({plain(each.hardware, 60) for each in sweep.results}))
    spent = sum(each.seconds for each in sweep.results)
    return f"{words}; {duration(spent)} of training on {machines}" if sweep.results else words


def missing_section(sweep: Swept) -> Section:
    """Whatever is not in the numbers, by name."""
    if not sweep.planned:
        return Section("What is missing", ("There is no plan beside the results, so nobody can say what is missing.",))
    missing = sweep.missing
    if not missing:
        words = f"Nothing: all {len(sweep.planned):,} planned runs are finished."
        return Section("What is missing", (words,))
    items = [f"{_named(sweep, run_id)}: {_why(sweep, run_id)}" for run_id in missing]
    failed = sum(run_id in sweep.failed for run_id in missing)
    words = (
        f"{len(missing):,} of {len(sweep.planned):,} planned runs have no result: {failed:,} failed, "
        f"{len(missing) - failed:,} not finished. No number above has them in it; the same command does them."
    )
    more = (f"and {len(missing) - NAMED:,} more, named in the data",) if len(missing) > NAMED else ()
    rows: list[tuple[Value, ...]] = [
        (run_id, " / ".join(sweep.planned[run_id]), _why(sweep, run_id)) for run_id in missing
    ]
    data = Data("missing", ("run", "point", "why"), rows)
    return Section("What is missing", (words,), (*items[:NAMED], *more), data=(data,))


def _named(sweep: Swept, run_id: str) -> str:
    return f"{plain(run_id, 100)} ({plain(' / '.join(sweep.planned[run_id]), 120)})"


def _why(sweep: Swept, run_id: str) -> str:
    return f"failed: {plain(sweep.failed[run_id], 200)}" if run_id in sweep.failed else "not finished"


def measured_section(sweep: Swept) -> Section:
    """How it was measured, flags, and the table of all runs as data."""
    found = sweep.results
    text = [_protocol(found), _spent(found)] if found else []
    return Section("How it was measured", tuple(text), tuple(_flags(found)), data=(_runs(found),))


def _protocol(found: Sequence[SweepResult]) -> str:
    data = sorted(
        {
            f"{plain(each.dataset.name, 40)}, {NORMS[each.threat.norm]} ε = {plain(each.threat.eps_text, 20)}"
            for each in found
        }
    )
    attacks = sorted({name for each in found for of in each.weights.values() for name in of.samples.robust}, key=place)
    images = sorted({of.samples.n for each in found for of in each.weights.values()})
    trained = sorted({inner_attack(each.config) for each in found})
    epochs = sorted({setting(each.config.get("epochs", "?")) for each in found})
    return (
        f"{'; '.join(data)}. Tested on {_span(images)} test images under "
        f"{', '.join(plain(describe(name).title, 40) for name in attacks) or 'no attack'}; trained for "
        f"{', '.join(epochs)} epochs against {', '.join(trained)}. Best weights are those of the epoch with the "
        "highest robust accuracy on validation images held out from the training images; last weights are those of "
        "the last epoch. Means are over seeds, ± is their standard deviation. Tests on the same images: McNemar's for "
        "one run each, for several seeds a t-test over images and seeds; two-sided, 5 %."
    )


def _spent(found: Sequence[SweepResult]) -> str:
    seconds = [each.seconds for each in found]
    attacked = sum(sum({of.model_dump_json(): of.seconds for of in each.weights.values()}.values()) for each in found)
    versions = ", ".join(sorted({plain(each.torch, 40) for each in found}))
    threads = _span(sorted({each.threads for each in found}))
    threads = f"{threads} CPU {'thread' if threads == '1' else 'threads'} each"
    return (
        f"{len(found):,} runs: {duration(sum(seconds))} of training ({duration(statistics.median(seconds))} for the "
        f"middle one) and {duration(attacked)} of attacks, {threads}, torch {versions}."
    )


def _span(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def _flags(found: Sequence[SweepResult]) -> list[str]:
    """Each flag with how many runs have it."""
    counts: Counter[str] = Counter()
    for each in found:
        flags = {flag.code for flag in (*each.flags, *(flag for of in each.weights.values() for flag in of.flags))}
        counts.update(flags)
    return [
        f"flagged {plain(code.replace('_', ' '), 60)}: {counts[code]:,} of {len(found):,} runs; their numbers are "
        "in all that stands above"
        for code in sorted(counts)
    ]


def _runs(found: Sequence[SweepResult]) -> Data:
    """A row per run, set of weights and accuracy."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        label = " / ".join(point.label for point in each.points)
        for weights in (name for name in CHECKPOINTS if name in each.weights):
            of = each.weights[weights]
            gap = of.generalisation.robust_gap if of.generalisation else None
            for name, metric in of.metrics.items():
                low, high = metric.ci95
                rows.append((each.run_id, label, weights, name, metric.value, metric.n, low, high, gap, each.seconds))
    head = ("run", "point", "weights", "metric", "value", "n", "ci95_low", "ci95_high", "robust_gap", "train_seconds")
    return Data("runs", head, rows)
