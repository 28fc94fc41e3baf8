"""The command line as a user meets it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cli_runs import TINY, Done, call, environment, files, spawn

from deatbench.records import EvaluationRecord, ModelCard
from deatbench.store import Home, read_record


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """`deatbench run --json` on an empty folder, in a process of its own."""
    home = tmp_path_factory.mktemp("finished")
    done = spawn(["run", *TINY, "--json"], home)
    assert done.returncode == 0, done.stderr
    return home, Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def home(finished: tuple[Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's working folder, and the current one."""
    copy = tmp_path / "home"
    shutil.copytree(finished[0], copy)
    monkeypatch.chdir(copy)
    return copy


def test_run_puts_records_on_stdout_and_everything_in_its_place(finished: tuple[Path, Done]) -> None:
    path, done = finished
    best, last = (EvaluationRecord.model_validate(record) for record in json.loads(done.out))
    assert (best.training.checkpoint, last.training.checkpoint) == ("best", "last")  # type: ignore[union-attr]
    assert set(best.metrics) == {"clean_acc", "pgd-2", "worst_case_acc"}
    assert set(last.metrics) == {"clean_acc", "fgsm", "worst_case_acc"}
    assert best.command.startswith("deatbench run --arch resnet8")
    entry = path / "model_zoo" / "digits" / "Linf-0.2" / best.model.name
    assert read_record(entry / "card.json", ModelCard).id == best.model.name
    assert (entry / "model.safetensors").is_file()
    assert best.model.name in (path / "leaderboards" / "digits" / "Linf-0.2" / f"{best.model.name}.html").read_text()
    assert best.model.name.removeprefix("digits-") in (path / "leaderboards" / "digits" / "Linf-0.2.html").read_text()
    assert "train: done" in done.err
    assert "error" not in done.err
    assert "\x1b" not in done.err + done.out  # no colours, no bars without a terminal
    assert not [file for file in files(path) if file.name.endswith(".tmp")]


def test_run_again_repeats_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in files(home / "runs")}
    done = call(capsys, "run", *TINY, "--resume")
    assert done.code == 0
    assert "already trained" in done.err
    assert "nothing to resume" not in done.err
    assert {path: path.stat().st_mtime_ns for path in files(home / "runs")} == before
    columns, best, last, *flags = done.out.splitlines()
    assert all(line.startswith("flag not_converged on ") for line in flags)  # two steps are few
    assert columns.split()[:4] == ["model", "threat", "images", "weights"]
    assert " best " in best
    assert " last " in last
    assert "deatbench leaderboard serve" in done.err


def test_fresh_trains_again_to_the_same_weights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = next(home.glob("runs/*/best.safetensors"))
    before = weights.read_bytes()
    assert call(capsys, "train", *TINY, "--fresh").code == 0
    assert weights.read_bytes() == before


def test_eval_takes_the_latest_run_and_its_threat(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "eval", "--attacks", "pgd-3", "--n", "40", "--json")
    assert done.code == 0, done.err
    record = EvaluationRecord.model_validate_json(done.out)
    assert "taking the latest run" in done.err
    assert (record.dataset.name, record.dataset.n, record.threat.slug) == ("digits", 40, "Linf-0.2")
    # In the run's folder, and in the zoo, where the leaderboard finds it.
    assert len(list(home.glob(f"runs/*/evaluations/{record.id}.json"))) == 1
    assert record in Home(home).load_records()


def test_eval_of_the_zoo_equals_eval_of_the_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_id = next((home / "runs").iterdir()).name
    records = []
    for model in (f"zoo:{model_id}", model_id, home / "runs" / model_id / "best.safetensors"):
        done = call(capsys, "eval", model, "--attacks", "pgd-2", "--n", "40", "--out", home / "out", "--json")
        assert done.code == 0, done.err
        records.append(EvaluationRecord.model_validate_json(done.out))
    assert len({record.id for record in records}) == 1
    assert records[0].samples == records[1].samples == records[2].samples
    assert files(home / "out") == {home / "out" / f"{records[0].id}.json"}
    assert all(str(home) not in record.model_dump_json() for record in records)


def test_eval_of_my_own_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "my.py").write_text(
        "import torch\nprint('loading')\n"
        "def net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    done = call(
        capsys, "eval", "./my.py:net", "--dataset", "digits", "--eps", "1/10", "--norm", "L2", "--n", "20",
        "--attacks", "pgd-2,fgsm", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    record = EvaluationRecord.model_validate_json(done.out)  # what the file prints goes to stderr
    assert "loading" in done.err
    assert record.model.source == "my.py:net"
    assert (record.training, record.threat.slug) == (None, "L2-1_10")
    assert files(home / "evaluations") == {home / "evaluations" / f"{record.id}.json"}


def test_eval_of_a_foreign_state_dict(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights of our own run, without what they say of themselves: the data set's normalisation is the same."""
    weights = safetensors.torch.load_file(next(home.glob("runs/*/best.safetensors")))
    bare = {f"module.{key.removeprefix('net.')}": value for key, value in weights.items() if key.startswith("net.")}
    torch.save({"state_dict": bare}, home / "net.pth")
    foreign = ["--arch", "resnet8", "--set", "arch.width=0.25", "--dataset", "digits", "--eps", "0.2"]
    records = []
    for arguments in (["net.pth", *foreign], []):
        done = call(capsys, "eval", *arguments, "--attacks", "pgd-2", "--n", "30", "--json")
        assert done.code == 0, done.err
        records.append(EvaluationRecord.model_validate_json(done.out))
    assert records[0].model.sha256 == records[1].model.sha256
    assert records[0].samples == records[1].samples
    assert (records[0].training, records[0].model.source) == (None, "net.pth")


def test_the_working_folder_may_come_from_the_environment(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    assert len(call(capsys, "zoo", "ls").out.splitlines()) == 1
    monkeypatch.setenv("DEATBENCH_HOME", str(home))
    assert len(call(capsys, "zoo", "ls").out.splitlines()) == 2


def test_autoattack_joins_the_default_attacks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "eval", "--autoattack", "--n", "4", "--eps", "0.9", "--json")
    assert done.code == 0, done.err
    record = EvaluationRecord.model_validate_json(done.out)
    assert list(record.samples.robust) == ["pgd-20", "cw-20", "autoattack"]
    assert record.threat.eps_text == "0.9"


def test_leaderboard_build_prints_the_pages(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(home / "leaderboards")
    done = call(capsys, "leaderboard", "build")
    assert done.code == 0
    assert "leaderboards/index.html" in done.out.splitlines()
    assert (home / "leaderboards" / "index.html").is_file()


def test_zoo_ls_and_show(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_id = next((home / "runs").iterdir()).name
    assert model_id in call(capsys, "zoo", "ls").out
    shown = call(capsys, "zoo", "show", model_id, "--home", home)
    assert f"deatbench eval zoo:{model_id}" in shown.out
    (card,) = json.loads(call(capsys, "--home", str(home), "zoo", "ls", "--json").out)
    assert card == json.loads(call(capsys, "zoo", "show", f"zoo:{model_id}", "--json").out)


def test_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(capsys, "run", *TINY, "--seed", "0,1", "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["seeds"] == [0, 1]
    passes = {stage["name"]: stage["passes"] for stage in plan["stages"]}
    batches = 1293 // 128
    assert passes["training"] == batches * 128 * (2 * 2 + 3)
    assert passes["evaluation of best"] == 60 * (1 + 2)
    assert plan["seconds"] == pytest.approx(2 * sum(stage["seconds"] for stage in plan["stages"]))
    assert not list(tmp_path.iterdir())


def test_a_timm_architecture_stays_timm_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["--set", "attack.steps=1", "--set", "batch_size=4", "--set", "evaluation.batch_size=2"]
    chosen = ["--arch", "timm/resnet10t", "--method", "pgd-at", "--dataset", "digits", *settings]
    done = call(capsys, "run", *chosen, "--dry-run", "--json")
    assert done.code == 0, done.err
    arch = json.loads(done.out)["config"]["arch"]
    assert arch["name"] == "timm/resnet10t"
    assert "width" not in arch  # the recipe's width is for networks that have one


def test_dry_run_prints_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = call(capsys, "run", *TINY, "--dry-run")
    assert "a forecast" in first.out
    (tmp_path / "mine.yaml").write_text(first.out)
    again = call(
        capsys, "run", "--arch", "resnet8", "--method", "pgd-at", "--dataset", "digits", "--recipe", "mine.yaml",
        "--dry-run", "--json",
    )  # fmt: skip
    config = json.loads(again.out)["config"]
    assert config["arch"] == {"name": "resnet8", "width": 0.25}
    assert config["evaluation"]["n"] == 60


def test_sigterm_saves_and_the_same_command_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", *TINY, "--epochs", "15", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [sys.executable, "-m", "deatbench", *arguments],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/checkpoint-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert [line for line in err.splitlines() if line.startswith("error: SIGTERM")]
    assert "Traceback" not in err

    unfinished = call(capsys, "eval", "--home", tmp_path)
    assert unfinished.code == 4
    assert "no finished run" in unfinished.err

    continued = call(capsys, *arguments, "--json")
    assert continued.code == 0, continued.err
    assert "continuing" in continued.err
    (record,) = json.loads(continued.out)
    assert (record["resumed"], record["final"]["epoch"]) == (1, 15)


def test_a_reader_that_leaves_is_met_with_silence(tmp_path: Path) -> None:
    command = f"{sys.executable} -m deatbench ls recipes | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.stderr == b""
