"""`deatbench report` as a user meets it: files written and printed, errors in one line, no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runs import ROOT
from click.testing import CliRunner
from made_sweeps import table2_sweep, write_sweep

from deatbench.cli.report import report
from deatbench.errors import ConfigError, DeatbenchError, MissingError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sweep(tmp_path, table2_sweep(also={"gone-s0": ("optimizer.lr=1",)}, failed={"gone-s0": "no memory"}))


def call(*arguments: str | Path) -> tuple[str, str]:
    done = CliRunner().invoke(report, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout, done.stderr


def test_writes_every_page_and_prints_its_path(folder: Path, tmp_path: Path) -> None:
    out, err = call(folder, "--home", tmp_path)
    paths = [Path(line) for line in out.splitlines()]
    assert tmp_path / "leaderboards" / "sweeps" / "mine.html" in paths
    assert {path.suffix for path in paths} == {".html", ".md", ".svg", ".csv"}
    assert sorted(paths) == sorted((tmp_path / "leaderboards" / "sweeps").iterdir())
    assert err == "note: 1 of 28 planned runs are missing\n"


def test_says_it_in_json(folder: Path, tmp_path: Path) -> None:
    document = json.loads(call(folder / "results.jsonl", "--home", tmp_path, "--json")[0])
    assert (document["sweep"], document["runs"], document["missing"]) == ("mine", 27, ["gone-s0"])
    assert document["failed"] == {"gone-s0": "no memory"}
    assert all(Path(path).is_file() for path in document["written"])


def test_twice_the_same_bytes_and_what_has_come_since_is_there(folder: Path, tmp_path: Path) -> None:
    paths = [Path(line) for line in call(folder, "--home", tmp_path)[0].splitlines()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    call(folder, "--home", tmp_path)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths} == before
    whole = table2_sweep()
    write_sweep(tmp_path / "later", replace(whole, name="mine"))
    call(tmp_path / "later" / "sweeps" / "mine", "--home", tmp_path)
    assert "27 of 27 runs finished" in (tmp_path / "leaderboards" / "sweeps" / "mine.html").read_text()


def test_no_sweep_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no results\.jsonl in"):
        call(tmp_path, "--home", tmp_path)
    bad = tmp_path / "a b"
    bad.mkdir()
    (bad / "results.jsonl").write_text("")
    with pytest.raises(ConfigError, match="cannot name a sweep"):
        call(bad, "--home", tmp_path)


def test_a_file_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "leaderboards").write_text("a file")
    with pytest.raises(DeatbenchError, match="cannot write"):
        call(folder, "--home", tmp_path)


def test_help_teaches_by_example() -> None:
    out, _ = call("--help")
    assert "deatbench report sweeps/deat-k1k2-digits" in out


def test_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from deatbench.cli.report import report\n"
        f"report.main({[str(folder), '--home', str(tmp_path)]!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "note: 1 of 28 planned runs are missing\n")
