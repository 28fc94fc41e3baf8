"""Everything under leaderboards/: which pages there are, and writing them.

The output follows from the records alone: same records, same bytes. Pages of boards that are gone are removed,
but only files that carry the mark of this module.
"""

from __future__ import annotations

from pathlib import Path

from deatbench.report.board_page import board_pages, index_pages
from deatbench.report.boards import boards_of
from deatbench.report.inputs import Inputs, read_inputs
from deatbench.report.rendering import MARK
from deatbench.store import Home, atomic_write_text


def build_leaderboards(home: Home) -> list[Path]:
    """Write every page that follows from the records under `home` and return their paths, sorted.

    Raises ConfigError for a record whose dataset or threat is no file name, DeatbenchError if writing fails.
    """
    paths = {home.leaderboards / name: text for name, text in pages_of(read_inputs(home)).items()}
    for path, text in paths.items():
        atomic_write_text(path, text)
    for path in sorted(home.leaderboards.rglob("*")):
        if path.suffix in (".html", ".md", ".svg") and path not in paths and _is_generated(path):
            path.unlink()
    return sorted(paths)


def pages_of(inputs: Inputs) -> dict[str, str]:
    """Every page by its path below leaderboards/. A pure function."""
    boards = boards_of(inputs)
    pages = index_pages(boards, inputs)
    for board in boards:
        pages |= board_pages(board, inputs)
    return pages


def _is_generated(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(1000)
