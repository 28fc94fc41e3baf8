"""`deatbench eval` with each of its ways to search, draw and transfer: what the record then says is what was done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import call, files
from small_nets import write_factories
from torch import nn

from deatbench.attacks.autoattack import Member
from deatbench.data import Dataset
from deatbench.engine.checkpoint import weights_sha256
from deatbench.engine.evaluate import Settings, evaluate
from deatbench.records import EvaluationRecord
from deatbench.threats import make_threat

N, EPS = 40, "0.2"
ROBUST, WEAK = "./net.py:net", "./net.py:weak"


@pytest.fixture
def measured(
    robust_net: nn.Module,
    standard_net: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # type: ignore[no-untyped-def]
    """measured(*arguments): the record of the robust network on 40 digits, the only file that is left."""
    write_factories(tmp_path, robust_net, standard_net)
    monkeypatch.chdir(tmp_path)

    def measured(*arguments: str, model: str = ROBUST, n: int = N) -> EvaluationRecord:
        before = files(tmp_path)
        done = call(
            capsys, "eval", model, "--dataset", "digits", "--eps", EPS, "--n", str(n), "--json", *arguments
        )  # fmt: skip
        assert done.code == 0, done.err
        record = EvaluationRecord.model_validate_json(done.out)
        left = {path.relative_to(tmp_path) for path in files(tmp_path) - before if "__pycache__" not in path.parts}
        suffixes = {".json", ".adv"} if "--save-adversarials" in arguments else {".json"}
        assert left - {Path("loaded")} == {Path("evaluations", record.id + suffix) for suffix in suffixes}
        assert {path.name for path in (tmp_path / "evaluations").iterdir() if path.is_dir()} == set()
        return record

    return measured


def robust(record: EvaluationRecord, attack: str) -> np.ndarray:
    return record.samples.robust_N(attack)


@pytest.mark.parametrize(
    "how",
    [("--precision", "bf16"), ("--precision", "fp16"), ("--precision", "tf32"),
     pytest.param(("--compile",), marks=pytest.mark.slow)],
    ids=lambda how: how[-1],
)  # fmt: skip
def test_other_arithmetic_of_the_search(how: tuple[str, ...], measured, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    attacks = ("--attacks", "pgd-10,apgd-t,square", "--n", "12")
    strict, other = measured(*attacks), measured(*attacks, *how, "--save-adversarials")
    assert other.id != strict.id
    assert (strict.search_precision, other.search_precision) == ("fp32", how[1] if len(how) > 1 else "fp32")
    assert other.samples.clean == strict.samples.clean
    for name in ("pgd-10", "apgd-t", "square"):
        assert 0 < robust(other, name).sum() < 12
        assert (robust(other, name) != robust(strict, name)).sum() <= 1
    done = call(capsys, "verify", f"evaluations/{other.id}.json", ROBUST)  # in float32
    assert done.code == 0, done.out


@pytest.mark.parametrize(("name", "n"), [("apgd-ce", 40), ("apgd-t", 16)])
def test_published_draws_give_the_published_verdicts(
    name: str, n: int, measured, robust_net: nn.Module, digits: Dataset
) -> None:  # type: ignore[no-untyped-def]
    record = measured("--attacks", name, "--draws", "published", "--seed", "3", "--batch-size", "8", n=n)
    assert (record.draws, record.batch_size) == ("published", 8)
    images, settings = digits.test.subset(torch.arange(n)), Settings(seed=3, batch_size=8)
    published = evaluate(robust_net, images, make_threat("Linf", EPS), [Member(name)], settings)
    assert robust(record, name).tolist() == published.robust[name].tolist()
    assert 0 < robust(record, name).sum() < record.samples.clean_N().sum()  # both outcomes occur


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["autoattack", "autoattack-rand"])
def test_published_draws_are_the_reference_engine_s_suite(suite: str, measured) -> None:  # type: ignore[no-untyped-def]
    common = ("--attacks", suite, "--seed", "1", "--batch-size", "16")
    ours = measured(*common, "--draws", "published")
    published = measured(*common, "--engine", "reference")
    assert robust(ours, suite).tolist() == robust(published, suite).tolist()
    assert 0 < robust(ours, suite).sum() < N
    assert [part.name for part in ours.attacks] == [part.name for part in published.attacks]
    assert {part.engine.split()[0] for part in ours.attacks} == {"deatbench"}
    assert {part.engine.split()[0] for part in published.attacks} == {"pyautoattack"}


def test_published_code_searches_in_float32_whatever_is_asked(measured) -> None:  # type: ignore[no-untyped-def]
    """The record tells what was done."""
    asked = ("--attacks", "apgd-ce", "--precision", "bf16")
    assert measured(*asked, "--draws", "published", n=4).search_precision == "fp32"
    assert measured(*asked, n=4).search_precision == "bf16"


def test_transfer(measured, standard_net: nn.Module, robust_net: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    """Images made on the weak network break some of the robust one; made on the target itself they are PGD's."""
    attacks = ("--attacks", "transfer,pgd-20", "--save-adversarials")
    record = measured(*attacks, "--surrogate", WEAK)
    (transfer, pgd) = record.attacks
    assert (transfer.params["surrogate"], pgd.name) == ("net.py:weak", "pgd-20")
    assert transfer.params["surrogate_sha256"] == weights_sha256(standard_net)
    assert robust(record, "pgd-20").sum() < robust(record, "transfer").sum() < record.samples.clean_N().sum()
    assert call(capsys, "verify", f"evaluations/{record.id}.json", ROBUST).code == 0
    itself = measured(*attacks, "--surrogate", ROBUST)
    assert itself.attacks[0].params["surrogate_sha256"] == weights_sha256(robust_net)
    assert itself.id != record.id
    assert robust(itself, "transfer").sum() < robust(record, "transfer").sum()
    assert abs(int(robust(itself, "transfer").sum()) - int(robust(itself, "pgd-20").sum())) <= 2


def test_each_engine_names_itself(measured) -> None:  # type: ignore[no-untyped-def]
    """AutoAttack is a suite of ours unless pyautoattack is asked for; other attacks have one engine."""
    ours = measured("--attacks", "pgd-2,autoattack", n=2, model=WEAK)
    published = measured("--attacks", "pgd-2,autoattack", "--engine", "reference", n=2, model=WEAK)
    assert ours.id != published.id
    assert {part.engine.split()[0] for part in ours.attacks} == {"deatbench"}
    assert [part.engine.split()[0] for part in published.attacks] == ["deatbench", *["pyautoattack"] * 4]
