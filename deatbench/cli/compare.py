"""`deatbench compare`: is one model better than another, on the same images?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options
from deatbench.cli.record_argument import evaluation_files, listed, zoo_entry
from deatbench.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from deatbench.records import EvaluationRecord
    from deatbench.report.comparison.comparison import Comparison, Difference
    from deatbench.store import Home


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A B [C D]")
@click.option(
    "--checkpoint",
    type=click.Choice(["best", "last", "ema", "swa"]),
    help="Which weights of each run; default: those that the zoo keeps, else best.",
)
@options.existing_home
@options.as_json
def compare(models: tuple[str, ...], checkpoint: str | None, home: Path, as_json: bool) -> None:
    """Compare 2 to 4 evaluated models image by image.

    Each is the path or id of an evaluation record, a model of the zoo, a run, or the name of an evaluated model. Of
    several evaluations the one with AutoAttack and the most images is taken. Models are compared on the images that
    both saw, with the exact McNemar test; by class too where a model of the zoo was diagnosed on these images. The test
    is about these weights: training again with another seed may change more.

    \b
    Examples:
      deatbench compare digits-vgg16-deat-3f2a91-s0 digits-vgg16-pgd-at-77c01d-s0
      deatbench compare zoo:digits-vgg16-deat-3f2a91-s0 evaluations/mine.json --json
      deatbench compare A B --checkpoint last
    """
    from deatbench.records import Diagnostics
    from deatbench.report.comparison.comparison import LETTERS
    from deatbench.report.comparison.comparison import compare as compare_records
    from deatbench.store import Home, read_record

    if not 2 <= len(models) <= len(LETTERS):
        raise ConfigError(f"{len(models)} model{'s' * (len(models) > 1)} to compare", f"name two to {len(LETTERS)}")
    at = Home(home.expanduser())
    chosen = _choose([(name, _evaluations(name, checkpoint, at)) for name in models])
    diagnosed = [path for entry in at.zoo_entries() if (path := entry / "diagnostics.json").is_file()]
    comparison = compare_records(chosen, [read_record(path, Diagnostics) for path in diagnosed])
    if as_json:
        print(json.dumps(comparison.document(), indent=1, ensure_ascii=False))
    else:
        _print(comparison)


def _evaluations(name: str, checkpoint: str | None, home: Home) -> list[EvaluationRecord]:
    """The evaluations that `name` may stand for. Raises MissingError with the nearest match, or what there is."""
    from deatbench.records import EvaluationRecord, ModelCard
    from deatbench.store import read_record

    path = Path(name).expanduser()
    if path.is_file():
        return [read_record(path, EvaluationRecord)]
    read = (read_record(file, EvaluationRecord) for file in evaluation_files(name, home))
    records = list({record.id: record for record in read}.values())
    _check_one_model(name, records)
    entry = zoo_entry(name, home)
    card = read_record(entry / "card.json", ModelCard) if entry else None
    return _of_checkpoint(name, records, checkpoint, card.checkpoint if card else "best")


def _check_one_model(name: str, records: Sequence[EvaluationRecord]) -> None:
    """Raises ConfigError if they speak of several models. What one run kept is one model: its best, its last, ..."""
    made = [record.training for record in records]
    runs = {training and training.run_id for training in made}
    checkpoints = {training and training.checkpoint for training in made}
    networks = {record.model.function for record in records}
    if len(networks) > 1 and (len(runs) > 1 or len(networks) > len(checkpoints)):
        ids = sorted(record.id for record in records)
        raise ConfigError(f"{name} is the name of several models", f"name the evaluation: {listed(ids)}")


def _of_checkpoint(
    name: str, records: list[EvaluationRecord], asked: str | None, preferred: str
) -> list[EvaluationRecord]:
    """The evaluations of the weights asked for, else of the preferred ones, else all."""

    def of(checkpoint: str) -> list[EvaluationRecord]:
        return [record for record in records if record.training and record.training.checkpoint == checkpoint]

    if asked is None:
        return of(preferred) or records
    if not of(asked) and any(record.training for record in records):
        kept = ", ".join(sorted({record.training.checkpoint for record in records if record.training}))
        raise MissingError(f"the {asked} weights of {name} were not evaluated", f"evaluated: {kept}")
    return of(asked) or records


def _choose(candidates: Sequence[tuple[str, list[EvaluationRecord]]]) -> list[EvaluationRecord]:
    """One evaluation per model, all on the same dataset under the same threat where that can be had.

    Among several such boards the one with the most images is taken, and said.
    """
    from deatbench.report.standings.runs import Run

    boards = [{_board(record): None for record in records} for _, records in candidates]
    common = [board for board in boards[0] if all(board in others for others in boards[1:])]

    def deciding(records: list[EvaluationRecord], board: tuple[str, ...] | None) -> EvaluationRecord:
        return Run([record for record in records if board in (None, _board(record))], None).deciding

    under: list[tuple[str, ...] | None] = [*common] or [None]
    choices = [[deciding(records, board) for _, records in candidates] for board in under]
    chosen = max(choices, key=lambda records: min(record.samples.n for record in records))
    if len(choices) > 1:
        print(f"note: of {len(choices)} threats in common, comparing under {_threat(chosen[0])}", file=sys.stderr)
    return chosen


def _board(record: EvaluationRecord) -> tuple[str, ...]:
    dataset, threat = record.dataset, record.threat
    return (dataset.name, dataset.split, dataset.sha256, threat.norm, threat.eps_text)


def _threat(record: EvaluationRecord) -> str:
    return f"{record.threat.norm} {record.threat.eps_text}"


def _print(comparison: Comparison) -> None:
    """Who is who, then each pair in words and numbers, then classes."""
    from deatbench.cli.tables import TITLES, print_table, share
    from deatbench.report.comparison.comparison import LETTERS
    from deatbench.report.escape import plain

    first = comparison.records[0]
    print_table(
        ["", f"{plain(first.dataset.name)}, {_threat(first)}", "weights", "images", "record"],
        [
            [letter, plain(r.model.name), r.training.checkpoint if r.training else "-", f"{r.samples.n:,}", r.id]
            for letter, r in zip(LETTERS, comparison.records, strict=False)
        ],
    )
    for pair in comparison.pairs:
        a, b = LETTERS[pair.a], LETTERS[pair.b]
        print(f"\n{a} and {b} on the same {pair.differences[0].n:,} images")
        for difference in pair.differences:
            if difference.metric in TITLES:
                print(f"{TITLES[difference.metric]}: {in_words(difference, a, b)}")
        columns = ["", a, b, f"{a} - {b}", "95 %", "p", "both", f"only {a}", f"only {b}", "neither"]
        print_table(columns, [_cells(difference) for difference in pair.differences])
    for table in comparison.per_class:
        letters = LETTERS[: len(comparison.records)]
        print(f"\n{TITLES[table.metric]} by class")
        print_table(
            ["class", "images", *letters, *(f"A - {letter}" for letter in letters[1:])],
            [
                [
                    plain(row.name),
                    f"{row.n:,}",
                    *(share(value) for value in row.accuracies),
                    *(points(row.accuracies[0] - value) for value in row.accuracies[1:]),
                ]
                for row in table.classes
            ],
        )
    for note in comparison.notes:
        print(f"note: {plain(note)}")


def _cells(difference: Difference) -> list[str]:
    from deatbench.cli.tables import TITLES, share
    from deatbench.report.escape import plain

    low, high = (points(end) for end in difference.ci95)
    shares = (share(difference.accuracy_a), share(difference.accuracy_b))
    test = (points(difference.difference), f"{low} to {high}", p_value(difference.p_value).removeprefix("= "))
    counts = (difference.both, difference.only_a, difference.only_b, difference.neither)
    title = TITLES.get(difference.metric, plain(difference.metric))
    return [title, *shares, *test, *(f"{count:,}" for count in counts)]


def in_words(difference: Difference, a: str = "A", b: str = "B") -> str:
    """One line: who is better by how much, whether that is more than chance, and on how many images they differ."""
    only_a, only_b, (low, high) = difference.only_a, difference.only_b, difference.ci95
    if only_b > only_a:
        a, b, only_a, only_b, low, high = b, a, only_b, only_a, -high, -low
    verb = "gets right" if difference.metric == "clean_acc" else "withstands"
    images = f"{only_a:,} image{'s' * (only_a != 1)} only {a} {verb}, {only_b:,} only {b}"
    if only_a == only_b:
        return f"level; {images}" if only_a else "the same on every image"
    lead = f"{a} is {'better' if difference.settled else 'ahead'} by {points(abs(difference.difference))} points"
    chance = f"(95 %: {points(low)} to {points(high)}), p {p_value(difference.p_value)}"
    return f"{'' if difference.settled else 'not settled: '}{lead} {chance}; {images}"


def points(value: float) -> str:
    """A difference of shares in percentage points: `3.2`."""
    return f"{round(100 * value, 1) + 0.0:.1f}"  # adding 0 turns -0.0 into 0.0


def p_value(p: float) -> str:
    """`= 0.004`; with a fourth place where three would hide on which side of 0.05 it lies."""
    if p < 0.001:
        return "< 0.001"
    three = f"{p + 1e-12:.3f}"  # a half rounds up, as in JavaScript
    return f"= {p + 1e-12:.4f}" if three == "0.050" else f"= {three}"
