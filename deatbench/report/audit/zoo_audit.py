"""The zoo's share of an audit: cards in their places, the weights that they name, and what belongs to these."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from deatbench.errors import DeatbenchError
from deatbench.records import Diagnostics, EvaluationRecord, ModelCard
from deatbench.report.audit.arithmetic import radius_faults
from deatbench.report.audit.findings import ARCHIVE, LOOKS, Audit, files_below, is_file
from deatbench.report.audit.training_claims import card_faults, history_faults, info_faults, network_faults
from deatbench.report.audit.weight_hash import state_sha256
from deatbench.report.histories import read_epochs

CARD, METRICS, DIAGNOSTICS, WEIGHTS = "card.json", "metrics.jsonl", "diagnostics.json", "model.safetensors"


def audit_zoo(found: Audit) -> None:
    """Every file under model_zoo/."""
    entries: dict[Path, list[Path]] = defaultdict(list)
    for path in files_below(found, found.home.zoo):
        depth = len(path.relative_to(found.home.zoo).parts)
        if depth < 4 and path.name != "README.md":
            found.say(path, "lies outside of <dataset>/<threat>/<id>/")
        elif depth >= 4:
            entries[path.parents[depth - 4]].append(path)
    for entry, paths in entries.items():
        _Entry(found, entry).check(paths)


class _Entry:
    """One folder of the zoo: its card first, since all else is held against it."""

    def __init__(self, found: Audit, folder: Path) -> None:
        self.found, self.folder = found, folder
        self.card: ModelCard | None = None
        self.weights = WEIGHTS
        self.network: str | None = None  # hash of the state_dict that the weight file holds
        self.networks: dict[str, tuple[str, Path]] = {}  # per checkpoint that of the first evaluation

    def check(self, paths: list[Path]) -> None:
        """Every file of the entry."""
        card = self.folder / CARD
        if card in paths:
            self._card(card)
        else:
            self.found.say(self.folder, f"there is no {CARD}")
        if self.folder / METRICS not in paths:
            self.found.absent["training curves"] += 1
        for path in paths:
            self._file(path)

    def _file(self, path: Path) -> None:
        below = path.relative_to(self.folder).parts
        if below in ((CARD,), (self.weights,), ("README.md",)):
            return
        if below == (METRICS,):
            self._metrics(path)
        elif below == (DIAGNOSTICS,):
            self._diagnostics(path)
        elif below[0] == "evaluations" and len(below) == 2 and path.suffix == ".json":
            self._evaluation(path)
        elif below[0] == "evaluations" and len(below) == 2 and path.suffix == ARCHIVE:
            self.found.archive(path)
        elif below[0] in LOOKS and len(below) == 2 and path.suffix == ".json":
            self.found.look(path)
        else:
            self.found.say(path, "does not belong to an entry of the zoo")

    def _card(self, path: Path) -> None:
        self.card = self.found.load(path, ModelCard, "cards")
        if self.card is None:
            return
        card, place = self.card, self.folder.relative_to(self.found.home.zoo).parts
        if place[:2] != (card.dataset, card.threat.slug):
            self.found.say(path, f"it belongs to {card.dataset}/{card.threat.slug}/, not {place[0]}/{place[1]}/")
        if card.training.weights.get(card.checkpoint) != card.weights_sha256:
            self.found.say(path, f"weights_sha256 is not that of the training's {card.checkpoint} weights")
        if card.model != card.training.model:
            self.found.say(path, "model is not the one that was trained")
        self._say(path, card_faults(card))
        if card.weights_file is None:
            return
        self.weights = card.weights_file
        weights = self.folder / card.weights_file
        if weights.parent != self.folder or weights.suffix != ".safetensors":
            self.found.say(path, f"weights_file {card.weights_file!r} is not a .safetensors file beside it")
        elif is_file(weights):
            self._weights(weights, card)
        else:
            self.found.absent["weight files"] += 1

    def _weights(self, path: Path, card: ModelCard) -> None:
        self.found.checked["weight files"] += 1
        if (size := path.stat().st_size) != card.weights_bytes:
            self.found.say(path, f"has {size:,} bytes, {card.weights_bytes:,} on its card")
            return
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != card.weights_sha256:
            self.found.say(path, "its SHA-256 is not the one on its card")
            return
        try:
            self.network = state_sha256(data, path.name)
        except DeatbenchError as error:
            self.found.say(path, error.message)

    def _evaluation(self, path: Path) -> None:
        record = self.found.evaluation(path, self.card.model.num_classes if self.card else None)
        if record is None or self.card is None:
            return
        made, trained = record.training, self.card.training
        if made is None or made.run_id != trained.id:
            self.found.say(path, f"it is not an evaluation of {trained.id}")
            return
        if made.checkpoint not in trained.weights:
            self.found.say(path, f"the training kept no {made.checkpoint} weights")
        if (made.digest, made.config) != (trained.digest, trained.config):
            self.found.say(path, "its training was configured otherwise than the card's")
        self._say(path, info_faults(made, trained))
        self._say(path, network_faults(record, self.card))
        first = self.networks.setdefault(made.checkpoint, (record.model.sha256, path))
        if made.checkpoint == self.card.checkpoint and self.network is not None:
            self._network(path, record, self.network, f"the weights in {self.weights}")
        elif first[1] != path:
            self._network(path, record, first[0], f"those of {first[1].name}")

    def _network(self, path: Path, record: EvaluationRecord | Diagnostics, known: str, whose: str) -> None:
        if record.model.sha256 != known:
            self.found.say(path, f"model.sha256 {record.model.sha256[:16]}… is not {whose}, {known[:16]}…")

    def _diagnostics(self, path: Path) -> None:
        diagnostics = self.found.load(path, Diagnostics, "diagnoses")
        if diagnostics is None:
            return
        for point in diagnostics.curve:
            self._say(path, radius_faults(point.model_dump(), "curve"))
        if self.card is not None:
            self._say(path, network_faults(diagnostics, self.card))
        if self.network is not None:
            self._network(path, diagnostics, self.network, f"the weights in {self.weights}")

    def _metrics(self, path: Path) -> None:
        self.found.checked["training curves"] += 1
        try:
            epochs = read_epochs(path)
        except DeatbenchError as error:
            self.found.say(path, error.message.replace(f"{path} ", ""))
            return
        if self.card is not None:
            self._say(self.folder / CARD, history_faults(self.card.training, epochs))

    def _say(self, path: Path, faults: Iterable[str]) -> None:
        for fault in faults:
            self.found.say(path, fault)
