"""A model of the zoo, with all that is known of it under the threat that it was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from deatbench.records import Diagnostics, EpochMetrics, ModelCard
from deatbench.report.standings.boards import Board
from deatbench.report.standings.rows import Row
from deatbench.report.standings.runs import Run


@dataclass(frozen=True)
class Subject:
    """A model of the zoo with all that is known of it under its board's threat.

    `rows` are the board's rows in which a set of its weights stands; `epochs` may be empty.
    """

    board: Board
    card: ModelCard
    rows: tuple[Row, ...]
    epochs: tuple[EpochMetrics, ...]
    given_diagnostics: Diagnostics | None

    @cached_property
    def runs(self) -> list[Run]:
        """Its sets of weights, the one that the zoo keeps first."""
        runs = {
            run.training.checkpoint: run
            for row in self.rows
            for run in row.runs
            if run.training and run.card and run.card.id == self.card.id
        }
        return [runs[name] for name in sorted(runs, key=lambda name: (name != self.card.checkpoint, name))]

    @property
    def kept(self) -> Run | None:
        """The weights that the zoo keeps; None if nobody has evaluated them."""
        first = next(iter(self.runs), None)
        return first if first and first.training and first.training.checkpoint == self.card.checkpoint else None

    @property
    def row(self) -> Row | None:
        """The board's row of the kept weights."""
        return next((row for row in self.rows if self.kept in row.runs), None)

    @cached_property
    def diagnostics(self) -> Diagnostics | None:
        """What was found about single images, if it speaks of these weights under this threat."""
        found, card = self.given_diagnostics, self.card
        if found is None or (found.dataset.name, found.threat) != (card.dataset, card.threat):
            return None
        return found if self.kept is None or found.model.sha256 == self.kept.model.sha256 else None

    @property
    def home(self) -> str:
        """Its folder in the zoo, relative to the working folder."""
        return f"model_zoo/{self.card.dataset}/{self.card.threat.slug}/{self.card.id}"
