"""What a board's numbers mean, in sentences that follow from its records."""

from __future__ import annotations

import json
from collections import Counter

from deatbench.records import EvaluationRecord
from deatbench.report.escape import plain
from deatbench.report.metrics import describe, place
from deatbench.report.standings.boards import Board

BALL = {
    "Linf": "Every pixel value may move by at most ε = {eps}",
    "L2": "The Euclidean length of the change, over all pixel values of an image, is at most ε = {eps}",
    "L1": "The absolute changes of all pixel values of an image sum to at most ε = {eps}",
}

BANDS = (
    "1–3 says: the images do not rule out any rank from 1 to 3. A row's band begins behind all rows that are "
    "significantly better and ends before all that are significantly worse. Rows with verdicts on the same images are "
    "compared by the exact McNemar test, over several seeds by a paired t-test, else by whether their intervals "
    "overlap; each pair at 5 %, not corrected for the number of pairs."
)
TIERS = (
    "Self-reported: the record of those who ran it. Re-run: somebody ran its recipe again, and what came out "
    "was the same or within chance. Proof verified: every broken verdict has its adversarial image, and each was "
    "checked to lie in the ball and to fool the model. A row is as verified as the least verified of its runs."
)
PUBLISHED = (
    "Taken from the sources named, not measured here: other code, often other images and attack settings. They have no "
    "rank and stand apart unless asked for; then they are ordered by the lowest accuracy that their source gives."
)

AVERAGES = {"ema": "the moving average of the weights", "swa": "their average over the last epochs"}


def protocol(board: Board) -> list[tuple[str, str]]:
    """Terms and their explanations for the box on a board's page."""
    terms = [
        (
            "Threat",
            BALL[board.threat.norm].format(eps=board.threat.eps_text) + ". Pixels lie in [0, 1] before and after.",
        ),
        ("Test images", _images(board)),
    ]
    terms += _metrics(board.evaluations)
    terms.append(("Attack code", _engines(board.evaluations)))
    if any(run.training for run in board.runs):
        terms.append(("Best and last", _checkpoints(board)))
    terms += [
        (
            "Intervals",
            "95 % Wilson intervals over the test images. ± is the standard deviation over seeds, another thing: it "
            "says how much training again changes the number.",
        ),
        (
            "Ranking",
            "By worst-case accuracy. A row without AutoAttack is listed behind and has no rank: PGD and CW alone "
            "only bound robustness from above. A flagged row comes last and has no rank: its number may not be what it "
            "seems. Sorting keeps these groups apart.",
        ),
        ("Rank bands", BANDS),
        ("Verification", TIERS),
        (
            "Repeats",
            "Of several evaluations of the same weights, the one with the most images counts; of equally large ones, "
            "the lowest value.",
        ),
    ]
    return terms + ([("Published elsewhere", PUBLISHED)] if board.published else [])


def _metrics(records: list[EvaluationRecord]) -> list[tuple[str, str]]:
    """Each metric with what it means and the settings of its attack, or of each member of its suite."""
    settings = _settings(records)
    terms = []
    for name in sorted({name for record in records for name in record.metrics}, key=place):
        info = describe(name)
        members = {member: text for member, text in settings.items() if member == name or member.startswith(f"{name}/")}
        used = "; ".join(
            text if member == name else f"{member.removeprefix(f'{name}/')}: {text}" for member, text in members.items()
        )
        terms.append((info.title, f"{info.description} Settings: {used}." if used else info.description))
    return terms


def _images(board: Board) -> str:
    used = Counter(
        (record.dataset.split, record.dataset.n, record.samples.indices == "first") for record in board.evaluations
    )
    parts = [
        f"{'the first' if first else 'a listed choice of'} {n:,} of the {plain(split)} split"
        + (f" ({times}×)" if len(used) > 1 else "")
        for (split, n, first), times in sorted(used.items())
    ]
    return f"Tested on {'; '.join(parts)}. The same images for every attack of an evaluation."


def _settings(records: list[EvaluationRecord]) -> dict[str, str]:
    """Parameters of each attack; where records differ, each setting with the number of evaluations that used it."""
    used: dict[str, Counter[str]] = {}
    for record in records:
        for attack in record.attacks:
            used.setdefault(attack.name, Counter())[json.dumps(attack.params, sort_keys=True)] += 1
    return {
        plain(name): " or ".join(
            _parameters(json.loads(text)) + (f" ({times}×)" if len(settings) > 1 else "")
            for text, times in sorted(settings.items())
        )
        for name, settings in used.items()
    }


def _engines(records: list[EvaluationRecord]) -> str:
    """Whose code ran which attacks, by version."""
    names: dict[str, set[str]] = {}
    for record in records:
        for attack in record.attacks:
            searched = "" if record.search_precision == "fp32" else f", searching in {record.search_precision}"
            draws = ", pyautoattack's draws" if record.draws == "published" else ""
            names.setdefault(plain(attack.engine + searched + draws), set()).add(plain(attack.name))
    parts = [f"{engine}: {', '.join(sorted(attacks, key=place))}" for engine, attacks in sorted(names.items())]
    return "; ".join(parts) + "." if parts else "No attack was run."


def _parameters(params: dict[str, object]) -> str:
    texts = [f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in sorted(params.items())]
    return plain(", ".join(texts)) or "no parameters"


def _checkpoints(board: Board) -> str:
    sizes = sorted({(run.training.n_train, run.training.n_val) for run in board.runs if run.training})
    split = " or ".join(f"{n_train:,} + {n_val:,}" for n_train, n_val in sizes)
    kept = {run.training.checkpoint for run in board.runs if run.training}
    averages = "".join(f", {name} {AVERAGES[name]}" for name in ("ema", "swa") if name in kept)
    return (
        "Best is the epoch with the highest robust accuracy on a validation split held out from the training images, "
        f"last is the final epoch{averages}; the test images choose nothing. Training + validation images: {split}."
    )
