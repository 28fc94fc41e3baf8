"""`deatbench plot`: which runs it finds, what it draws of them, and what it says where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from cli_runs import call, environment
from records_factory import epoch_metrics, model_card, training_record

from deatbench.errors import UnknownNameError
from deatbench.records import EpochMetrics
from deatbench.report.curves import draw, figure_of
from deatbench.report.histories import Curve, History, common_title, curves_of, unlabelled
from deatbench.report.panels import choose_panels, series_of

ROBUST = (0.30, 0.42, 0.40, 0.38)


def config(method: str = "pgd-at", seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "recipe": "digits",
        "arch": {"name": "vgg16", "width": 0.5},
        "dataset": "digits",
        "method": {"name": method},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "threat": {"norm": "Linf", "eps": "0.2"},
        "epochs": 4,
        "seed": seed,
        "evaluation": {"n": None},
    } | changes


def epochs(robust: Sequence[float | None] = ROBUST, **changes: Any) -> tuple[EpochMetrics, ...]:
    return tuple(
        epoch_metrics(number).model_copy(
            update={"val_robust_acc": value, "subset_robust_acc": 0.2 + 0.1 * number, "lr": 0.1 / number, **changes}
        )
        for number, value in enumerate(robust, 1)
    )


def history(robust: Sequence[float | None] = ROBUST, **changes: Any) -> History:
    return History(changes.pop("name", "a-run"), config(**changes), epochs(robust), best_epoch=2)


def write_run(home: Path, name: str, robust: Sequence[float | None] = ROBUST, *, done: bool = True, **to: Any) -> Path:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    settings = config(**to)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(f"{epoch.model_dump_json()}\n" for epoch in epochs(robust)))
    if done:
        record = training_record(settings["seed"], id=name, config=settings, best_epoch=2)
        (folder / "training.json").write_text(record.model_dump_json())
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of one method and a run of another, which was written last and is not finished."""
    for seed in range(3):
        write_run(tmp_path, f"digits-pgd-s{seed}", [value + 0.03 * seed for value in ROBUST], seed=seed)
    write_run(tmp_path, "digits-trades-s0", ROBUST[:1], done=False, method="trades")
    for age, folder in enumerate(sorted((tmp_path / "runs").iterdir())):
        os.utime(folder / "metrics.jsonl", (1000 + age, 1000 + age))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_drawn_into_its_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plot", "digits-pgd-s1")
    path = home / "runs" / "digits-pgd-s1" / "curves.svg"
    assert (done.code, done.out) == (0, "runs/digits-pgd-s1/curves.svg\n")
    assert done.err.strip() == "curves of 1 run: runs/digits-pgd-s1/curves.svg"
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert b"date" not in path.read_bytes().lower()
    by_path = call(capsys, "plot", "runs/digits-pgd-s1", "--out", "other.svg")
    assert by_path.code == 0
    assert (home / "other.svg").read_bytes() == path.read_bytes()


def test_latest_is_the_run_that_ended_an_epoch_last_even_if_it_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ((), ("latest",)):
        done = call(capsys, "plot", *arguments)
        assert done.out == "runs/digits-trades-s0/curves.svg\n"
        assert "note: taking the latest run, digits-trades-s0" in done.err


def test_several_runs_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [f"digits-pgd-s{seed}" for seed in range(3)]
    done = call(capsys, "plot", *runs, "digits-trades-s0", "runs/digits-pgd-s0", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["path"] == "curves.svg"
    assert (home / "curves.svg").is_file()
    assert [curve["label"] for curve in summary["curves"]] == ["pgd-at (3 seeds)", "trades"]
    assert [run["name"] for run in summary["curves"][0]["runs"]] == runs  # named twice, drawn once
    assert [run["best_epoch"] for curve in summary["curves"] for run in curve["runs"]] == [2, 2, 2, None]
    assert summary["curves"][1]["runs"][0]["epochs"][0]["val_robust_acc"] == 0.3


def test_a_mean_that_ends_early_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home, "digits-pgd-s7", ROBUST[:2], seed=7, done=False)
    done = call(capsys, "plot", "digits-pgd-s0", "digits-pgd-s7", "--out", "a.svg")
    assert done.code == 0
    assert "the mean ends at epoch 2" in done.err


def test_the_same_runs_give_the_same_bytes_elsewhere_and_without_torch(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plot", "digits-pgd-s0", "digits-pgd-s1", "digits-trades-s0", "--metric", "robust", "--out"]
    kinds = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    for kind in kinds:
        assert call(capsys, *arguments, f"here.{kind}").code == 0
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from deatbench.cli.main import main\n"
        f"for kind in {list(kinds)}:\n"
        f"    assert main([*{arguments}, f'there.{{kind}}']) == 0\n"
    )
    (home / "rc").write_text("lines.linewidth: 9\nsvg.fonttype: none\n")
    elsewhere = environment(PYTHONHASHSEED="7", SOURCE_DATE_EPOCH="0", MATPLOTLIBRC=str(home / "rc"))
    subprocess.run([sys.executable, "-c", program], cwd=home, env=elsewhere, check=True, capture_output=True)
    for kind, opening in kinds.items():
        assert (home / f"here.{kind}").read_bytes() == (home / f"there.{kind}").read_bytes()
        assert (home / f"here.{kind}").read_bytes().startswith(opening)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("digits-pdg-s1",), 4, "did you mean digits-pgd-s1"),
        (("nothing/like/it",), 4, "no run 'nothing/like/it'"),
        (("digits-pgd-s0", "--out", "figure.jpg"), 2, ".svg, .png, .pdf"),
        (("digits-pgd-s0", "--out", "figure"), 2, ".svg, .png, .pdf"),
        (("digits-pgd-s0", "--out", "runs/digits-pgd-s0/config.yaml/a.svg"), 1, "cannot write"),
        (("digits-pgd-s0", "--metric", "robsut"), 2, "did you mean robust"),
        (("digits-pgd-s0", "--metric", "fgsm"), 2, "no run has measured val_fgsm_acc"),
        (("runs",), 4, "no config.yaml"),
        (("--home", "elsewhere"), 4, "no run with metrics under elsewhere/runs"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    arguments: tuple[str, ...], code: int, words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(capsys, "plot", *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert words in done.err.splitlines()[-1]
    assert not list(home.rglob("curves.svg"))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda lines: [], 4, "no metrics yet"),
        (lambda lines: [lines[0], lines[1][:40]], 2, "metrics.jsonl line 2 is not valid JSON"),
        (lambda lines: [lines[0], lines[1].replace('"loss":1.2', '"loss":"low"')], 2, "line 2: loss: "),
        (lambda lines: [lines[0], lines[0]], 2, "line 2: epoch 1 does not come after 1"),
        (lambda lines: [lines[0], ""], 2, "line 2 is not valid JSON"),
    ],
)
def test_metrics_that_cannot_be_read_name_the_line(
    change: Any, code: int, words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = home / "runs" / "digits-pgd-s0" / "metrics.jsonl"
    metrics.write_text("".join(f"{line}\n" for line in change(metrics.read_text().splitlines())))
    done = call(capsys, "plot", "digits-pgd-s0")
    assert (done.code, len(done.err.splitlines())) == (code, 1)
    assert words in done.err


def test_a_run_that_just_began(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "runs" / "digits-trades-s0" / "metrics.jsonl").unlink()
    done = call(capsys, "plot", "digits-trades-s0")
    assert done.code == 4
    assert "no metrics yet" in done.err


def test_a_model_of_the_zoo_leads_to_its_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("digits-pgd-s0", "digits-gone-s0"):
        entry = home / "model_zoo" / "digits" / "Linf-0.2" / name
        entry.mkdir(parents=True)
        (entry / "card.json").write_text(model_card(id=name).model_dump_json())
    assert call(capsys, "plot", "zoo:digits-pgd-s0").out == "runs/digits-pgd-s0/curves.svg\n"
    gone = call(capsys, "plot", "zoo:digits-gone-s0")
    assert gone.code == 4
    assert "the zoo keeps no curves" in gone.err


def test_a_name_that_means_two_runs_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(home / "runs" / "digits-pgd-s0", home / "digits-pgd-s0")
    done = call(capsys, "plot", "digits-pgd-s0")
    assert done.code == 2
    assert "name one of them in full" in done.err


@pytest.mark.parametrize(
    ("changes", "labels", "besides"),
    [
        ([{}], ["a-run"], []),
        ([{"seed": 0}, {"seed": 1}], ["a-run (2 seeds)"], []),
        ([{"method": "deat"}, {"method": "trades"}], ["deat", "trades"], []),
        (
            [{"method": "deat", "optimizer": {"name": "deat", "lr": 0.3, "k1": 1}}, {"method": "trades"}],
            ["deat", "trades"],
            ["optimizer.name", "optimizer.lr"],
        ),
        (
            [{"optimizer": {"name": "sgd", "lr": 0.1}}, {"optimizer": {"name": "sgd", "lr": 0.3}}],
            ["optimizer.lr = 0.1", "optimizer.lr = 0.3"],
            [],
        ),
        (
            [{"threat": {"norm": "Linf", "eps": "0.1"}}, {"epochs": 8}, {}],
            ["ε = 0.1, epochs = 4", "ε = 0.2, epochs = 8", "ε = 0.2, epochs = 4"],
            [],
        ),
        ([{"name": "x"}, {"name": "y"}], ["x", "y"], []),  # one seed twice is no second seed
        ([{"method": "$\x1b[31m"}, {"method": "deat"}], ["$ [31m", "deat"], []),
    ],
)
def test_labels_say_what_differs_and_no_more(
    changes: Sequence[Mapping[str, Any]], labels: list[str], besides: list[str]
) -> None:
    curves = curves_of([history(**change) for change in changes])
    assert [curve.label for curve in curves] == labels
    assert unlabelled(curves) == besides
    assert draw(curves, choose_panels(["robust"]), "svg")


def test_seeds_become_mean_and_band() -> None:
    values = [(0.30, 0.42), (0.32, 0.41), (0.37, 0.40, 0.39)]
    (curve,) = curves_of([history(robust, seed=seed) for seed, robust in enumerate(values)])
    series = series_of(curve, "val_robust_acc", 100)
    assert series.epochs == (1, 2)
    assert series.means == pytest.approx((33, 41))
    assert series.spreads == pytest.approx((statistics.stdev([30, 32, 37]), 1))


def test_validation_is_solid_training_dashed_and_the_best_epoch_has_a_star() -> None:
    axes = figure_of(curves_of([history()]), choose_panels(["robust"])).axes[0]
    training, validation, star = axes.get_lines()
    assert (training.get_linestyle(), validation.get_linestyle(), star.get_marker()) == ("--", "-", "*")
    assert np.allclose(validation.get_ydata(), [30, 42, 40, 38])
    assert np.allclose(training.get_ydata(), [30, 40, 50, 60])
    assert (star.get_xdata(), star.get_ydata()) == ([2], [42])


def test_every_curve_has_a_colour_and_a_mark_of_its_own() -> None:
    curves = [Curve(str(n), (history(),)) for n in range(20)]
    drawn = figure_of(curves, choose_panels(["loss"])).axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 20
    assert all(line.get_markevery()[0] < 4 for line in drawn)


def test_one_epoch_and_no_validation_split_can_be_seen() -> None:
    unvalidated = History("a-run", config(), epochs([None], val_clean_acc=None), best_epoch=1)
    figure = figure_of(curves_of([unvalidated]), choose_panels(["robust", "clean", "loss", "lr"]))
    for axes in figure.axes:
        (point,) = (line for line in axes.get_lines() if len(line.get_xdata()))
        assert point.get_marker() == "o"
        for value, (low, high) in ((1, axes.get_xlim()), (point.get_ydata()[0], axes.get_ylim())):
            assert low < value < high
    assert [text.get_text() for text in figure.legends[-1].get_texts()] == ["training images"]


def test_panels_by_name() -> None:
    robust, speed = choose_panels(["robust", "images_per_second"])
    assert (robust.field, robust.training, robust.share) == ("val_robust_acc", "subset_robust_acc", True)
    assert (speed.field, speed.training, speed.share) == ("images_per_second", None, False)
    with pytest.raises(UnknownNameError, match="did you mean robust"):
        choose_panels(["robus"])


def test_the_title_says_what_all_share() -> None:
    assert common_title([history()]) == "digits · vgg16 · pgd-at · Linf 0.2"
    assert common_title([history(), history(method="deat")]) == "digits · vgg16 · Linf 0.2"
    assert common_title([history(), history(threat={"norm": "Linf", "eps": "0.1"})]) == "digits · vgg16 · pgd-at"
