"""`deatbench reproduce`: the same recipe gives the same bits here, and another result is called what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import TINY, call, files
from records_factory import evaluation, sha, training_info
from small_nets import write_factories
from torch import nn

from deatbench.cli.main import main
from deatbench.errors import ConfigError, MismatchError
from deatbench.pipeline.reproduction import judge, mcnemar_p, request_of
from deatbench.records import EvaluationRecord, Outcome, Reproduction, metrics_of, pack_bits
from deatbench.store import read_record, sha256_of, write_record


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one finished run, its zoo entry, and a curve of it."""
    home = tmp_path_factory.mktemp("made")
    assert main(["run", *TINY, "--home", str(home), "--json"]) == 0
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder without its run: the recipe is all that is left. The current folder."""
    copy = tmp_path / "home"
    shutil.copytree(made / "model_zoo", copy / "model_zoo")
    monkeypatch.chdir(copy)
    return copy


def record_of(home: Path, checkpoint: str = "best") -> Path:
    return next(home.glob(f"model_zoo/*/*/*/evaluations/*-{checkpoint}-*.json"))


def rewrite(path: Path, change: Callable[[EvaluationRecord], dict[str, Any]]) -> None:
    """The record with some fields changed, as valid as it was."""
    record = read_record(path, EvaluationRecord)
    write_record(path, EvaluationRecord.model_validate(record.model_dump() | change(record)))


def other_verdicts(record: EvaluationRecord, wrong: int) -> dict[str, Any]:
    """So many images fewer are broken by pgd-2 than were."""
    robust_N, clean_N = record.samples.robust_N("pgd-2"), record.samples.clean_N()
    broken = np.flatnonzero(clean_N & ~robust_N)
    assert len(broken) >= wrong
    robust_N[broken[:wrong]] = True
    samples = record.samples.model_dump() | {"robust": {"pgd-2": pack_bits(robust_N)}}
    metrics = metrics_of(clean_N, {"pgd-2": robust_N})
    return {"samples": samples, "metrics": {name: metric.model_dump() for name, metric in metrics.items()}}


def test_the_recipe_run_again_gives_the_same_bits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = record_of(home).parents[1]
    before = files(home)
    done = call(capsys, "reproduce", f"zoo:{entry.name}")
    assert done.code == 0, done.err
    assert "match: all 2 x 60 verdicts are equal, the weights are the same" in done.out
    assert "not to be expected" not in done.err
    assert "note: about " in done.err
    assert "train: done" in done.err
    made_new = files(home) - before
    assert all(path.is_relative_to(home / "reproductions") for path in made_new)
    again = call(capsys, "reproduce", record_of(home), "--attest", "--json")
    assert again.code == 0, again.err
    assert "already trained" in again.err
    assert "already evaluated" in again.err
    document = json.loads(again.out)
    assert (document["outcome"], document["same_weights"], document["differences"]) == ("match", True, [])
    kept = read_record(entry / "reproductions" / f"{document['record']}.json", Reproduction)
    assert kept.record_sha256 == sha256_of(record_of(home))
    assert kept.outcome is Outcome.MATCH
    assert {name: metric.p_value for name, metric in kept.metrics.items()} == dict.fromkeys(kept.metrics, 1.0)
    assert str(home) not in kept.model_dump_json()


def test_dry_run_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(home)
    name = record_of(home).parents[1].name
    done = call(capsys, "reproduce", name, "--dry-run")
    assert done.code == 0, done.err
    assert "method:" in done.out
    assert "# training: " in done.out
    assert "# evaluation of best: " in done.out
    document = json.loads(call(capsys, "reproduce", record_of(home, "last"), "--dry-run", "--json").out)
    assert [stage["name"] for stage in document["stages"]] == ["training", "validation", "evaluation of last"]
    only = json.loads(call(capsys, "reproduce", name, "--dry-run", "--evaluate-only", "--json").out)
    assert [stage["name"] for stage in only["stages"]] == ["evaluation of best"]
    assert files(home) == before


def test_evaluate_only_takes_the_zoo_s_weights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "reproduce", record_of(home), "--evaluate-only")
    assert done.code == 0, done.err
    assert "match: " in done.out
    assert "train" not in done.err
    assert call(capsys, "reproduce", record_of(home, "last"), "--evaluate-only").code == 4  # the zoo keeps the best
    assert call(capsys, "reproduce", record_of(home), f"zoo:{record_of(home).parents[1].name}").code == 2


def test_a_few_other_verdicts_are_within_chance(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(record_of(home), lambda record: other_verdicts(record, 3))
    done = call(capsys, "reproduce", record_of(home), "--evaluate-only")
    assert done.code == 0, done.err
    assert "within interval: no accuracy differs by more than chance" in done.out
    assert "p = 0.25" in done.out


def test_a_number_that_does_not_come_out_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3; attested, it stands there as what it is."""
    path = record_of(home)
    rewrite(path, lambda record: other_verdicts(record, 12))
    done = call(capsys, "reproduce", path, "--evaluate-only", "--attest", "--json")
    assert done.code == 3
    assert "is not reproduced: the weights are the same" in done.err.splitlines()[-1]
    assert json.loads(done.out)["outcome"] == "mismatch"
    (kept,) = home.glob("model_zoo/*/*/*/reproductions/*.json")
    assert read_record(kept, Reproduction).outcome is Outcome.MISMATCH


def test_what_differs_here_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def elsewhere(record: EvaluationRecord) -> dict[str, Any]:
        env = record.env.model_dump() | {"torch": "2.11.0", "hardware": "Abacus, 7 threads", "git": "0123abc"}
        training = record.training.model_dump() | {"hardware": "Slide rule"}  # type: ignore[union-attr]
        return {"env": env, "training": training}

    rewrite(record_of(home), elsewhere)
    done = call(capsys, "reproduce", record_of(home), "--dry-run", "--json")
    assert done.code == 0, done.err
    differing = {found["what"]: found["recorded"] for found in json.loads(done.out)["differences"]}
    assert differing["torch"] == "2.11.0"
    assert differing["hardware"] == "Abacus, 7 threads"
    assert differing["training hardware"] == "Slide rule"
    assert "on record" in done.err
    assert "not to be expected" in done.err


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda r: {"training": None}, 2, "--evaluate-only"),
        (lambda r: {"training": r.training.model_dump() | {"digest": "0" * 12}}, 2, "is not that of"),
        (lambda r: {"dataset": r.dataset.model_dump() | {"sha256": sha("x")}}, 3, "test images of digits here"),
        (
            lambda r: {
                "training": r.training.model_dump()
                | {"config": r.training.config | {"method": {"name": "pgd-at", "codes": 1}}}
            },
            2,
            "no parameter 'codes'",
        ),
        (lambda r: {"model": r.model.model_dump() | {"sha256": sha("x")}}, 3, "its weights differ"),
    ],
    ids=["no training", "another recipe", "other images", "unknown parameter", "other weights"],
)
def test_records_that_cannot_be_repeated(
    change: Callable[[Any], dict[str, Any]], code: int, words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(record_of(home), change)
    only = ("--evaluate-only",) if "weights" in words else ()
    done = call(capsys, "reproduce", record_of(home), *only)
    assert done.code == code, done.err
    assert words in done.err.splitlines()[-1]
    assert done.out == ""


def test_files_that_are_not_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("nobody", "none.json", "runs/none"):
        assert call(capsys, "reproduce", text).code == 4
    shutil.rmtree(record_of(home).parent)
    (entry,) = home.glob("model_zoo/*/*/*")
    assert "no evaluation yet" in call(capsys, "reproduce", entry.name).err


def test_a_foreign_network_is_evaluated_again(
    robust_net: nn.Module, standard_net: nn.Module, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_factories(tmp_path, robust_net, standard_net)
    monkeypatch.chdir(tmp_path)
    sweep = ("--eps-sweep", "0.1,0.3", "--seed", "5", "--batch-size", "33")
    done = call(capsys, "eval", "./net.py:net", "--dataset", "digits", "--eps", "0.2", "--n", "60", *sweep,
                "--attacks", "pgd-5")  # fmt: skip
    assert done.code == 0, done.err
    (tmp_path / "loaded").unlink()
    (path,) = (tmp_path / "evaluations").glob("*.json")
    assert call(capsys, "reproduce", path, "--evaluate-only").code == 4  # a record leads to no code
    assert not (tmp_path / "loaded").exists()
    again = call(capsys, "reproduce", path, "./net.py:net", "--evaluate-only")
    assert again.code == 0, again.err
    assert "match: " in again.out
    assert call(capsys, "reproduce", path, "./net.py:weak", "--evaluate-only").code == 3


def test_the_request_is_that_of_the_record() -> None:
    record = evaluation(robust={"pgd-20": 0.6, "autoattack": 0.5}, n=40, training=training_info())
    made = [record.attacks[0], record.attacks[1].model_copy(update={"engine": "pyautoattack 0.2.0"})]
    request = request_of(record.model_copy(update={"attacks": tuple(made), "draws": "published"}))
    assert (request.attacks, request.n, request.batch_size) == (("pgd-20", "autoattack"), 40, 100)
    assert (request.engine, request.draws, request.precision) == ("reference", "published", "fp32")
    for attacks, words in (
        (("autoattack-provisional",), "interrupted"),
        (("transfer",), "surrogate"),
        ((), "no attack"),
    ):
        with pytest.raises(ConfigError, match=words):
            request_of(evaluation(robust=dict.fromkeys(attacks, 0.5)))


def test_judgement_takes_all_tests_together() -> None:
    """One difference of p = 0.03 among four is chance, 0.004 is not."""
    names = ("pgd-20", "autoattack")

    def with_broken(only_b: int) -> EvaluationRecord:
        return evaluation(n=100, robust={"pgd-20": 0.6, "autoattack": 0.5 - only_b / 100})

    first = with_broken(0)
    assert judge(first, first)[0] is Outcome.MATCH
    outcome, metrics = judge(first, with_broken(6))
    assert outcome is Outcome.WITHIN_INTERVAL
    assert metrics["autoattack"].p_value == pytest.approx(2 / 2**6)
    assert metrics.keys() == {"clean_acc", *names, "worst_case_acc"}
    assert judge(first, with_broken(9))[0] is Outcome.MISMATCH
    with pytest.raises(MismatchError, match="other images or attacks"):
        judge(first, evaluation(n=100, robust={"pgd-20": 0.6}))


def test_mcnemar_by_hand() -> None:
    a_N, b_N = np.array([True] * 5 + [False]), np.array([False] * 5 + [True])
    assert mcnemar_p(a_N, b_N) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar_p(a_N, a_N) == 1.0
