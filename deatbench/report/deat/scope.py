"""How far the records reach into what DEAT's paper did: where the protocols differ, and what nobody measured here.

All of it follows from the records' configurations; the paper's side is its Table 1 and the text around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from deatbench.report.deat.claim import ARCHS, table2
from deatbench.report.deat.pairs import Pair, Setup
from deatbench.report.setups import inner_attack, optimizer, part, setting, steady_step
from deatbench.report.standings.boards import Board
from deatbench.report.standings.correlations import spearman
from deatbench.report.standings.runs import AUTOATTACK
from deatbench.report.wording import NORMS, percent

PAPER_DATASET, PAPER_NORM, PAPER_EPS, PAPER_EPOCHS = "cifar10", "Linf", "8/255", 110
MOMENTA = (0.0, 0.9)
MIN_RATES = 3


class Term(NamedTuple):
    """One line of the protocol: its name, the paper's way, and how to read it off a configuration on a board."""

    name: str
    paper: str
    read: Callable[[Board, Setup], Iterable[str]]


class Difference(NamedTuple):
    """A line of the table of differences: the paper's way, and per board what its records did, None if the same."""

    name: str
    paper: str
    here: list[str | None]


class Coverage(NamedTuple):
    """How many of the paper's learning rates have a record at its own setting, per architecture and update."""

    arch: str
    counts: list[tuple[str, int]]
    rates: int


def _schedule(setup: Setup) -> str:
    spec = part(setup.config, "schedule")
    if spec.get("name") != "piecewise":
        return setting(spec.get("name", "?"))
    milestones = spec.get("milestones")
    epochs = milestones if isinstance(milestones, list | tuple) else []
    return f"lr × {setting(spec.get('gamma', '?'))} at epochs {setting(list(epochs))}"


def _momenta(setup: Setup) -> Iterable[str]:
    spec = part(setup.config, "optimizer")
    if setup.is_deat:
        yield f"{setting(spec.get('k1', '?'))}, {setting(spec.get('k2', '?'))}"


def _tests(setup: Setup) -> Iterable[str]:
    return sorted(
        {
            attack.name.partition("/")[0]
            for row in setup.rows.values()
            for run in row.runs
            for attack in run.deciding.attacks
        }
    )


TERMS = (
    Term("Data set", PAPER_DATASET, lambda board, _: [board.dataset]),
    Term("Threat", f"{NORMS[PAPER_NORM]} ε = {PAPER_EPS}",
         lambda board, _: [f"{NORMS[board.threat.norm]} ε = {board.threat.eps_text}"]),
    Term("Networks", "; ".join(sorted(ARCHS)), lambda _, setup: [setup.first.model.arch]),
    Term("Width of the networks", "1", lambda _, setup: [setting(setup.first.model.params.get("width", 1))]),
    Term("Epochs", str(PAPER_EPOCHS), lambda _, setup: [setting(setup.config.get("epochs", "?"))]),
    Term("Learning rates", "14, from 0.01 to 0.3", lambda _, setup: [optimizer(setup.config)]),
    Term("Schedule", "lr × 0.1 at epochs 100, 105", lambda _, setup: [_schedule(setup)]),
    Term("Batch size", "128", lambda _, setup: [setting(setup.config.get("batch_size", "?"))]),
    Term("Weight decay", "0.0005",
         lambda _, setup: [setting(part(setup.config, "optimizer").get("weight_decay", "?"))]),
    Term("k1, k2 of DEAT", "1, 0.8", lambda _, setup: _momenta(setup)),
    Term("Attack in training", "PGD-10, step 0.25 ε", lambda _, setup: [inner_attack(setup.config)]),
    Term("Batch norm in that attack", "eval",
         lambda _, setup: [setting(part(setup.config, "attack").get("bn_mode", "?"))]),
    Term("Augmentation", "crop-flip", lambda _, setup: [setting(setup.config.get("augment", "?"))]),
    Term("Attacks in the test", "pgd-10", lambda _, setup: _tests(setup)),
    Term("Weights that are tested", "last", lambda _, setup: setup.rows),
    Term("Runs per point", "3", lambda _, setup: [str(setup.seeds)]),
)  # fmt: skip


def differences(boards: Sequence[tuple[Board, Sequence[Setup]]]) -> list[Difference]:
    """A line per term of the protocol, with a cell per board."""
    return [Difference(term.name, term.paper, [_told(term, *each) for each in boards]) for term in TERMS]


def _told(term: Term, board: Board, setups: Sequence[Setup]) -> str | None:
    """What the board's records did, each way once; None where all of it is the paper's way."""
    ways = sorted({way for setup in setups for way in term.read(board, setup)})
    return None if ways == sorted(term.paper.split("; ")) else "; ".join(ways)


def coverage(boards: Sequence[tuple[Board, Sequence[Setup]]]) -> list[Coverage]:
    """How much of Table 2 has a record at the paper's data set, threat, length and width; any weights count."""
    setups = [
        setup
        for board, members in boards
        if (board.dataset, board.threat.norm, board.threat.eps_text) == (PAPER_DATASET, PAPER_NORM, PAPER_EPS)
        for setup in members
        if setup.config.get("epochs") == PAPER_EPOCHS and setup.first.model.params.get("width", 1) == 1
    ]
    found = []
    for series in table2():
        members = [setup for setup in setups if setup.first.model.arch == series.arch]
        kinds = [("DEAT", [each for each in members if each.is_deat])]
        kinds += [(f"PGD-AT, momentum {m:g}", [each for each in members if each.momentum == m]) for m in MOMENTA]
        counts = [(name, sum(any(each.rate == rate for each in of) for rate in series.rates)) for name, of in kinds]
        found.append(Coverage(series.title, counts, len(series.rates)))
    return found


def missing(setups: Sequence[Setup], pairs: Sequence[Pair]) -> list[str]:
    """What a fair comparison of each DEAT of a board lacks, in sentences."""
    found = []
    for deat in (setup for setup in setups if setup.is_deat):
        lacking = _lacking(deat, [pair.baseline for pair in pairs if pair.deat is deat])
        if deat.seeds == 1:
            lacking.append("a second seed")
        if lacking:
            found.append(f"{deat.network}, {optimizer(deat.config)}{_alone(deat, pairs)}: lacks {'; '.join(lacking)}.")
    return found


def _lacking(deat: Setup, baselines: Sequence[Setup]) -> list[str]:
    lacking = [f"PGD-AT with momentum {m:g}" for m in MOMENTA if all(other.momentum != m for other in baselines)]
    step = steady_step(deat.config)
    matched = (Pair(deat, other, {}).matched for other in baselines if other.momentum == MOMENTA[1])
    if step is not None and not any(matched):
        lacking.append(f"PGD-AT with momentum {MOMENTA[1]:g} at the matched step, lr {step * (1 - MOMENTA[1]):.2g}")
    return lacking


def _alone(deat: Setup, pairs: Sequence[Pair]) -> str:
    """The result of a DEAT that is in no pair, so that it is not lost."""
    summary = deat.first.summary(AUTOATTACK)
    if summary is None or any(pair.deat is deat for pair in pairs):
        return ""
    return f" ({percent(summary.mean)} % under AutoAttack, with nothing beside it)"


class Sweep(NamedTuple):
    """One configuration at several learning rates, and Spearman's correlation of its robust accuracy with them."""

    rates: int
    spearman: float


def sweeps(setups: Sequence[Setup]) -> list[Sweep]:
    """Every configuration that was trained and attacked at three or more learning rates, all else being equal."""
    groups: dict[tuple[str, str], dict[float, float]] = {}
    for setup in setups:
        accuracy = _robust(setup)
        if setup.rate is not None and accuracy is not None:
            groups.setdefault((setup.alike, _update(setup)), {})[setup.rate] = accuracy
    swept = [groups[key] for key in sorted(groups) if len(groups[key]) >= MIN_RATES]
    return [Sweep(len(each), spearman(list(each), list(each.values()))) for each in swept]


def searched(setups: Sequence[Setup]) -> bool:
    """Whether any configuration was trained at more than one learning rate."""
    return len({(setup.alike, _update(setup)) for setup in setups}) < len(setups)


def _update(setup: Setup) -> str:
    """All of the update but its learning rate."""
    spec = part(setup.config, "optimizer")
    return repr(sorted((key, repr(value)) for key, value in spec.items() if key != "lr"))


def _robust(setup: Setup) -> float | None:
    """As the paper tests: PGD after the last epoch; else AutoAttack of the weights that were published."""
    last = setup.rows.get("last")
    attacks = sorted(name for name in last.runs[0].metrics if name.startswith("pgd-")) if last else []
    summary = last.summary(attacks[-1]) if last and attacks else setup.first.summary(AUTOATTACK)
    return None if summary is None else summary.mean
