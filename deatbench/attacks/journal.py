"""Where a long search keeps its place, so that a kill costs seconds and not hours.

A place is a flat dict of tensors from which the search goes on bit by bit as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Place = dict[str, Tensor]


class Journal:
    """Receives places; this one forgets them. The engine's writes them to disk from time to time."""

    def recall(self) -> Place | None:
        """The place kept last, on the CPU; None: begin at the beginning."""
        return None

    def keep(self, place: Callable[[], Place]) -> None:
        """Called after each iteration; `place` is asked only when it is time to write."""


FORGETFUL = Journal()
