"""RobustBench's files as records, by their rules; runs of ours as their files; nothing half, nothing hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from records_factory import evaluation, training_info

from deatbench.errors import MissingError
from deatbench.records import EvaluationRecord, Flag, PublishedResult
from deatbench.report.inputs import Inputs, read_inputs
from deatbench.report.reference.robustbench import Import, read_model_info, write_results
from deatbench.report.reference.robustbench_export import export
from deatbench.report.standings.boards import boards_of
from deatbench.store import Home, read_record

MADE_UP = {
    "link": "https://example.org/paper",
    "name": "A Made-Up Way to Train",
    "authors": "A. Nobody, B. Nowhere",
    "additional_data": True,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "Nowhere 2031",
    "architecture": "ResNet-18",
    "eps": "8/255",
    "clean_acc": "81.25",
    "reported": "",
    "autoattack_acc": "50.13",
    "unreliable": False,
}


def put(root: Path, name: str = "Nobody2031Made_R18", folder: str = "cifar10/Linf", **changes: Any) -> Path:
    """A file in their format; a change to `...` leaves the field out."""
    info = {key: value for key, value in (MADE_UP | changes).items() if value is not ...}
    path = root / "model_info" / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(info))
    return path


def only(root: Path) -> PublishedResult:
    (result,) = read_model_info(root).results
    return result


def test_a_result_as_they_give_it(tmp_path: Path) -> None:
    put(tmp_path)
    result = only(tmp_path)
    assert result.id == "robustbench-cifar10-Linf-Nobody2031Made_R18"
    assert (result.name, result.method, result.arch) == ("Nobody2031Made_R18", "Nobody2031Made", "ResNet-18")
    assert (result.clean_acc, result.autoattack_acc, result.best_known_acc) == (0.8125, 0.5013, None)
    assert (result.dataset, result.threat.slug, result.extra_data) == ("cifar10", "Linf-8_255", True)
    assert (result.venue, result.url, result.unreliable) == ("Nowhere 2031", "https://example.org/paper", False)
    assert result.source == "RobustBench: A Made-Up Way to Train (A. Nobody, B. Nowhere)"


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"dataset": "cifar100"}, "dataset", "cifar10"),
        ({"external": "49.9"}, "best_known_acc", 0.499),
        ({"external": "49.9", "autoattack_acc": ...}, "autoattack_acc", None),
        ({"external": ""}, "best_known_acc", None),
        ({"reported": None}, "autoattack_acc", 0.5013),
        ({"reported": "null"}, "autoattack_acc", 0.5013),
        ({"clean_acc": "null"}, "clean_acc", None),
        ({"clean_acc": 81.25}, "clean_acc", 0.8125),
        ({"unreliable": ...}, "unreliable", False),
        ({"unreliable": True}, "unreliable", True),
        ({"additional_data": ...}, "extra_data", None),
        ({"venue": "N/A"}, "venue", None),
        ({"link": "javascript:alert(1)"}, "url", None),
        ({"link": "https://example.org/\"onload='x'"}, "url", None),
        ({"link": "https://example.org/" + "x" * 3000}, "url", None),
        ({"architecture": ...}, "arch", "unknown"),
        ({"architecture": "a\u202eb\n<b>"}, "arch", "a b <b>"),
    ],
)
def test_their_rules(tmp_path: Path, changes: dict[str, Any], field: str, value: object) -> None:
    put(tmp_path, **changes)
    assert getattr(only(tmp_path), field) == value


def test_radii_stay_as_written_so_that_0_031_is_another_board(tmp_path: Path) -> None:
    for name, eps in (("A", "8/255"), ("B", "0.031"), ("C", "8 / 255"), ("D", 0.5)):
        put(tmp_path, name, eps=eps)
    results = read_model_info(tmp_path).results
    assert [result.threat.eps_text for result in results] == ["8/255", "0.031", "8/255", "0.5"]
    boards = boards_of(Inputs(published=results))
    assert {board.address: len(board.published) for board in boards} == {
        "cifar10/Linf-0.031": 1,
        "cifar10/Linf-8_255": 2,
        "cifar10/Linf-0.5": 1,
    }


@pytest.mark.parametrize("start", [".", "model_info", "model_info/cifar100", "model_info/cifar100/L2"])
def test_any_folder_of_a_checkout_will_do(tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "Deep", "cifar100/L2", eps="0.5")
    (tmp_path / "package.json").write_text("{}")
    assert only(tmp_path / start).id == "robustbench-cifar100-L2-Deep"
    monkeypatch.chdir(tmp_path / start)
    assert only(Path()).id == "robustbench-cifar100-L2-Deep"


def why(found: Import) -> dict[str, str]:
    return {skipped.path.as_posix(): skipped.why for skipped in found.skipped}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eps": "eight"}, "eps 'eight' is no radius"),
        ({"eps": "8/0"}, "eps '8/0' is not a number"),
        ({"eps": "0"}, "must be greater than 0"),
        ({"eps": None}, "eps None is no radius"),
        ({"eps": ...}, "eps None is no radius"),
        ({"autoattack_acc": "120"}, "autoattack_acc: '120' is no percentage"),
        ({"clean_acc": "high"}, "clean_acc: 'high' is no percentage"),
        ({"autoattack_acc": ""}, "gives no accuracy under attack"),
        ({"autoattack_acc": True}, "autoattack_acc: True is no percentage"),
    ],
)
def test_what_is_not_whole_is_left_out_with_its_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    put(tmp_path, "Bad", **changes)
    put(tmp_path, "Good")
    found = read_model_info(tmp_path)
    assert [result.name for result in found.results] == ["Good"]
    assert reason in why(found)["model_info/cifar10/Linf/Bad.json"]


def test_damaged_and_hostile_files_are_left_out(tmp_path: Path) -> None:
    contents = {"a": b"{", "b": b"\xff", "c": b"[]", "d": b'{"eps": NaN}', "e": b"[" * 100_000, "f": b" " * (2**20 + 1)}
    for name, content in contents.items():
        put(tmp_path, name).write_bytes(content)
    put(tmp_path, "-x y")
    put(tmp_path, "link").unlink()
    (tmp_path / "model_info/cifar10/Linf/link.json").symlink_to("/etc/hostname")
    found = read_model_info(tmp_path)
    assert found.results == ()
    assert len(found.skipped) == len(contents) + 2


def test_corruptions_and_strays_are_a_line_each(tmp_path: Path) -> None:
    put(tmp_path)
    for name in "abc":
        put(tmp_path, name, "cifar10/corruptions")
    put(tmp_path, "d", "cifar10")
    assert why(read_model_info(tmp_path)) == {
        "model_info": "1 file not in <dataset>/<norm>/",
        "model_info/cifar10/corruptions": "3 files on corruptions, no threat with a norm",
    }


def test_where_there_is_nothing_it_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingError, match="no model_info"):
            read_model_info(path)


def test_records_are_written_once_and_read_back(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, folder="cifar100/Linf")
    home, found = Home(tmp_path / "home"), read_model_info(tmp_path)
    paths = write_results(home, found.results)
    assert [path.relative_to(home.published).as_posix() for path in paths] == [
        "robustbench/cifar10/Linf/robustbench-cifar10-Linf-Nobody2031Made_R18.json",
        "robustbench/cifar100/Linf/robustbench-cifar100-Linf-Nobody2031Made_R18.json",
    ]
    before = [path.read_bytes() for path in paths]
    assert write_results(home, found.results) == paths
    assert [path.read_bytes() for path in paths] == before
    assert tuple(read_record(path, PublishedResult) for path in paths) == found.results
    assert set(read_inputs(home).published) == set(found.results)


# Out again


def ours(seed: int = 0, n: int = 1000, dataset: str = "cifar10", **changes: Any) -> EvaluationRecord:
    info = training_info(seed, run_id=f"cifar10-vgg16-deat-abc123-s{seed}")
    info = info.model_copy(update={"config": info.config | {"dataset": dataset}})
    return evaluation(
        info.run_id, n=n, clean=0.812, training=changes.pop("training", info), dataset=dataset,
        **({"robust": {"pgd-20": 0.55, "autoattack": 0.503}} | changes),
    )  # fmt: skip


def test_what_goes_out_comes_in_again(tmp_path: Path) -> None:
    inputs = Inputs(evaluations=(ours(0), ours(1, n=10_000, eps="0.031"), ours(2, norm="L2", eps="0.5")))
    made = export(boards_of(inputs))
    assert made.left_out == ()
    for name, info in made.files.items():
        path = tmp_path / "model_info" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(info))
    results = {result.name: result for result in read_model_info(tmp_path).results}
    assert len(results) == 3
    for record in inputs.evaluations:
        assert record.training is not None
        result = results[record.training.run_id]
        assert result.threat == record.threat
        assert (result.clean_acc, result.autoattack_acc) == (0.812, 0.503)
        assert (result.dataset, result.arch, result.extra_data) == ("cifar10", "vgg16", False)
        assert (result.best_known_acc, result.url, result.venue) == (None, None, None)


def test_their_fields_are_texts_in_percent() -> None:
    lower = ours(robust={"pgd-20": 0.49, "autoattack": 0.503})
    (info,) = export(boards_of(Inputs(evaluations=(lower,)))).files.values()
    assert list(info)[:12] == list(MADE_UP)[:12]
    assert (info["clean_acc"], info["autoattack_acc"], info["external"]) == ("81.20", "50.30", "49.00")
    assert (info["eps"], info["additional_data"], info["unreliable"]) == ("8/255", False, False)
    assert "the first 1,000 test images" in info["footnote"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (ours(n=500), "AutoAttack saw 500 images, fewer than 1,000"),
        (ours(robust={"pgd-20": 0.5}), "not attacked by AutoAttack"),
        (ours(dataset="digits"), "RobustBench has no board of digits, Linf"),
        (ours(norm="L1", eps="12"), "RobustBench has no board of cifar10, L1"),
        (ours(flags=[Flag(code="zero_gradient", message="x")]), "flagged"),
        (evaluation("foreign", n=1000, dataset="cifar10"), "whether its training used additional data is not known"),
    ],
)
def test_what_cannot_go_out_is_named(record: EvaluationRecord, reason: str) -> None:
    made = export(boards_of(Inputs(evaluations=(record,))))
    assert made.files == {}
    assert [left.why for left in made.left_out] == [reason]


def test_a_name_is_no_path() -> None:
    info = training_info(run_id="../../../etc/x")
    (name,) = export(boards_of(Inputs(evaluations=(ours(training=info),)))).files
    assert name == "cifar10/Linf/etc-x.json"
