"""`deatbench leaderboard`: write the pages from the records, and look at them."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from deatbench.cli import options


@click.group()
def leaderboard() -> None:
    """Write the leaderboard pages, or show them in a browser.

    \b
    Examples:
      deatbench leaderboard build
      deatbench leaderboard serve --port 8080
    """


@leaderboard.command()
@options.home
def build(home: Path) -> None:
    """Write leaderboards/ from the records; prints the pages' paths.

    Records are those of model_zoo/ and evaluations/ in the working folder.

    \b
    Example:
      deatbench leaderboard build --home ~/robustness
    """
    from deatbench.report import build_leaderboards
    from deatbench.store import Home

    for path in build_leaderboards(Home(home.expanduser())):
        print(path)


@leaderboard.command()
@options.home
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
def serve(home: Path, port: int) -> None:
    """Serve the pages on this machine until Ctrl-C.

    \b
    Example:
      deatbench leaderboard serve --port 8080
    """
    from deatbench.report import serve as serve_pages
    from deatbench.store import Home

    serve_pages(Home(home.expanduser()), port)
