"""`deatbench leaderboard`: write the pages from the records, check both, compare, exchange, and look at them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import rich_click as click

from deatbench.cli import options

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of text.")


@click.group()
def leaderboard() -> None:
    """Write the leaderboard pages, check the records behind them, compare, exchange, or show them in a browser.

    \b
    Examples:
      deatbench leaderboard build
      deatbench leaderboard check --pages
      deatbench leaderboard diff ../before
      deatbench leaderboard import robustbench ~/robustbench
      deatbench leaderboard serve --port 8080
    """


@leaderboard.command()
@options.existing_home
def build(home: Path) -> None:
    """Write leaderboards/ from the records; prints the pages' paths.

    Records are those of model_zoo/, evaluations/ and published/ in the working folder.

    \b
    Example:
      deatbench leaderboard build --home ~/robustness
    """
    from deatbench.report import build_leaderboards
    from deatbench.store import Home

    for path in build_leaderboards(Home(home.expanduser())):
        print(path)


@leaderboard.command()
@options.existing_home
@click.option("--pages", is_flag=True, help="Also whether leaderboards/ is what the records give, byte by byte.")
@_as_json
def check(home: Path, pages: bool, as_json: bool) -> None:
    """Check every file under model_zoo/, evaluations/, published/ and sweeps/, and say all that is wrong.

    Each record's form, name and place; hashes of weights and archives; metrics worked out again from the verdict bits;
    no image robust that is wrong without attack; no suite above one of its members; each radius as written; and that
    evaluations, verifications and reproductions belong to what lies beside them. No network is run: that is
    `deatbench verify`.

    Prints a line per fault. Exit code 3 if there is any.

    \b
    Examples:
      deatbench leaderboard check
      deatbench leaderboard check --pages --home ~/robustness
    """
    from deatbench.errors import MismatchError
    from deatbench.report.audit.audit import audit
    from deatbench.store import Home

    found = audit(Home(home.expanduser()), pages=pages)
    if as_json:
        faults = [{"file": fault.file, "message": fault.message} for fault in found.faults]
        document = {"checked": dict(sorted(found.checked.items())), "elsewhere": dict(found.absent), "faults": faults}
        print(json.dumps(document, indent=1))
    else:
        for fault in found.faults:
            print(fault)
        print(found.summary)
    if found.faults:
        raise MismatchError(found.verdict)


@leaderboard.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path), required=False)
@options.existing_home
@_as_json
def diff(old: Path, new: Path | None, home: Path, as_json: bool) -> None:
    """Say what differs between the boards of two working folders, in Markdown for a pull request.

    OLD and NEW hold model_zoo/, evaluations/ and published/; NEW is the working folder unless it is named. Told are
    rows that are new, gone or changed: metrics with their 95 % intervals, places, flags and tiers of verification.

    \b
    Examples:
      git worktree add ../before main && deatbench leaderboard diff ../before
      deatbench leaderboard diff ../before . --json
    """
    from deatbench.errors import MissingError
    from deatbench.report.audit.difference import difference
    from deatbench.report.audit.difference_page import as_json as to_json
    from deatbench.report.audit.difference_page import as_markdown
    from deatbench.report.inputs import read_inputs
    from deatbench.store import Home

    folders = [old.expanduser(), (new or home).expanduser()]
    for folder in folders:
        if not folder.is_dir():
            raise MissingError(f"no folder {folder}", "name one that holds model_zoo/, evaluations/ or published/")
    found = difference(*(read_inputs(Home(folder)) for folder in folders))
    sys.stdout.write(json.dumps(to_json(found), indent=1) + "\n" if as_json else as_markdown(found))


@leaderboard.group("import")
def take() -> None:
    """Take over results that others published; pages show them apart from measured ones.

    \b
    Example:
      deatbench leaderboard import robustbench ~/robustbench
    """


@take.command()
@click.argument("path", type=click.Path(path_type=Path))
@options.home
@_as_json
def robustbench(path: Path, home: Path, as_json: bool) -> None:
    """Take over the results of a checkout of RobustBench, or of a folder in its model_info/.

    Writes a record per result under published/robustbench/. Radii stay as written: 0.031 and 8/255 are different
    boards. Results on corruptions, and files that are not whole, are left out and named.

    \b
    Examples:
      deatbench leaderboard import robustbench ~/robustbench
      deatbench leaderboard import robustbench ~/robustbench/model_info/cifar10/Linf
    """
    from deatbench.errors import MissingError
    from deatbench.report.escape import plain
    from deatbench.report.reference.robustbench import read_model_info, write_results
    from deatbench.store import Home

    place = Home(home.expanduser())
    found = read_model_info(path.expanduser())
    skipped = [{"path": plain(str(one.path)), "why": plain(one.why)} for one in found.skipped]
    if not as_json:
        for one in skipped:
            print(f"skipped {one['path']}: {one['why']}", file=sys.stderr)
    if not found.results:
        raise MissingError(f"no result in {path} can be taken over", "name a checkout of RobustBench")
    written = write_results(place, found.results)
    if as_json:
        print(json.dumps({"written": [str(file) for file in written], "skipped": skipped}, indent=1))
    else:
        print(f"{len(written):,} results written under {place.published}")


@leaderboard.command()
@click.option("--to", "target", type=click.Choice(["robustbench"]), required=True, help="Whose format.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="model_info", show_default=True, help="Folder to write."
)
@options.existing_home
@_as_json
def export(target: str, out: Path, home: Path, as_json: bool) -> None:
    """Write ranked runs in the format of another board; prints the files' paths.

    For RobustBench: runs on CIFAR-10, CIFAR-100 or ImageNet in Linf or L2 whose AutoAttack saw at least 1,000 images.
    Which are left out is said on stderr, with the reason.

    \b
    Example:
      deatbench leaderboard export --to robustbench --out model_info
    """
    from deatbench.report.inputs import read_inputs
    from deatbench.report.reference.robustbench_export import export as files_for
    from deatbench.report.standings.boards import boards_of
    from deatbench.store import Home, atomic_write_text

    made = files_for(boards_of(read_inputs(Home(home.expanduser()))))
    paths = {out.expanduser() / name: info for name, info in made.files.items()}
    for path, info in paths.items():
        atomic_write_text(path, json.dumps(info, indent=2) + "\n")
    left_out = [{"board": run.board, "run": run.name, "why": run.why} for run in made.left_out]
    if as_json:
        print(json.dumps({"written": [str(path) for path in paths], "left_out": left_out}, indent=1))
        return
    if not paths:
        print("note: no run that could be written", file=sys.stderr)
    for path in paths:
        print(path)
    for one in left_out:
        print(f"left out {one['run']} ({one['board']}): {one['why']}", file=sys.stderr)


@leaderboard.command()
@options.existing_home
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
