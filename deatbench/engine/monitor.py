"""How the engine tells what it is doing. The command line shows it as a bar or as plain lines."""

from __future__ import annotations


class Monitor:
    """Receives notes and progress; this one keeps them to itself."""

    def note(self, text: str) -> None:
        """One line worth reading."""

    def start(self, title: str, total: float) -> None:
        """A piece of work of `total` units begins."""

    def advance(self, amount: float, status: str = "") -> None:
        """`amount` units more are done; `status` replaces the line's figures."""

    def finish(self, summary: str = "") -> None:
        """The piece of work is over."""
