"""`deatbench run` leaves all that a model's page is made of; `deatbench diagnose` makes it anew, and for any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_runs import TINY, call, files
from small_nets import write_factories
from torch import nn

from deatbench.cli.main import main
from deatbench.pipeline import add_to_zoo
from deatbench.records import Diagnostics, EvaluationRecord, TrainingRecord
from deatbench.report.inputs import read_inputs
from deatbench.report.model.page import model_pages
from deatbench.report.standings.boards import boards_of
from deatbench.store import Home, read_record, write_record


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    assert main(["--home", str(home), "run", *TINY]) == 0
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of a folder with one finished run, and the current one."""
    copy = tmp_path / "home"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return Home(copy)


@pytest.fixture
def entry(home: Home) -> Path:
    (entry,) = home.zoo_entries()
    return entry


def test_a_run_leaves_a_full_page(home: Home, entry: Path) -> None:
    found = read_record(entry / "diagnostics.json", Diagnostics)
    records = [read_record(path, EvaluationRecord) for path in entry.glob("evaluations/*.json")]
    assert found.model.sha256 in {record.model.sha256 for record in records}
    assert found.dataset.n == 360
    assert (entry / "metrics.jsonl").read_bytes() == home.run(entry.name).metrics.read_bytes()
    inputs = read_inputs(home)
    (board,) = boards_of(inputs)
    (page,) = model_pages(board, inputs).values()
    assert page.count("<svg") == 5
    assert page.count("data:image/png") == 3 * len(found.gallery)


def test_the_finished_run_again_makes_nothing_anew(home: Home, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in files(entry)}
    assert call(capsys, "run", *TINY).code == 0
    assert {path: path.read_bytes() for path in files(entry)} == before


def test_diagnose_writes_into_the_zoo_and_prints_the_curve(
    home: Home, entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry / "diagnostics.json").unlink()
    done = call(capsys, "diagnose", f"zoo:{entry.name}", "--images", "40", "--threads", "1")
    assert done.code == 0, done.err
    found = read_record(entry / "diagnostics.json", Diagnostics)
    assert found.dataset.n == 40
    assert found.command == f"deatbench diagnose zoo:{entry.name} --images 40 --threads 1"
    assert [line.split()[1:4] for line in done.out.splitlines()[1:4]] == [
        ["Linf", "0", "clean"],
        ["Linf", "0.05", "pgd-20"],
        ["Linf", "0.1", "pgd-20"],
    ]
    assert f"{100 * found.curve[0].accuracy.value:.2f} %" in done.out


def test_several_models_in_one_go_each_with_its_own_command(
    home: Home, entry: Path, robust_net: nn.Module, standard_net: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    write_factories(home.path, robust_net, standard_net)
    before = (entry / "diagnostics.json").read_bytes()
    arguments = ["--dataset", "digits", "--eps", "0.1", "--n", "20", "--json"]
    done = call(capsys, "diagnose", "./net.py:net", f"zoo:{entry.name}", *arguments)
    assert done.code == 0, done.err
    foreign, kept = (Diagnostics.model_validate_json(json.dumps(each)) for each in json.loads(done.out))
    assert foreign.command == "deatbench diagnose ./net.py:net --dataset digits --eps 0.1 --n 20 --json"
    assert kept.command == f"deatbench diagnose zoo:{entry.name} --dataset digits --eps 0.1 --n 20 --json"
    assert "nothing is kept of net.py:net: it is no zoo:ID" in done.err
    assert "its zoo entry is about another data set or threat" in done.err  # trained for 0.2
    assert (entry / "diagnostics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["zoo:nobody"], 4, "no model 'nobody'"),
        (["./net.py:net"], 2, "trained on"),
        (["./net.py:net", "--dataset", "digits"], 2, "nobody knows an eps"),
        (["./net.py:net", "--dataset", "digits", "--eps", "-1"], 2, "greater than 0"),
        ([], 2, "MODEL"),
    ],
)
def test_what_is_not_known_is_asked_for(
    home: Home,
    robust_net: nn.Module,
    standard_net: nn.Module,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    write_factories(home.path, robust_net, standard_net)
    done = call(capsys, "diagnose", *arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert done.out == ""


def test_what_speaks_of_other_weights_leaves_the_entry(home: Home, entry: Path) -> None:
    run = home.run(entry.name)
    training = read_record(run.training, TrainingRecord)
    records = [read_record(path, EvaluationRecord) for path in sorted(entry.glob("evaluations/*.json"))]
    kept = (entry / "diagnostics.json").read_bytes()
    add_to_zoo(home, run, training, records)
    assert (entry / "diagnostics.json").read_bytes() == kept
    found = read_record(entry / "diagnostics.json", Diagnostics)
    other = found.model_copy(update={"model": found.model.model_copy(update={"sha256": "0" * 64})})
    write_record(entry / "diagnostics.json", other)
    (entry / "metrics.jsonl").unlink()
    add_to_zoo(home, run, training, records)
    assert not (entry / "diagnostics.json").exists()
    assert (entry / "metrics.jsonl").is_file()
