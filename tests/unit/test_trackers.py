"""Trackers: what TensorBoard reads back, continued runs, failures that stop nothing, packages that are missing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_runs import TINY, call, environment
from records_factory import epoch_metrics

from deatbench.errors import MissingError, UnknownNameError
from deatbench.records import EpochMetrics
from deatbench.trackers import TRACKERS, Tracker, Trackers, make_trackers

CONFIG = {"method": {"name": "deat"}, "seed": 0}


def metrics(epoch: int, loss: float) -> EpochMetrics:
    return epoch_metrics(epoch).model_copy(update={"loss": loss})


def session(trackers: Trackers, folder: Path, told: Mapping[int, float], *, killed: bool = False) -> None:
    """Losses by epoch are told; a killed session does not say goodbye."""
    trackers.start("a-run", CONFIG, folder)
    for epoch, loss in told.items():
        trackers.epoch(metrics(epoch, loss))
    if not killed:
        trackers.finish()


def read_back(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], Any]:
    """(points by curve, the accumulator) of a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    curves = {
        tag: [(point.step, round(point.value, 4)) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    return curves, events


def fail_on_note(text: str) -> None:
    pytest.fail(text)


def test_tensorboard_reads_every_metric_and_the_configuration_back(tmp_path: Path) -> None:
    session(Trackers(make_trackers(["tensorboard"]), fail_on_note), tmp_path, {1: 2.0, 2: 1.5})
    curves, events = read_back(tmp_path)
    written = {key for key, value in metrics(1, 2.0).model_dump().items() if value is not None} - {"epoch"}
    assert curves.keys() == written
    assert curves["loss"] == [(1, 2.0), (2, 1.5)]
    assert curves["val_robust_acc"] == [(1, 0.58), (2, 0.58)]
    (text,) = events.Tensors("config/text_summary")
    assert b'"name": "deat"' in text.tensor_proto.string_val[0]


@pytest.mark.parametrize(
    ("later", "whole"),
    [
        ({3: 1.0, 4: 0.9}, [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.9)]),
        ({2: 1.4, 3: 1.0}, [(1, 2.0), (2, 1.4), (3, 1.0)]),  # killed before epoch 2 was saved
        ({1: 9.0}, [(1, 9.0)]),  # --fresh
    ],
)
def test_a_continued_run_continues_its_curve(
    later: dict[int, float], whole: list[tuple[int, float]], tmp_path: Path
) -> None:
    session(Trackers(make_trackers(["tensorboard"]), fail_on_note), tmp_path, {1: 2.0, 2: 1.5}, killed=True)
    session(Trackers(make_trackers(["tensorboard"]), fail_on_note), tmp_path, later)
    assert read_back(tmp_path)[0]["loss"] == whole


def test_training_that_goes_back_replaces_what_it_repeats(tmp_path: Path) -> None:
    trackers = Trackers(make_trackers(["tensorboard"]), fail_on_note)
    trackers.start("a-run", CONFIG, tmp_path)
    for epoch, loss in ((1, 2.0), (2, 1.5), (3, 7.0), (2, 1.6), (3, 1.1)):
        trackers.epoch(metrics(epoch, loss))
    trackers.finish()
    assert read_back(tmp_path)[0]["loss"] == [(1, 2.0), (2, 1.6), (3, 1.1)]


class Recorder(Tracker):
    """Writes down what it is told; raises in the method named `breaks`."""

    def __init__(self, breaks: str = "") -> None:
        self.told: list[Any] = []
        self.breaks = breaks

    def _hear(self, method: str, *what: Any) -> None:
        self.told.append((method, *what))
        if method == self.breaks:
            raise OSError(f"{method}:\nno room")

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path, epoch: int) -> None:
        self._hear("start", run_id, epoch)

    def epoch(self, metrics: EpochMetrics) -> None:
        self._hear("epoch", metrics.epoch)

    def finish(self) -> None:
        self._hear("finish")


@pytest.mark.parametrize("method", ["start", "epoch", "finish"])
def test_a_tracker_that_fails_is_reported_once_and_dropped(method: str, tmp_path: Path) -> None:
    notes: list[str] = []
    broken, sound = Recorder(breaks=method), Recorder()
    trackers = Trackers({"broken": broken, "sound": sound}, notes.append)
    session(trackers, tmp_path, {1: 2.0, 2: 1.5})
    assert notes == [f"tracker broken failed and is left out from here on: OSError: {method}: no room"]
    assert broken.told[-1][0] == method
    assert sound.told == [("start", "a-run", 1), ("epoch", 1), ("epoch", 2), ("finish",)]
    session(trackers, tmp_path, {7: 1.0})  # the next run
    assert broken.told[-1][0] == method
    assert sound.told[-3:] == [("start", "a-run", 7), ("epoch", 7), ("finish",)]
    assert len(notes) == 1


def test_ctrl_c_is_not_swallowed(tmp_path: Path) -> None:
    class Interrupted(Recorder):
        def epoch(self, metrics: EpochMetrics) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session(Trackers({"it": Interrupted()}, fail_on_note), tmp_path, {1: 2.0})


def test_a_run_without_a_new_epoch_opens_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    session(Trackers({"it": recorder}, fail_on_note), tmp_path, {})
    assert recorder.told == []


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(MissingError, match=rf"pip install 'deatbench\[{name}\]'"):
        make_trackers([name])


def test_names() -> None:
    assert TRACKERS.names() == ["tensorboard", "trackio", "wandb"]
    with pytest.raises(UnknownNameError, match="did you mean tensorboard"):
        make_trackers(["tensorbord"])


@pytest.mark.parametrize("command", ["train", "run"])
def test_the_command_line_refuses_before_it_trains(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = call(capsys, command, *TINY, "--home", tmp_path, "--track", "wandb")
    assert (done.code, done.out) == (4, "")
    assert "pip install 'deatbench[wandb]'" in done.err.splitlines()[-1]
    assert call(capsys, command, *TINY, "--home", tmp_path, "--track", "wandbb").code == 2
    assert not list(tmp_path.iterdir())


def test_training_is_tracked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "train", *TINY, "--home", tmp_path, "--track", "tensorboard")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    (line,) = (json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines())
    curves, _ = read_back(folder)
    assert curves["val_robust_acc"] == [(1, round(line["val_robust_acc"], 4))]


SESSIONS = """
import json, sys
from pathlib import Path
from deatbench.trackers import Trackers, make_trackers
from records_factory import epoch_metrics

def note(text):
    sys.exit(text)

for epochs in ((1, 2), (3,)):
    trackers = Trackers(make_trackers([sys.argv[1]]), note)
    trackers.start("a-run", {"seed": 0}, Path(sys.argv[2]))
    for epoch in epochs:
        trackers.epoch(epoch_metrics(epoch))
    trackers.finish()
"""


def in_two_sessions(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Three epochs in two sessions, in a process of its own: these packages keep state and threads."""
    path = f"{Path(__file__).resolve().parents[1]}:{environment()['PYTHONPATH']}"
    return subprocess.run(
        [sys.executable, "-c", SESSIONS, name, str(folder)],
        cwd=folder,
        env=environment(PYTHONPATH=path, HOME=str(folder), **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_trackio_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("trackio", exc_type=ImportError)
    done = in_two_sessions("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "kept" / "deatbench.db") as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert [(run, step) for run, step, _ in rows] == [("a-run", 1), ("a-run", 2), ("a-run", 3)]
    assert json.loads(rows[0][2])["val_robust_acc"] == 0.58


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", exc_type=ImportError)
    done = in_two_sessions("wandb", tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "wandb").glob("offline-run-*-a-run/run-a-run.wandb"))
    assert files
    assert all(b"val_robust_acc" in file.read_bytes() for file in files)


def test_wandb_without_a_key_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("wandb", exc_type=ImportError)
    done = in_two_sessions("wandb", tmp_path, WANDB_MODE="online", WANDB_API_KEY="")
    assert done.returncode == 1
    assert "wandb has no API key" in done.stderr
