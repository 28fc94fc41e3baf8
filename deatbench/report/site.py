"""Everything that is generated: the pages under leaderboards/ and the cards in the zoo.

The output follows from the records alone: same records, same bytes. Pages of boards that are gone are removed,
but only files that carry the mark of this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deatbench.errors import ConfigError
from deatbench.report.board.page import board_pages, index_pages
from deatbench.report.comparison.page import compare_pages
from deatbench.report.deat.page import deat_pages
from deatbench.report.inputs import Inputs, read_inputs
from deatbench.report.model.card import card_pages
from deatbench.report.model.page import model_pages
from deatbench.report.rendering import MARK
from deatbench.report.standings.boards import boards_of
from deatbench.report.sweeps.page import FOLDER, sweep_pages
from deatbench.report.time.page import time_pages
from deatbench.store import Home, atomic_write_text


def build_leaderboards(home: Home) -> list[Path]:
    """Write every page that follows from the records under `home`; the paths of those in leaderboards/, sorted.

    Raises ConfigError for a record whose dataset or threat is no file name and for a folder that is a link,
    DeatbenchError if writing fails.
    """
    texts = generated(home)
    _refuse_links(home, texts)
    for path, text in texts.items():
        if not (path.is_file() and path.read_bytes() == text.encode()):
            atomic_write_text(path, text)
    for path in sorted(home.leaderboards.rglob("*")):
        if path not in texts and path.is_file() and _is_generated(path):
            path.unlink()
    return sorted(path for path in texts if path.is_relative_to(home.leaderboards))


def generated(home: Home) -> dict[Path, str]:
    """The text of every file that follows from the records under `home`: pages and the zoo's cards."""
    inputs = read_inputs(home)
    pages = {home.leaderboards / name: text for name, text in pages_of(inputs).items()}
    return pages | {home.zoo / name: text for name, text in card_pages(inputs).items()}


def pages_of(inputs: Inputs) -> dict[str, str]:
    """Every page by its path below leaderboards/. A pure function."""
    boards = boards_of(inputs)
    pages = (
        index_pages(boards, inputs)
        | time_pages(inputs, boards)
        | deat_pages(inputs, boards)
        | sweep_pages(inputs.sweeps)
    )
    for board in boards:
        pages |= board_pages(board, inputs) | compare_pages(board, inputs) | model_pages(board, inputs)
    return pages


def _refuse_links(home: Home, paths: Iterable[Path]) -> None:
    """Nothing is written outside of the working folder: folders pulled from others may be links to anywhere."""
    root = home.path.resolve()
    for folder in sorted({path.parent for path in paths}):
        if folder.resolve() != root / folder.relative_to(home.path):
            raise ConfigError(f"a link leads from {folder} to {folder.resolve()}", "remove the link")


def _is_generated(path: Path) -> bool:
    """Whether a file carries our mark, or is the data of a figure, which cannot."""
    if path.suffix == ".csv":
        return path.parent.name == FOLDER
    if path.suffix not in (".html", ".md", ".svg"):
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(1000)
