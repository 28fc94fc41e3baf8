"""`deatbench compare`: which evaluations it takes, on which images, and that its numbers are those of the verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import ROOT, Done, call, environment
from records_factory import model_card, threat, training_info, training_record
from scipy.stats import binomtest
from verdict_records import diagnosis, drawn, judged

from deatbench.records import AttackResult, EvaluationRecord, Flag
from deatbench.report.comparison.comparison import compare
from deatbench.store import Home, write_record

N = 200


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def keep(home: Home, *records: EvaluationRecord) -> None:
    for record in records:
        write_record(home.evaluations / f"{record.id}.json", record)


def in_zoo(home: Home, seed: int, *records: EvaluationRecord) -> Path:
    """A zoo entry with these evaluations."""
    card = model_card(seed, training_record(seed))
    entry = home.zoo / card.dataset / card.threat.slug / card.id
    write_record(entry / "card.json", card)
    for record in records:
        write_record(entry / "evaluations" / f"{record.id}.json", record)
    return entry


def said(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert isinstance(document, dict)
    return document


def test_the_numbers_are_those_of_the_verdicts(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = drawn("first", 0, robust=0.6), drawn("second", 1, robust=0.4)
    keep(home, a, b)
    document = said(call(capsys, "compare", "first", "second", "--json", "--home", home.path))
    assert [model["record"] for model in document["models"]] == [a.id, b.id]
    (pair,) = document["pairs"]
    assert [d["metric"] for d in pair["differences"]] == ["clean_acc", "pgd-20", "autoattack", "worst_case_acc"]
    for found in pair["differences"]:
        of_a, of_b = (record.samples.verdicts_N(found["metric"]) for record in (a, b))
        assert (found["only_a"], found["only_b"]) == ((of_a & ~of_b).sum(), (of_b & ~of_a).sum())
        assert (found["both"], found["neither"], found["n"]) == ((of_a & of_b).sum(), (~of_a & ~of_b).sum(), N)
        assert found["accuracy_a"] == a.metrics[found["metric"]].value
        assert found["difference"] == pytest.approx(found["accuracy_a"] - found["accuracy_b"])
        assert found["ci95"][0] < found["difference"] < found["ci95"][1]
        expected = binomtest(found["only_a"], found["only_a"] + found["only_b"]).pvalue
        assert found["p_value"] == pytest.approx(expected, rel=1e-9)
    assert document["per_class"] == document["notes"] == []


def test_it_says_in_words_who_is_better(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    all_N, some_N = np.arange(N) < 180, np.arange(N) < 100
    keep(home, judged("strong", all_N, {"pgd-20": all_N}), judged("weak", all_N, {"pgd-20": some_N}))
    done = call(capsys, "compare", "weak", "strong", "--home", home.path)
    assert done.code == 0, done.err
    assert "A and B on the same 200 images" in done.out
    assert "clean: the same on every image" in done.out
    assert "worst case: B is better by 40.0 points (95 %: " in done.out
    assert "), p < 0.001; 80 images only B withstands, 0 only A" in done.out
    close = judged("close", all_N, {"pgd-20": np.arange(N) < 105})
    keep(home, close)
    assert "not settled: B is ahead by 2.5 points" in call(capsys, "compare", "weak", "close", "--home", home.path).out
    level = judged("level", all_N, {"pgd-20": np.arange(N) >= 80})
    keep(home, level)
    said_so = call(capsys, "compare", "weak", "level", "--home", home.path).out
    assert "worst case: level; 80 images only A withstands, 80 only B" in said_so


def test_four_models_are_six_pairs(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    keep(home, *(drawn(name, seed) for seed, name in enumerate("wxyz")))
    document = said(call(capsys, "compare", *"wxyz", "--json", "--home", home.path))
    assert [(pair["a"], pair["b"]) for pair in document["pairs"]] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert "C and D on the same" in call(capsys, "compare", *"wxyz", "--home", home.path).out


def test_a_model_is_named_by_path_id_run_or_name(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    training = [training_info(seed) for seed in range(2)]
    zoo, run = (drawn(info.run_id, seed, training=info) for seed, info in enumerate(training))
    other, foreign = drawn("timm:resnet18", 2), drawn("anything", 3)
    in_zoo(home, 0, zoo)
    write_record(home.runs / training[1].run_id / "evaluations" / f"{run.id}.json", run)
    keep(home, other)
    path = home.path / "elsewhere.json"
    write_record(path, foreign)
    names = [f"zoo:{training[0].run_id}", training[1].run_id, "timm:resnet18", path]
    document = said(call(capsys, "compare", *names, "--json", "--home", home.path))
    assert [model["record"] for model in document["models"]] == [zoo.id, run.id, other.id, foreign.id]
    by_id = said(call(capsys, "compare", other.id, training[0].run_id, "--json", "--home", home.path))
    assert [model["record"] for model in by_id["models"]] == [other.id, zoo.id]
    folder = said(call(capsys, "compare", home.runs / training[1].run_id, path, "--json", "--home", home.path))
    assert folder["models"][0]["record"] == run.id


def test_autoattack_and_more_images_come_first(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    all_N = np.ones(500, dtype=bool)
    small, large, plain = drawn("a", 0, n=50), drawn("a", 1, n=300), judged("a", all_N, {"pgd-20": all_N})
    keep(home, small, large, plain, drawn("b", 2, n=500))
    document = said(call(capsys, "compare", "a", "b", "--json", "--home", home.path))
    assert document["models"][0]["record"] == large.id
    assert {found["n"] for found in document["pairs"][0]["differences"]} == {300}


def test_best_weights_unless_asked_for_others(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {name: training_info(0, checkpoint=name) for name in ("best", "last")}
    best, last = (drawn(info.run_id, i, n=100 + 100 * i, training=info) for i, info in enumerate(kept.values()))
    in_zoo(home, 0, best, last)
    keep(home, drawn("b", 2))
    arguments = ("compare", best.model.name, "b", "--json", "--home", home.path)
    assert said(call(capsys, *arguments))["models"][0]["record"] == best.id
    assert said(call(capsys, *arguments, "--checkpoint", "last"))["models"][0]["record"] == last.id
    done = call(capsys, *arguments, "--checkpoint", "swa")
    assert done.code == 4
    assert "evaluated: best, last" in done.err


def test_of_two_threats_the_common_one_is_taken(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"threat": threat("4/255")}
    a = [drawn("a", 0, n=100), drawn("a", 1, **other)]
    b = [drawn("b", 2, n=100), drawn("b", 3, **other)]
    keep(home, a[0], a[1], b[0])
    document = said(call(capsys, "compare", "a", "b", "--json", "--home", home.path))
    assert [model["record"] for model in document["models"]] == [a[0].id, b[0].id]
    keep(home, b[1])
    done = call(capsys, "compare", "a", "b", "--json", "--home", home.path)
    assert [model["record"] for model in said(done)["models"]] == [a[1].id, b[1].id]
    assert "of 2 threats in common, comparing under Linf 4/255" in done.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"threat": threat("4/255")}, "eps 8/255 and 4/255"), ({"dataset": "mnist"}, "dataset digits and mnist")],
)
def test_unlike_evaluations_are_refused(
    home: Home, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    keep(home, drawn("a", 0), drawn("b", 1, **changes))
    done = call(capsys, "compare", "a", "b", "--home", home.path)
    assert (done.code, done.out) == (2, "")
    assert f"a and b were not evaluated alike: {words}" in done.err


def test_mistakes_end_in_one_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    info = training_info(0)
    in_zoo(home, 0, drawn(info.run_id, 0, training=info))
    in_zoo(home, 1)
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (("digits-vgg16-deat-abc123-s", info.run_id), 4, "did you mean digits-vgg16-deat-abc123-s"),
        (("nothing like it at all", info.run_id), 4, "looked in"),
        (("../../nowhere", info.run_id), 4, "no evaluated model"),
        ((training_info(1).run_id, info.run_id), 4, f"deatbench eval {training_info(1).run_id} --autoattack"),
        ((info.run_id, f"zoo:{info.run_id}"), 2, "named twice"),
        ((info.run_id,), 2, "1 model to compare (name two to 4)"),
        ((info.run_id,) * 5, 2, "5 models"),
        ((), 2, "Missing argument"),
    ]
    for names, code, words in cases:
        done = call(capsys, "compare", *names, "--home", home.path)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
        assert words in done.err


def test_listed_images_meet_where_both_have_them() -> None:
    """Every image's verdict is its number's: A saw the first 60, B a shuffled choice of 100."""
    rng = np.random.default_rng(0)
    clean_N, pgd_N = rng.random(200) < 0.9, rng.random(200) < 0.5
    chosen = rng.permutation(200)[:100]
    a = judged("a", clean_N[:60], {"pgd-20": pgd_N[:60]})
    b = judged("b", clean_N[chosen], {"pgd-20": ~pgd_N[chosen]}, indices=tuple(int(i) for i in chosen))
    clean, pgd, _ = compare([a, b]).pairs[0].differences
    assert clean.n == (chosen < 60).sum()
    assert clean.only_a == clean.only_b == 0
    assert pgd.both == pgd.neither == 0


def test_no_image_in_common_is_an_error(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ones = np.ones(50, dtype=bool)
    keep(home, judged("a", ones, {}), judged("b", ones, {}, indices=tuple(range(50, 100))))
    done = call(capsys, "compare", "a", "b", "--home", home.path)
    assert done.code == 2
    assert "none in common" in done.err


def test_classes_come_from_a_diagnosis_of_the_same_images(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = drawn("a", 0), drawn("b", 1, n=150)
    keep(home, a, b)
    labels = np.random.default_rng(2).integers(0, 3, 120)
    write_record(in_zoo(home, 0) / "diagnostics.json", diagnosis(labels, ("one", "two", "three", "never")))
    write_record(in_zoo(home, 1) / "diagnostics.json", diagnosis(labels, ("wrong",) * 3, dataset="mnist"))
    document = said(call(capsys, "compare", "a", "b", "--json", "--home", home.path))
    assert [table["metric"] for table in document["per_class"]] == ["clean_acc", "worst_case_acc"]
    for table in document["per_class"]:
        assert [row["name"] for row in table["classes"]] == ["one", "two", "three"]
        for number, row in enumerate(table["classes"]):
            here = np.flatnonzero(labels == number)
            expected = [record.samples.verdicts_N(table["metric"])[here].mean() for record in (a, b)]
            assert row["n"] == here.size
            assert row["accuracies"] == pytest.approx(expected)
    assert "worst case by class" in call(capsys, "compare", "a", "b", "--home", home.path).out


def test_what_makes_a_pair_unlike_is_said(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    ones = np.ones(50, dtype=bool)
    flag = Flag(code="zero_gradient", message="No gradient.")
    a = judged("a", ones, {"pgd-20": ones, "autoattack": ones}, flags=(flag,))
    b = judged("b", ones, {"pgd-20": ones})
    longer: tuple[AttackResult, ...] = tuple(x.model_copy(update={"params": {"steps": 50}}) for x in b.attacks)
    keep(home, a, b.model_copy(update={"attacks": longer}))
    assert said(call(capsys, "compare", "a", "b", "--json", "--home", home.path))["notes"] == [
        "The worst cases of A and B are of different attacks: A alone met autoattack.",
        "A and B met other settings of pgd-20.",
        "A is flagged: No gradient.",
    ]
    assert "note: A is flagged: No gradient." in call(capsys, "compare", "a", "b", "--home", home.path).out


def test_hostile_names_reach_the_terminal_as_text(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = drawn("\x1b[2J[red]evil[/red]\n\u202eA", 0)
    keep(home, hostile, drawn("b", 1))
    done = call(capsys, "compare", hostile.id, "b", "--home", home.path)
    assert done.code == 0
    assert "[red]evil[/red]" in done.out
    assert not {"\x1b", "\u202e"} & set(done.out)


def test_it_runs_without_torch(home: Home) -> None:
    keep(home, drawn("a", 0), drawn("b", 1))
    program = (
        "import sys; sys.modules['torch'] = None; from deatbench.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "compare", "a", "b", "--home", str(home.path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "A and B on the same 200 images" in done.stdout
