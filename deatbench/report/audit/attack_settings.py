"""Was a record's attack the one that its name promises? Names stand for settings: pgd-20 for 20 steps.

The settings of the suites are written down here a second time, so that a record is not held against the code that made
it. Records of the published code call steps `n_iter`; which words are used tells whose code ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deatbench.records import AttackResult, EvaluationRecord

MEMBERS = {
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "autoattack-plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "autoattack-rand": ("apgd-ce", "apgd-dlr"),
}
LOSSES = {
    "apgd-ce": ("ce",),
    "apgd-dlr": ("dlr", "margin"),  # with two classes, and below with two or three, the ratio is not defined
    "apgd-t": ("dlr-targeted", "margin-targeted"),
}
FIXED: Mapping[str, Any] = {
    "steps": 100, "n_iter": 100, "queries": 5000, "n_queries": 5000,
    "rho": 0.75, "p_init": 0.8, "alpha_max": 0.1, "beta": 0.9, "eta": 1.05,
}  # fmt: skip
RESTARTED = ("apgd-ce", "apgd-dlr", "fab")  # five times, in autoattack-plus
OURS, THEIRS = ("steps", "queries"), ("n_iter", "n_queries")  # how long the search was, in whose words
_STEPS_IN_NAME = re.compile(r"(?:pgd|cw)-([0-9]{1,9})")


def attack_faults(record: EvaluationRecord, num_classes: int | None = None) -> Iterator[str]:
    """Where names, settings and engines of a record's attacks contradict each other; `num_classes` if it is known."""
    for result in record.attacks:
        where = f"attacks: {result.name}"
        for fault in _settings_faults(result, record.threat.norm, num_classes):
            yield f"{where}: {fault}"
        for fault in _engine_faults(result, record.env.packages):
            yield f"{where}: engine {fault}"
    yield from _suite_faults(record)
    yield from _one_of_each(record)


def _settings_faults(result: AttackResult, norm: str, num_classes: int | None) -> Iterator[str]:
    if named := _STEPS_IN_NAME.fullmatch(result.name):
        if (steps := result.params.get("steps")) != int(named[1]):
            yield f"params.steps is {steps}"
        return
    if result.name == "fgsm" and result.params.get("steps", 1) != 1:
        yield f"params.steps is {result.params['steps']}, it is a single step"
    suite, _, member = result.name.partition("/")
    if member not in MEMBERS.get(suite, ()):
        return
    if not result.params.keys() & {*OURS, *THEIRS}:
        yield "params do not say how long it searched"
    for key, allowed in _published(suite, member, norm, num_classes).items():
        if key in result.params and result.params[key] not in allowed:
            yield f"params.{key} is {result.params[key]}, published {' or '.join(map(str, allowed))}"


def _published(suite: str, member: str, norm: str, num_classes: int | None) -> dict[str, tuple[Any, ...]]:
    """What each setting of a suite's member may be, by its key in a record."""
    l1 = suite == "autoattack" and norm == "L1"
    restarted = member in RESTARTED and (suite == "autoattack-plus" or l1)
    eot = 20 if suite == "autoattack-rand" else 1
    targets = 5 if l1 and member == "apgd-t" else 9
    return {
        **{key: (value,) for key, value in FIXED.items()},
        "restarts": (5 if restarted else 1,),
        "eot": (eot,),
        "eot_iter": (eot,),
        "large_reps": (l1,),
        "use_largereps": (l1,),
        "targets": (min(targets, num_classes - 1),) if num_classes else tuple(range(targets, 0, -1)),
        "loss": LOSSES.get(member, ()),
    }


def _engine_faults(result: AttackResult, packages: Mapping[str, str]) -> Iterator[str]:
    """Of the attacks whose code is known, was it that? Others may come with code of their own."""
    code, _, version = result.engine.partition(" ")
    suite, _, member = result.name.partition("/")
    if member in MEMBERS.get(suite, ()):
        whose = "pyautoattack" if result.params.keys() & set(THEIRS) else "deatbench"
    elif _STEPS_IN_NAME.fullmatch(result.name) or result.name == "fgsm":
        whose = "deatbench"
    else:
        return
    if code != whose:
        yield f"{result.engine!r}, its settings are those of {whose}"
    elif code == "pyautoattack" and version != packages.get("pyautoattack", version):
        yield f"{result.engine!r}, installed was {packages['pyautoattack']}"


def _suite_faults(record: EvaluationRecord) -> Iterator[str]:
    """A suite that is finished has tried all its members, in their order."""
    for suite, members in MEMBERS.items():
        tried = tuple(r.name.partition("/")[2] for r in record.attacks if r.name.startswith(f"{suite}/"))
        if tried and suite in record.samples.robust and tried != members:
            yield f"attacks: {suite} consists of {', '.join(members)}, on record are {', '.join(tried)}"


def _one_of_each(record: EvaluationRecord) -> Iterator[str]:
    """One evaluation has one seed, and one version of each engine: others continue nobody's work."""
    versions: dict[str, str] = {}
    for result in record.attacks:
        first = versions.setdefault(result.engine.partition(" ")[0], result.engine)
        if first != result.engine:
            yield f"attacks: {result.name}: engine {result.engine!r}, another attack's is {first!r}"
        if result.seed != record.attacks[0].seed:
            yield f"attacks: {result.name}: seed {result.seed}, another attack's is {record.attacks[0].seed}"
