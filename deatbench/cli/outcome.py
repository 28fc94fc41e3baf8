"""What `deatbench reproduce` says: what is otherwise here, what it may cost, what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from deatbench.cli.monitor import clock
from deatbench.cli.tables import TITLES, accuracy, print_table
from deatbench.errors import MismatchError
from deatbench.records import EvaluationRecord, Outcome, Reproduction

if TYPE_CHECKING:
    from deatbench.cli.forecast import Stage
    from deatbench.pipeline.reproduction import Difference


def say_differences(found: Sequence[Difference], record: EvaluationRecord) -> None:
    """What is otherwise than when the record was made, on stderr, and what that means."""
    for difference in found:
        print(f"note: {difference.what}: {difference.here} here, {difference.recorded} on record", file=sys.stderr)
    if found:
        print(f"note: so the very bits of {record.id} are not to be expected", file=sys.stderr)


def say_cost(stages: Sequence[Stage]) -> None:
    """How long it may take, on stderr."""
    if stages:
        print(f"note: about {_in_all(stages)} from the beginning, if nothing else runs here", file=sys.stderr)


def _in_all(stages: Sequence[Stage]) -> str:
    return clock(sum(stage.seconds for stage in stages))


def show_forecast(
    stages: Sequence[Stage], record: EvaluationRecord, found: Sequence[Difference], as_json: bool
) -> None:
    """Recipe and forecast on stdout: YAML whose comments are the forecast, or one JSON document."""
    if as_json:
        document = {
            "record": record.id,
            "differences": [asdict(difference) for difference in found],
            "stages": [asdict(stage) for stage in stages],
            "seconds": sum(stage.seconds for stage in stages),
        }
        print(json.dumps(document, indent=1))
        return
    from deatbench.config import dump_config
    from deatbench.pipeline.reproduction import recipe_of

    if record.training is not None:
        sys.stdout.write(dump_config(recipe_of(record)))
    print(f"# again: {record.id}")
    for stage in stages:
        print(f"# {stage.name}: {stage.passes:,} image passes ({stage.how}), about {clock(stage.seconds)}")
    if stages:
        print(f"# in all about {_in_all(stages)}: a forecast from a few steps; fooled images cost less")


def show_outcome(
    result: Reproduction,
    first: EvaluationRecord,
    second: EvaluationRecord,
    found: Sequence[Difference],
    as_json: bool,
) -> None:
    """Both results side by side, and the outcome in words. Raises MismatchError if they do not agree."""
    if as_json:
        extra = {"differences": [asdict(difference) for difference in found]}
        print(json.dumps(result.model_dump(mode="json") | extra, indent=1))
    else:
        rows = [
            [
                TITLES.get(name, name),
                accuracy(first.metrics[name]),
                accuracy(second.metrics[name]),
                f"{both.p_value:.2g}",
            ]
            for name, both in result.metrics.items()
        ]
        print_table(["accuracy", "on record", "again", "p"], rows)
    if result.outcome is Outcome.MISMATCH:
        raise MismatchError(f"{first.id} is not reproduced: {_words(result, first)}")
    if not as_json:
        print(f"{result.outcome.value}: {_words(result, first)}")


def _words(result: Reproduction, first: EvaluationRecord) -> str:
    weights = "the weights are the same" if result.same_weights else "the weights differ"
    if result.outcome is Outcome.MATCH:
        return f"all {1 + len(first.samples.robust)} x {first.samples.n:,} verdicts are equal, {weights}"
    name, least = min(result.metrics.items(), key=lambda item: item[1].p_value)
    moved = f"{name} by {100 * (least.repeated - least.recorded):+.1f} points, p = {least.p_value:.2g}"
    told = f"{weights}; the least likely of {len(result.metrics)} differences: {moved}"
    return told if result.outcome is Outcome.MISMATCH else f"no accuracy differs by more than chance, {told}"
