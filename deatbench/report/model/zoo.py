"""The zoo's models with the accuracies of the weights that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deatbench.records import EvaluationRecord, Metric, ModelCard
from deatbench.report.standings.runs import AUTOATTACK, WORST_CASE, Run
from deatbench.store import read_record


@dataclass(frozen=True)
class ZooModel:
    """An entry: its card, all its evaluations, of whichever weights of its run, and whether its weights are there."""

    card: ModelCard
    evaluations: tuple[EvaluationRecord, ...]
    has_weights: bool

    @classmethod
    def read(cls, entry: Path) -> ZooModel:
        """The entry in a folder. Raises ConfigError or MissingError naming the first bad file."""
        paths = sorted(entry.glob("evaluations/*.json"))
        records = tuple(read_record(path, EvaluationRecord) for path in paths)
        card = read_record(entry / "card.json", ModelCard)
        return cls(card, records, card.weights_file is not None and (entry / Path(card.weights_file).name).is_file())

    @cached_property
    def _run(self) -> Run:
        """The weights that the zoo keeps, with their evaluations under the threat on their card."""
        card = self.card
        records = [
            record
            for record in self.evaluations
            if (record.dataset.name, record.threat) == (card.dataset, card.threat)
            and (record.training is None or record.training.checkpoint == card.checkpoint)
        ]
        return Run(records, card)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Accuracies of the weights that the zoo keeps, under the threat on their card."""
        return self._run.metrics

    @property
    def deciding(self) -> EvaluationRecord | None:
        """The evaluation that ranks them; None if there is none."""
        return self._run.deciding if self._run.evaluations else None

    @property
    def method(self) -> str:
        """The training method's name."""
        return str(self.card.training.config["method"]["name"])

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: data set, threat, then worst case and AutoAttack downwards."""
        card, metrics = self.card, self.metrics
        down = [-metrics[name].value if name in metrics else 1.0 for name in (WORST_CASE, AUTOATTACK)]
        return card.dataset, card.threat.norm, card.threat.eps, *down, card.id

    def document(self) -> dict[str, Any]:
        """The card as plain data, with its `metrics`."""
        metrics = {name: metric.model_dump(mode="json") for name, metric in sorted(self.metrics.items())}
        return self.card.model_dump(mode="json") | {"metrics": metrics}
