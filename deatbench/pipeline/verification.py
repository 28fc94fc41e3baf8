"""Re-checking a record in one pass, without attacking: what it proves, what fails, what nobody stored."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from scipy.stats import beta
from torch import nn

from deatbench.attacks import make_attack
from deatbench.data import Dataset, Images
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.contract import check_fit
from deatbench.engine.environment import environment
from deatbench.engine.evaluate import Settings
from deatbench.engine.evaluate import evaluate as attack_model
from deatbench.engine.monitor import Monitor
from deatbench.engine.search import strict_float32
from deatbench.errors import ConfigError, MismatchError, MissingError
from deatbench.evidence import Archive
from deatbench.models import LoadedModel
from deatbench.pipeline.certification import certified_again
from deatbench.pipeline.checks import Check, Status
from deatbench.pipeline.examination import Examiner
from deatbench.pipeline.machine import now
from deatbench.records import CheckResult, EvaluationRecord, Verification, unpack_bits
from deatbench.store import read_record, sha256_of
from deatbench.threats import ThreatModel, make_threat

SEED_NOISE = 0.05  # the share of images called robust that an honest attack may break with another seed


def read_evaluation(path: Path) -> EvaluationRecord:
    """The record at `path`. Raises MismatchError if its metrics do not follow from its bits; else as read_record."""
    try:
        return read_record(path, EvaluationRecord)
    except ConfigError as error:
        first = error.__cause__.errors()[0] if isinstance(error.__cause__, ValidationError) else None
        if first and (first["type"], first["loc"]) == ("value_error", ()):  # each field is sound, together they are not
            raise MismatchError(error.message) from error
        raise


def verify(
    record: EvaluationRecord,
    path: Path,
    model: LoadedModel,
    data: Dataset,
    device: torch.device,
    *,
    batch_size: int = 500,
    sample: int = 0,
    monitor: Monitor | None = None,
) -> list[Check]:
    """Check `record`, read from `path`, against the model, the images and the archive beside it.

    The broken verdicts are proved by the archive, robust ones by certificates where the record has any; of the robust
    ones `sample` are attacked anew. Raises ConfigError where the model cannot take the images at all.
    """
    monitor = monitor or Monitor()
    checks = [_record_check(record), _model_check(record, model), _dataset_check(record, data)]
    if any(check.status is Status.FAIL for check in checks[1:]):
        return [*checks, Check("verdicts", Status.SKIPPED, "not compared: they are of another model or data set")]
    indices = record.samples.indices
    images = data.test.subset(torch.arange(record.dataset.n) if indices == "first" else torch.tensor(indices))
    module = model.module.to(device).eval().requires_grad_(False)
    threat = make_threat(record.threat.norm, record.threat.eps_text)
    archive, looked_at = _open_archive(record, path, data.image_shape)
    certificates, stored = record.certificates, sum(archive.counts().values()) if archive else 0
    claimed = int(certificates.proved_N(len(images)).sum()) if certificates else 0
    monitor.start("verify", record.dataset.n + stored + claimed)
    with strict_float32(), torch.no_grad():
        check_fit(module, images, device)
        examiner = Examiner(module, images, threat, device, batch_size, monitor.advance)
        checks += [examiner.clean(record.samples.clean_N()), *looked_at]
        if archive is not None:
            checks += examiner.adversarials(record.samples, archive)
        if certificates is not None:
            checks.append(certified_again(certificates, module, images, threat, monitor.advance))
    monitor.finish()
    if sample:
        checks.append(_sample_check(record, module, images, threat, device, sample, batch_size, monitor))
    return checks


def attestation(
    record: EvaluationRecord, record_sha256: str, checks: Sequence[Check], device: torch.device
) -> Verification:
    """What was found for the record whose file has that SHA-256, as a record of its own: every status as it is."""
    return Verification(
        record=record.id,
        record_sha256=record_sha256,
        created=now(),
        checks=tuple(CheckResult(name=c.name, status=c.status.value, detail=c.detail) for c in checks),
        env=environment(device),
    )


def raise_if_failed(checks: list[Check], path: Path) -> None:
    """Raises MismatchError naming the checks that failed, MissingError if there was nothing to check against."""
    for status, error in ((Status.FAIL, MismatchError), (Status.MISSING, MissingError)):
        found = [check for check in checks if check.status is status]
        if found:
            raise error(f"{path}: " + "; ".join(f"{check.name}: {check.detail}" for check in found))


def _record_check(record: EvaluationRecord) -> Check:
    """That it loaded says that its metrics follow from its bits; besides, a wrong image cannot be robust."""
    samples, n = record.samples, record.samples.n
    clean_N, names = samples.clean_N(), list(samples.robust)
    wrong_N = np.zeros(n, dtype=bool)
    for name in names:
        wrong_N |= samples.robust_N(name) & ~clean_N
    worst_N = samples.worst_case_N()
    for point in record.curve:
        if point.eps == record.threat.eps:
            wrong_N |= unpack_bits(point.robust, n) != worst_N
    wrong = int(wrong_N.sum())
    if wrong:
        return Check("record", Status.FAIL, f"the verdicts of {wrong:,} images contradict each other", n, wrong)
    return Check("record", Status.PASS, f"metrics follow from {1 + len(names)} x {n:,} verdict bits", n)


def _model_check(record: EvaluationRecord, model: LoadedModel) -> Check:
    code = record.model.code_sha256
    same_weights = weights_sha256(model.module) == record.model.sha256
    if same_weights and code is not None and model.code_sha256 != code:
        return Check("model", Status.UNPROVEN, f"{model.source} has the weights on record, but other source files")
    return _hash_check("model", model.source, weights_sha256(model.module), record.model.sha256)


def _hash_check(name: str, what: str, found: str, known: str) -> Check:
    if found == known:
        return Check(name, Status.PASS, f"{what}, SHA-256 {found[:16]}…")
    return Check(name, Status.FAIL, f"the SHA-256 of {what} is {found[:16]}…, on record it is {known[:16]}…")


def _dataset_check(record: EvaluationRecord, data: Dataset) -> Check:
    n, indices = len(data.test), record.samples.indices
    beyond = record.dataset.n > n if indices == "first" else max(indices) >= n
    if record.dataset.split != "test" or beyond:
        return Check("data set", Status.FAIL, f"{data.name} has {n:,} test images, the record speaks of others")
    return _hash_check("data set", data.name, data.test.sha256(), record.dataset.sha256)


def _open_archive(
    record: EvaluationRecord, path: Path, image_shape: tuple[int, int, int]
) -> tuple[Archive | None, list[Check]]:
    """The archive that the record names, if it is the one; nothing in it is unpacked yet."""
    named = record.adversarials
    if named is None:
        hint = "no adversarial images stored; make it with `deatbench eval … --save-adversarials`"
        return None, [Check("verdicts", Status.UNPROVEN, f"under attack they are not proven: {hint}")]
    file = path.parent / named.file
    if not file.is_file():
        return None, [Check("archive", Status.MISSING, f"{named.file} does not lie beside the record")]
    try:
        if sha256_of(file) != named.sha256:
            return None, [Check("archive", Status.FAIL, f"the SHA-256 of {named.file} is not the one on record")]
        archive = Archive(file)
    except OSError as error:
        raise MissingError(f"cannot read {file}: {error.strerror}") from error
    except MismatchError as error:
        return None, [Check("archive", Status.FAIL, error.message.replace(str(file), named.file))]
    counts = {name: n for name, n in named.images.items() if n}
    claims = (
        (archive.header.belongs_to(record), "belongs to another evaluation"),
        (not counts or archive.header.image_shape == image_shape, "holds images of another shape"),
        (archive.counts() == counts, "does not hold the number of images that the record says"),
        (counts.keys() <= record.samples.robust.keys(), "holds images of attacks that the record does not know"),
    )
    for holds, complaint in claims:
        if not holds:
            return None, [Check("archive", Status.FAIL, f"{named.file} {complaint}")]
    size = file.stat().st_size / 2**20
    return archive, [Check("archive", Status.PASS, f"{named.file}, {size:.1f} MiB, SHA-256 {named.sha256[:16]}…")]


def _sample_check(
    record: EvaluationRecord,
    module: nn.Module,
    images: Images,
    threat: ThreatModel,
    device: torch.device,
    size: int,
    batch_size: int,
    monitor: Monitor,
) -> Check:
    """Attack images that are called robust with the record's first attack and a seed that nobody could foresee.

    The share of false claims has a 95 % bound by Clopper and Pearson (1934): 1 - 0.05^(1/K) after K without success.
    """
    samples, seed = record.samples, secrets.randbelow(2**31)
    robust = np.flatnonzero(samples.worst_case_N())
    if not samples.robust or not len(robust):
        return Check("robust sample", Status.SKIPPED, "no image is called robust")
    first = next(iter(samples.robust)).removesuffix("-provisional")
    if first == "transfer":
        return Check("robust sample", Status.SKIPPED, "the record's first attack needs a surrogate")
    chosen = np.sort(np.random.default_rng(seed).choice(robust, min(size, len(robust)), replace=False))
    attack = make_attack(first).members(threat.norm)[0]
    done = attack_model(
        module,
        images.subset(torch.from_numpy(chosen)),
        threat,
        [attack],
        Settings(seed=seed, batch_size=batch_size),
        device=device,
        monitor=monitor,
    )
    n, broken = len(chosen), int((~done.robust[attack.name]).sum())
    low = float(beta.ppf(0.05, broken, n - broken + 1)) if broken else 0.0
    high = float(beta.ppf(0.95, broken + 1, n - broken)) if broken < n else 1.0
    detail = f"{attack.name} with seed {seed} breaks {broken} of {n} images called robust: false claims < {high:.1%}"
    return Check("robust sample", Status.FAIL if low > SEED_NOISE else Status.PASS, detail, n, broken)
