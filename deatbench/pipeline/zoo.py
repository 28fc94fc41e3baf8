"""The zoo's entries: is one what its card says, and how a finished run becomes one."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError

from deatbench.archs.build import count_params
from deatbench.config import RunConfig
from deatbench.engine.checkpoint import weights_sha256
from deatbench.errors import DeatbenchError, MismatchError, MissingError
from deatbench.evidence import write_evaluation
from deatbench.models.runs import trained_model
from deatbench.models.zoo import network_of, weights_of
from deatbench.pipeline.checks import Check, Status
from deatbench.pipeline.publication import DIAGNOSTICS, add_to_zoo
from deatbench.records import Diagnostics, EvaluationRecord, ModelCard, TrainingRecord
from deatbench.store import Home, RunFolder, read_record, sha256_of

CPU = torch.device("cpu")


def verify_entry(entry: Path, home: Home) -> list[Check]:
    """What is found on looking at the entry in folder `entry`: card, weights, evaluations, archives; no attack is run.

    Weights that are not kept here are NOT PROVEN. Nothing that an entry holds raises: it fails its check.
    """
    try:
        card = read_record(entry / "card.json", ModelCard)
        checks = [_card_check(card, entry)]
    except DeatbenchError as error:
        return [Check("card", Status.FAIL, _inside(error, entry))]
    weights, network_sha256 = _weights_check(card, entry, home)
    records: list[EvaluationRecord] = []
    wrong: list[str] = []
    for path in sorted((entry / "evaluations").glob("*.json")):
        try:
            record = read_record(path, EvaluationRecord)
        except DeatbenchError as error:
            wrong.append(_inside(error, entry))
            continue
        records.append(record)
        wrong += [f"{record.id} {complaint}" for complaint in _complaints(record, path, card, network_sha256)]
    found = f"{len(records)}, whose metrics follow from their verdict bits"
    evaluations = Check("evaluations", Status.FAIL if wrong else Status.PASS, "; ".join(wrong) or found, len(records))
    checks += [weights, evaluations, *_archive_check(records, entry / "evaluations")]
    return checks + _diagnostics_check(entry, network_sha256)


def _inside(error: DeatbenchError, entry: Path) -> str:
    """What is wrong, with paths as they are within the entry."""
    return error.message.replace(f"{entry}/", "")


def _card_check(card: ModelCard, entry: Path) -> Check:
    """That it lies where it says, and that its parts speak of one run."""
    training = card.training
    place = (card.dataset, card.threat.slug, card.id)
    try:
        config = RunConfig.model_validate(training.config)
        recipe = (config.digest, config.run_id)
    except ValidationError as error:
        return Check("card", Status.FAIL, f"its recipe does not load: {error.errors()[0]['msg']}")
    claims = (
        (entry.parts[-3:] == place, f"says that it belongs to {'/'.join(place)}"),
        (training.id == card.id, f"is called {card.id}, its training {training.id}"),
        (training.model == card.model, "and its training describe different models"),
        (training.dataset == card.dataset, f"is of {card.dataset}, its training of {training.dataset}"),
        (recipe == (training.digest, training.id), "holds a recipe that is not the one of its name"),
        (training.weights.get(card.checkpoint) == card.weights_sha256, "and its training name different weights"),
    )
    wrong = [complaint for holds, complaint in claims if not holds]
    if wrong:
        return Check("card", Status.FAIL, f"it {'; it '.join(wrong)}")
    return Check("card", Status.PASS, f"{card.dataset}, {card.threat.norm} {card.threat.eps_text}, {card.model.arch}")


def _weights_check(card: ModelCard, entry: Path, home: Home) -> tuple[Check, str | None]:
    """The check, and the digest of the network's parameters as evaluations name it; None where it cannot be had."""
    try:
        path = weights_of(card, entry, home)
        if path is None:
            size = f"{card.weights_bytes / 2**20:.1f} MiB"
            return Check("weights", Status.UNPROVEN, f"{size}, not kept here; its command makes them again"), None
        size_on_disk = path.stat().st_size
        network = network_of(card, entry, home, CPU)
    except (DeatbenchError, OSError, RuntimeError, ValueError, TypeError) as error:
        message = _inside(error, entry) if isinstance(error, DeatbenchError) else f"{type(error).__name__}: {error}"
        return Check("weights", Status.FAIL, message.replace(str(home.path), "").lstrip("/")), None
    claims = (
        (size_on_disk == card.weights_bytes, f"has {size_on_disk:,} bytes, on the card {card.weights_bytes:,}"),
        (count_params(network) == card.training.n_params, "has another number of parameters than the card says"),
    )
    wrong = [complaint for holds, complaint in claims if not holds]
    if wrong:
        return Check("weights", Status.FAIL, f"{path.name} {'; '.join(wrong)}"), None
    found = f"{path.name}, SHA-256 {card.weights_sha256[:16]}…"
    return Check("weights", Status.PASS, found), weights_sha256(network)


def _complaints(record: EvaluationRecord, path: Path, card: ModelCard, network_sha256: str | None) -> list[str]:
    """What speaks against this record's being one of the entry's run. (It loaded: its metrics follow from its bits.)"""
    training = record.training
    claims = [(path.stem == record.id, f"lies in {path.name}")]
    if training is not None:
        claims += [
            ((training.run_id, training.digest) == (card.id, card.training.digest), "is of another run"),
            (training.config == card.training.config, "was made by another recipe"),
            (training.checkpoint in card.training.weights, f"is of {training.checkpoint} weights that no run kept"),
        ]
    if network_sha256 is not None and (training is None or training.checkpoint == card.checkpoint):
        claims.append((record.model.sha256 == network_sha256, "speaks of other weights"))
    return [complaint for holds, complaint in claims if not holds]


def _archive_check(records: list[EvaluationRecord], folder: Path) -> list[Check]:
    """Whether each archive of adversarial images is the one on record; nothing where no record names any."""
    named = [record.adversarials for record in records if record.adversarials is not None]
    if not named:
        return []
    missing = [archive.file for archive in named if not (folder / archive.file).is_file()]
    wrong = [a.file for a in named if a.file not in missing and sha256_of(folder / a.file) != a.sha256]
    if wrong:
        return [Check("archives", Status.FAIL, f"not the ones on record: {', '.join(wrong)}", len(named), len(wrong))]
    if missing:
        return [Check("archives", Status.UNPROVEN, f"not kept here: {', '.join(missing)}", len(named))]
    return [Check("archives", Status.PASS, f"{len(named)} of adversarial images", len(named))]


def _diagnostics_check(entry: Path, network_sha256: str | None) -> list[Check]:
    """Whether what the model's page shows was seen on these weights; nothing where nobody has looked."""
    path = entry / DIAGNOSTICS
    if not path.is_file():
        return []
    try:
        found = read_record(path, Diagnostics)
    except DeatbenchError as error:
        return [Check("diagnostics", Status.FAIL, _inside(error, entry))]
    if network_sha256 is None:
        return [Check("diagnostics", Status.UNPROVEN, "without weights to compare with")]
    if found.model.sha256 != network_sha256:
        return [Check("diagnostics", Status.FAIL, f"{DIAGNOSTICS} is of other weights")]
    return [Check("diagnostics", Status.PASS, f"{found.attack} on {found.dataset.n:,} images")]


def add_run(home: Home, folder: RunFolder) -> tuple[Path, int]:
    """Enter a finished run with its evaluations into the zoo; returns the entry and how many evaluations it has.

    Raises MissingError if the run is not finished, CheckpointError or MismatchError if a file of it is not what the
    run's records say.
    """
    if not folder.finished:
        raise MissingError(f"{folder.path} is no finished run", "`deatbench run` or `deatbench train` makes one")
    training = read_record(folder.training, TrainingRecord)
    kept = {weights_sha256(trained_model(folder, name, CPU).module) for name in training.weights}
    own = _evaluations(folder.evaluations)
    foreign = sorted(record.id for record in own if record.model.sha256 not in kept)
    if foreign:
        raise MismatchError(f"{folder.evaluations} holds evaluations of weights that the run has not: {foreign[0]}")
    archives = [found for record in own if (found := _archive(record, folder.evaluations)) is not None]
    entries = [entry for entry in home.zoo_entries() if entry.name == training.id]
    before = [r for entry in entries for r in _evaluations(entry / "evaluations") if r.model.sha256 in kept]
    entry = add_to_zoo(home, folder, training, [*before, *own])
    for record, archive in archives:
        write_evaluation(entry / "evaluations", record, archive)
    return entry, len({record.id for record in (*before, *own)})


def _evaluations(folder: Path) -> list[EvaluationRecord]:
    return [read_record(path, EvaluationRecord) for path in sorted(folder.glob("*.json"))]


def _archive(record: EvaluationRecord, folder: Path) -> tuple[EvaluationRecord, bytes] | None:
    """The record with its archive of adversarial images, where there is one. Raises MismatchError if it is another."""
    named = record.adversarials
    if named is None or not (folder / named.file).is_file():
        return None
    if sha256_of(folder / named.file) != named.sha256:
        raise MismatchError(f"the SHA-256 of {folder / named.file} is not the one on record")
    return record, (folder / named.file).read_bytes()
