"""`deatbench plot`: the training curves of one or several runs."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from deatbench.cli import options
from deatbench.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from deatbench.report.histories import Curve, History
    from deatbench.store import Home, RunFolder

FORMATS = ("svg", "png", "pdf")
LATEST = "latest"


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--metric", metavar="LIST", help="Panels: robust,clean,loss,lr (default), fgsm, or names in metrics.jsonl."
)
@options.home
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="An .svg, .png or .pdf file.")
@options.as_json
def plot(runs: tuple[str, ...], metric: str | None, home: Path, out: Path | None, as_json: bool) -> None:
    """Draw the training curves of one or several runs.

    RUN is a run folder or its name, a model of the zoo whose run lies here, or latest (the default): the run that
    ended an epoch last, be it still in training. Runs that differ only in their seed become one curve with a band.
    The figure goes to curves.svg in the run's folder, of several runs in the working folder.

    \b
    Examples:
      deatbench plot
      deatbench plot digits-vgg16-deat-3f2a91-s0 digits-vgg16-pgd-at-77c01d-s0 --out compare.pdf
      deatbench plot runs/*-deat-* --metric robust --out overfitting.png
    """
    from deatbench.report.curves import draw
    from deatbench.report.histories import curves_of, unlabelled
    from deatbench.report.panels import DEFAULT_PANELS, choose_panels
    from deatbench.store import Home, atomic_write_bytes

    panels = choose_panels(options.parse_names(metric) or DEFAULT_PANELS)
    at = Home(home.expanduser())
    folders = _folders(runs or (LATEST,), at)
    path = out.expanduser() if out else (folders[0].path if len(folders) == 1 else at.path) / "curves.svg"
    format = path.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise ConfigError(f"--out {path} is no file of a known kind", f"it ends in .{', .'.join(FORMATS)}")
    curves = curves_of([_history(folder) for folder in folders])
    _say(curves, unlabelled(curves))
    atomic_write_bytes(path, draw(curves, panels, format))
    print(f"curves of {len(folders)} run{'s' * (len(folders) > 1)}: {path}", file=sys.stderr)
    print(json.dumps(_summary(path, curves), indent=1, ensure_ascii=False) if as_json else path)


def _folders(names: Sequence[str], home: Home) -> list[RunFolder]:
    """The runs' folders in the order named, each once."""
    found: dict[Path, RunFolder] = {}
    for name in names:
        folder = _latest(home) if name == LATEST else _folder(name, home)
        found.setdefault(folder.path.resolve(), folder)
    return list(found.values())


def _latest(home: Home) -> RunFolder:
    from deatbench.store import RunFolder

    metrics = sorted(home.runs.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    if not metrics:
        raise MissingError(f"no run with metrics under {home.runs}", "`deatbench train` makes one, --home says where")
    print(f"note: taking the latest run, {metrics[-1].parent.name}", file=sys.stderr)
    return RunFolder(metrics[-1].parent)


def _folder(name: str, home: Home) -> RunFolder:
    """The run of that name. Raises MissingError with the nearest match, ConfigError where two are called so."""
    from deatbench.store import RunFolder

    path = Path(name).expanduser()
    plain = name.removeprefix("zoo:")
    inside = plain not in ("", ".", "..") and not any(separator in plain for separator in "/\\\0")
    named = home.runs / plain if inside and (home.runs / plain).is_dir() else None
    if path.is_dir() and named is not None and not path.samefile(named):
        raise ConfigError(f"RUN {name!r} can be read as ./{path} and as {named}", "name one of them in full")
    if named is not None or path.is_dir():
        folder = RunFolder(named or path)
        if not folder.config.is_file():
            raise MissingError(f"{folder.path} is no run (it has no config.yaml)", "name a folder under runs/")
        return folder
    entries = [entry.name for entry in home.zoo_entries()]
    if plain in entries:
        raise MissingError(f"the zoo keeps no curves, and the run {home.runs / plain} is not here")
    known = [folder.parent.name for folder in home.runs.glob("*/config.yaml")]
    near = difflib.get_close_matches(plain, sorted({*known, *entries}), n=2, cutoff=0.6)
    guess = f"did you mean {' or '.join(near)}?" if near else f"runs lie in {home.runs}; --home names another folder"
    raise MissingError(f"no run {name!r}", guess)


def _history(folder: RunFolder) -> History:
    from deatbench.config import parse_yaml
    from deatbench.records import TrainingRecord
    from deatbench.report.histories import History, read_metrics
    from deatbench.store import read_record

    epochs = read_metrics(folder)
    try:
        config = parse_yaml(folder.config.read_text(encoding="utf-8"), str(folder.config))
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"cannot read {folder.config}: {error}") from error
    best = read_record(folder.training, TrainingRecord).best_epoch if folder.finished else None
    return History(folder.path.resolve().name, config, epochs, best)


def _say(curves: Sequence[Curve], unlabelled: Sequence[str]) -> None:
    """What the figure itself does not say."""
    if unlabelled:
        print(f"note: the curves also differ in {', '.join(unlabelled)}", file=sys.stderr)
    for curve in curves:
        ahead = sum(run.epochs[-1].epoch > curve.common_epochs() for run in curve.runs)
        if ahead:
            print(
                f"note: {curve.label}: the mean ends at epoch {curve.common_epochs()}, which all seeds have reached",
                file=sys.stderr,
            )


def _summary(path: Path, curves: Sequence[Curve]) -> dict[str, object]:
    return {
        "path": str(path),
        "curves": [
            {
                "label": curve.label,
                "runs": [
                    {
                        "name": run.name,
                        "seed": run.config.get("seed"),
                        "best_epoch": run.best_epoch,
                        "epochs": [epoch.model_dump(mode="json") for epoch in run.epochs],
                    }
                    for run in curve.runs
                ],
            }
            for curve in curves
        ],
    }
