"""Do an evaluation's numbers follow from its verdict bits? Worked out anew, with whole numbers.

Nothing here calls what the records are made or validated with, so that one mistake cannot hide behind itself. A record
is read part by part: what is sound in one that does not load is checked all the same.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from statistics import NormalDist
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from deatbench.records import AdversarialArchive, AttackResult, Certificates, CurvePoint, Metric, Samples

T = TypeVar("T")
Z = NormalDist().inv_cdf(0.975)
EXACT = 1e-9  # shares are quotients of whole numbers
ROUNDED = 1.5e-6  # ends of intervals are rounded to 6 places
PROVISIONAL = "-provisional"  # verdicts of a suite that was stopped behind one of its members

_SAMPLES = TypeAdapter(Samples)
_METRICS = TypeAdapter(dict[str, Metric])
_ATTACKS: TypeAdapter[Sequence[AttackResult]] = TypeAdapter(tuple[AttackResult, ...])
_CURVE: TypeAdapter[Sequence[CurvePoint]] = TypeAdapter(tuple[CurvePoint, ...])
_ARCHIVE = TypeAdapter(AdversarialArchive | None)
_CERTIFICATES = TypeAdapter(Certificates | None)


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on `n` images, a bit per image in one whole number: correct without attack, and under each attack."""

    n: int
    clean: int
    robust: Mapping[str, int]

    @property
    def worst(self) -> int:
        """Those that withstand everything."""
        return reduce(and_, self.robust.values(), self.clean)

    def share(self, bits: int) -> float:
        """Of the images, those whose bit is set."""
        return bits.bit_count() / self.n


def record_faults(record: Mapping[str, Any]) -> Iterator[str]:
    """What does not add up in an evaluation record, given as its JSON. Malformed parts are passed over."""
    threat = record.get("threat")
    yield from radius_faults(threat, "threat")
    samples = _part(_SAMPLES, record.get("samples"))
    if samples is None:
        return
    try:
        robust = {name: _bits(text, samples.n) for name, text in samples.robust.items()}
        verdicts = Verdicts(samples.n, _bits(samples.clean, samples.n), robust)
    except ValueError as error:
        yield f"samples: {error}"
        return
    dataset = record.get("dataset")
    if isinstance(dataset, Mapping) and dataset.get("n") != samples.n:
        yield f"there are {samples.n:,} verdicts for {dataset.get('n')} images"
    for name, bits in robust.items():
        if extra := (bits & ~verdicts.clean).bit_count():
            yield f"{extra:,} images withstand {name} that are wrong without attack"
    metrics = _part(_METRICS, record.get("metrics"))
    yield from _metric_faults(verdicts, metrics) if metrics is not None else ()
    attacks = _part(_ATTACKS, record.get("attacks"))
    yield from _attack_faults(verdicts, attacks) if attacks is not None else ()
    yield from _curve_faults(verdicts, _part(_CURVE, record.get("curve", [])) or (), threat)
    yield from _certificate_faults(verdicts, _part(_CERTIFICATES, record.get("certificates")))
    yield from _archive_faults(verdicts, _part(_ARCHIVE, record.get("adversarials")))


def radius_faults(threat: Any, where: str) -> Iterator[str]:
    """Whether the text of a radius and its value are one; `threat` is JSON with `eps` and `eps_text`."""
    if not isinstance(threat, Mapping):
        return
    eps, text = threat.get("eps"), threat.get("eps_text")
    if not isinstance(eps, int | float) or not isinstance(text, str):
        return
    numerator, slash, denominator = text.partition("/")
    try:
        meant = float(numerator) / float(denominator) if slash else float(numerator)
        same = math.isclose(meant, eps, rel_tol=1e-15)
    except (ValueError, ArithmeticError):
        yield f"{where}: eps {text!r} is not a number"
        return
    if not same:
        yield f"{where}: eps is written {text} and stored as {eps}"


def _part(adapter: TypeAdapter[T], value: Any) -> T | None:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None


def _bits(text: str, n: int) -> int:
    """Packed bits as a whole number. Raises ValueError unless they are exactly n."""
    packed = base64.b64decode(text, validate=True)
    spare = 8 * len(packed) - n
    if not 0 <= spare < 8:
        raise ValueError(f"{len(packed)} bytes of verdicts for {n:,} images")
    value = int.from_bytes(packed, "big")
    if value & ((1 << spare) - 1):
        raise ValueError(f"verdicts beyond the last of {n:,} images")
    return value >> spare


def _metric_faults(verdicts: Verdicts, metrics: Mapping[str, Metric]) -> Iterator[str]:
    expected = {"clean_acc": verdicts.clean, **verdicts.robust}
    if verdicts.robust:
        expected["worst_case_acc"] = verdicts.worst
    for name in sorted(expected.keys() | metrics.keys()):
        if name not in expected or name not in metrics:
            yield f"{name} has {'a metric, but no verdicts' if name in metrics else 'verdicts, but no metric'}"
            continue
        metric, share = metrics[name], verdicts.share(expected[name])
        if metric.n != verdicts.n:
            yield f"{name} is of {metric.n:,} images, its verdicts of {verdicts.n:,}"
        elif abs(metric.value - share) > EXACT:
            yield f"{name} is given as {metric.value:.2%}, its verdicts make {share:.2%}"
        elif any(abs(a - b) > ROUNDED for a, b in zip(metric.ci95, _wilson(share, verdicts.n), strict=True)):
            yield f"{name}: the interval {metric.ci95} is not Wilson's 95 % interval of {share:.2%} on {verdicts.n:,}"


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Both p with (share - p)² = Z² p (1 - p) / n: the roots of (1 + c) p² - (2 share + c) p + share², c = Z² / n."""
    c = Z * Z / n
    root = math.sqrt(max(0.0, (2 * share + c) ** 2 - 4 * (1 + c) * share * share))
    low, high = ((2 * share + c + sign * root) / (2 * (1 + c)) for sign in (-1, 1))
    return low, high


def _attack_faults(verdicts: Verdicts, attacks: Sequence[AttackResult]) -> Iterator[str]:
    """Each attack begins with what is right without it; a suite's members hand on what stands, to the suite's verdicts.

    So a suite cannot lie above any of its members.
    """
    chains: dict[str, list[AttackResult]] = {}
    for result in attacks:
        chains.setdefault(result.name.partition("/")[0], []).append(result)
    for name, chain in chains.items():
        standing = verdicts.share(verdicts.clean)
        for result in chain:
            if abs(result.robust_before - standing) > EXACT:
                yield f"{result.name} starts from {result.robust_before:.2%} of the images, {standing:.2%} stood"
            if result.robust_after > result.robust_before + EXACT:
                yield f"{result.name}: {result.robust_before:.2%} stood before it, {result.robust_after:.2%} after it"
            standing = result.robust_after
        bits = verdicts.robust.get(name)
        if bits is not None and abs(verdicts.share(bits) - standing) > EXACT:
            yield f"{name} leaves {verdicts.share(bits):.2%} by its verdicts, {standing:.2%} by {chain[-1].name}"
    for name, bits in verdicts.robust.items():
        chain = chains.get(name) or chains.get(name.removesuffix(PROVISIONAL)) or []
        if not chain:
            yield f"nothing is said about how {name} attacked"
        elif name not in chains and all(abs(verdicts.share(bits) - r.robust_after) > EXACT for r in chain):
            yield f"{name} leaves {verdicts.share(bits):.2%} by its verdicts, which no member of the suite did"


def _curve_faults(verdicts: Verdicts, curve: Sequence[CurvePoint], threat: Any) -> Iterator[str]:
    standing, last, own = verdicts.clean, 0.0, threat.get("eps") if isinstance(threat, Mapping) else None
    for point in curve:
        yield from radius_faults({"eps": point.eps, "eps_text": point.eps_text}, "curve")
        try:
            bits = _bits(point.robust, verdicts.n)
        except ValueError as error:
            yield f"curve at eps {point.eps_text}: {error}"
            continue
        if bits & ~standing or point.eps <= last:
            yield f"the curve rises or turns back at eps {point.eps_text}"
        if point.eps == own and bits != verdicts.worst:
            yield f"the curve at eps {point.eps_text} is not the worst case of the verdicts"
        standing, last = bits, point.eps


def _certificate_faults(verdicts: Verdicts, certificates: Certificates | None) -> Iterator[str]:
    if certificates is None:
        return
    try:
        proved = _bits(certificates.proved, verdicts.n)
    except ValueError as error:
        yield f"certificates: {error}"
        return
    if wrong := (proved & ~verdicts.worst).bit_count():
        yield f"{wrong:,} images are proved robust that are wrong or broken"


def _archive_faults(verdicts: Verdicts, archive: AdversarialArchive | None) -> Iterator[str]:
    for name, images in (archive.images if archive else {}).items():
        if name not in verdicts.robust:
            yield f"adversarial images are stored of {name}, of which there are no verdicts"
        elif images > (broken := (verdicts.clean & ~verdicts.robust[name]).bit_count()):
            yield f"{images:,} adversarial images are stored of {name}, which broke {broken:,}"
