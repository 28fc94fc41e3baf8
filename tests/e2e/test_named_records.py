"""Evaluations by name: `compare` and `verify` take what a name stands for, and ask where that is several things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runs import call
from records_factory import model_card, sha, training_info, training_record
from verdict_records import drawn, judged

from deatbench.cli.record_argument import evaluation_files, listed
from deatbench.records import EvaluationRecord, ModelInfo
from deatbench.store import Home, write_record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(Path())


def keep(folder: Path, *records: EvaluationRecord) -> None:
    for record in records:
        write_record(folder / "evaluations" / f"{record.id}.json", record)


def in_zoo(home: Home, seed: int, *records: EvaluationRecord) -> Path:
    card = model_card(seed, training_record(seed))
    entry = home.zoo / card.dataset / card.threat.slug / card.id
    write_record(entry / "card.json", card)
    keep(entry, *records)
    return entry


def network(name: str, weights: str, code: str | None = None) -> ModelInfo:
    return ModelInfo(
        name=name, arch="Net", source=f"{name}.py:net", sha256=sha(weights), n_params=1, code_sha256=code and sha(code)
    )


def test_what_a_name_stands_for(home: Home) -> None:
    best, last = (drawn(training_info(0).run_id, i, training=training_info(0, checkpoint=c)) for i, c in
                  enumerate(("best", "last")))  # fmt: skip
    entry = in_zoo(home, 0, best, last)
    copies = home.runs / entry.name
    keep(copies, best, last)
    other, foreign = drawn("other", 2), drawn("foreign", 3)
    keep(home.runs / "other", other)
    keep(home.path, foreign)
    write_record(home.path / "evaluations" / "mine.json", drawn("mine", 4))

    def files(name: str) -> list[str]:
        return sorted(str(path) for path in evaluation_files(name, home))

    both = sorted(f"{entry}/evaluations/{record.id}.json" for record in (best, last))
    assert files(entry.name) == files(f"zoo:{entry.name}") == files(str(entry)) == both  # of copies, the zoo's
    assert files(str(copies)) == sorted(f"{copies}/evaluations/{record.id}.json" for record in (best, last))
    assert files(best.id) == [f"{entry}/evaluations/{best.id}.json"]
    assert files(other.id) == files("other") == [f"runs/other/evaluations/{other.id}.json"]
    assert files("foreign") == files(foreign.id) == [f"evaluations/{foreign.id}.json"]
    assert files("mine") == files(drawn("mine", 4).id) == files("evaluations/mine.json") == ["evaluations/mine.json"]


def test_verify_asks_which_evaluation_is_meant(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    info = training_info(0)
    best = drawn(info.run_id, 0, training=info)
    last = drawn(info.run_id, 1, training=training_info(0, checkpoint="last"))
    entry = in_zoo(home, 0, best, last)
    ids, paths = (sorted(texts) for texts in zip(
        *((r.id, f"{entry}/evaluations/{r.id}.json") for r in (best, last)), strict=True))  # fmt: skip
    cases = [
        (f"zoo:{entry.name}", 2, f"has 2 evaluations (name one: {ids[0]} or {ids[1]})"),
        (entry.name, 2, f"has 2 evaluations (name one: {ids[0]} or {ids[1]})"),
        (str(entry), 2, f"has 2 evaluations (name one: {paths[0]} or {paths[1]})"),
        (f"zoo:{entry.name}9", 4, f"did you mean {entry.name}"),
        (f"{best.id[:-1]}_", 4, f"did you mean {best.id}?"),
        (f"{entry}/evaluations/{best.id[:-1]}.json", 4, f"did you mean {entry}/evaluations/{best.id}.json"),
        ("", 4, "no evaluated model or record ''"),
    ]
    for name, code, words in cases:
        done = call(capsys, "verify", name)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done.err
        assert words in done.err


def test_verify_takes_the_only_evaluation(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Which it says by what it misses: the data, the weights are made up."""
    info = training_info(0)
    record = drawn(info.run_id, 0, training=info)
    entry = in_zoo(home, 0, record)
    path = entry / "evaluations" / f"{record.id}.json"
    by_path = call(capsys, "verify", path)
    assert by_path.code == 4
    assert "weights" in by_path.err
    for name in (f"zoo:{entry.name}", entry.name, str(entry), record.id):
        assert call(capsys, "verify", name) == by_path
    path.write_text(path.read_text().replace('"value": ', '"value": 1', 1))
    assert call(capsys, "verify", f"zoo:{entry.name}").code in (2, 3)  # and what is wrong with it is said as before


@pytest.mark.parametrize(
    "changes",
    [
        {"model": network("a", "other weights")},
        {"model": network("a", "a", code="other code")},
        {"model": network("a", "other weights"), "training": training_info(1)},
    ],
)
def test_compare_asks_which_of_two_models_is_meant(
    home: Home, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    first = drawn("a", 0, model=network("a", "a"), **({"training": training_info(0)} if "training" in changes else {}))
    second = drawn("a", 1, **changes)
    keep(home.path, first, second, drawn("b", 2))
    done = call(capsys, "compare", "a", "b")
    ids = sorted((first.id, second.id))
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: a is the name of several models (name the evaluation: {ids[0]} or {ids[1]})\n"
    assert call(capsys, "compare", first.id, second.id).code == 0
    assert call(capsys, "compare", second.id, "b").code == 0


def test_several_evaluations_of_one_model_are_one(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ones_N = np.ones(50, dtype=bool)
    kept = [
        judged("a", ones_N, {attack: ones_N}, model=network("a", name), training=training_info(0, checkpoint=name))
        for name in ("best", "last", "swa")
        for attack in ("pgd-20", "autoattack")
    ]
    keep(home.path, *kept, drawn("b", 1, n=50), judged("b", ones_N, {"pgd-20": ones_N}))
    for asked in ([], ["--checkpoint", "last"]):
        assert call(capsys, "compare", "a", "b", *asked).code == 0
    retrained = judged("a", ones_N, {"fgsm": ones_N}, model=network("a", "again"), training=training_info(0))
    keep(home.path, retrained)
    done = call(capsys, "compare", "a", "b")
    assert done.code == 2
    assert retrained.id in done.err


def test_a_list_in_words() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
    assert listed(["a", "b", "c", "d"], most=2) == "a, b or 2 more"
