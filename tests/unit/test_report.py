"""What stands on which board, which files there are, and that they follow from the records alone; no torch."""

from __future__ import annotations

import contextlib
import io
import random
import re
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from records_factory import ENV, evaluation, model_card, seeds, sha, training_info, with_images

from deatbench.errors import ConfigError, MissingError
from deatbench.records import CheckResult, EvaluationRecord, Flag, ModelCard, Verification, wilson_interval
from deatbench.report import build_leaderboards, serve
from deatbench.report.board.columns import columns_of
from deatbench.report.escape import code, markdown
from deatbench.report.inputs import Inputs
from deatbench.report.serve import server
from deatbench.report.site import pages_of
from deatbench.report.standings.boards import Board, boards_of
from deatbench.report.standings.rows import Section
from deatbench.report.standings.runs import Tier
from deatbench.report.wording import count, duration
from deatbench.store import Home, write_record


def boards(records: Sequence[EvaluationRecord], cards: Sequence[ModelCard] = ()) -> list[Board]:
    return boards_of(Inputs(evaluations=tuple(records), cards=tuple(cards)))


def board(records: Sequence[EvaluationRecord], cards: Sequence[ModelCard] = ()) -> Board:
    (only,) = boards(records, cards)
    return only


def home_with(path: Path, records: list[EvaluationRecord]) -> Home:
    home = Home(path)
    for record in records:
        write_record(home.evaluations / f"{record.id}.json", record)
    return home


def mixed() -> list[EvaluationRecord]:
    flag = Flag(code="zero_gradient", message="31 of 100 images have an all-zero input gradient.")
    return [
        *seeds([0.50, 0.53, 0.57]),
        *seeds([0.48, 0.49], method="pgd-at"),
        evaluation("foreign", robust={"pgd-20": 0.7}),
        evaluation("masked", robust={"pgd-20": 0.9, "autoattack": 0.8}, flags=[flag]),
        evaluation("elsewhere", eps="0.031"),
        evaluation("other-data", dataset="cifar10"),
    ]


# What stands on which board


def test_boards_are_apart_by_dataset_norm_and_eps_as_written() -> None:
    records = [
        evaluation("a", eps="8/255"),
        evaluation("a", eps="0.031"),
        evaluation("a", eps="16/510"),
        evaluation("a", norm="L2", eps="0.5"),
        evaluation("a", dataset="cifar10"),
    ]
    assert [(b.dataset, b.threat.slug) for b in boards(records)] == [
        ("cifar10", "Linf-8_255"),
        ("digits", "L2-0.5"),
        ("digits", "Linf-0.031"),
        ("digits", "Linf-16_510"),
        ("digits", "Linf-8_255"),
    ]


def test_seeds_of_one_configuration_are_one_row_with_mean_and_spread() -> None:
    values = [0.50, 0.53, 0.57]
    (row,) = board(seeds(values)).rows
    summary = row.summary("autoattack")
    assert summary is not None
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.spread == pytest.approx(statistics.stdev(values))
    assert summary.n == 100
    assert summary.ci95 == wilson_interval(53, 100)
    assert row.label == "vgg16-deat-abc123"
    assert [run.training.seed for run in row.runs if run.training] == [0, 1, 2]


@pytest.mark.parametrize(
    "change",
    [{"method": "trades"}, {"epochs": 31}, {"checkpoint": "last"}, {"recipe": "paper"}, {"config": {"k1": 0.5}}],
)
def test_any_other_difference_is_another_row(change: dict[str, object]) -> None:
    first = evaluation("a", training=training_info(0))
    second = evaluation("b", training=training_info(1, **change))
    assert len(board([first, second]).rows) == 2
    assert len(board([first, evaluation("b", training=training_info(1))]).rows) == 1


def test_other_architecture_width_or_images_are_another_row() -> None:
    for change in ({"arch": "vgg19"}, {"params": {"width": 0.5}}):
        records = [evaluation("a", training=training_info(0)), evaluation("b", training=training_info(1), **change)]
        assert len(board(records).rows) == 2
    assert len(board([evaluation("foreign"), evaluation("stranger")]).rows) == 2


def test_other_code_around_the_same_weights_is_another_row() -> None:
    """A network behind a defence and the network itself have the same weights."""

    def made(**changes: str) -> EvaluationRecord:
        record = evaluation("net")
        return record.model_copy(update={"model": record.model.model_copy(update=changes)})

    code = {"code_sha256": sha("net.py"), "source": "net.py:make"}
    others = ({}, code | {"source": "net.py:wrapped"}, code | {"code_sha256": sha("net.py, changed")})
    assert [len(board([made(**code), made(**other)]).rows) for other in others] == [2, 2, 2]
    assert len(board([made(**code), made(**code)]).rows) == 1


def test_evaluations_of_the_same_weights_are_one_run_and_repeats_cannot_raise_a_number() -> None:
    training = training_info(0)
    records = [
        evaluation("a", n=1000, robust={"pgd-20": 0.5, "cw-20": 0.48}, training=training),
        evaluation("a", n=100, robust={"pgd-20": 0.52, "autoattack": 0.45}, training=training),
        evaluation("a", n=100, robust={"pgd-20": 0.52, "autoattack": 0.47}, training=training),
    ]
    (row,) = board(records).rows
    (run,) = row.runs
    assert (run.metrics["pgd-20"].n, run.metrics["pgd-20"].value) == (1000, 0.5)
    assert (run.metrics["autoattack"].n, run.metrics["autoattack"].value) == (100, 0.45)
    assert run.metrics["worst_case_acc"] == run.metrics["autoattack"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_equal_evaluations_the_proven_one_decides(order: tuple[int, ...]) -> None:
    days = [f"2026-11-2{day}T10:00:00Z" for day in order]
    bare, stored, proven = (evaluation("a", id=f"r{i}", created=day) for i, day in enumerate(days))
    records = (bare, with_images(stored), with_images(proven))
    look = {"record_sha256": sha("x"), "created": days[0], "env": ENV}
    fine = CheckResult(name="record", status="PASS", detail="")
    looks = {key: Verification(record=key, checks=(fine,), **look) for key in ("r0", "r2")}
    (run,) = boards_of(Inputs(evaluations=records, verifications=looks))[0].runs
    assert (run.deciding.id, run.tier) == ("r2", Tier.PROVEN)
    (run,) = boards_of(Inputs(evaluations=records[:2], verifications=looks))[0].runs
    assert (run.deciding.id, run.tier) == ("r1", Tier.SELF_REPORTED)


def test_ranking_flagged_and_unattacked_rows_stand_apart_without_rank() -> None:
    (first,) = [b for b in boards(mixed()) if (b.dataset, b.threat.eps_text) == ("digits", "8/255")]
    assert [(row.label, row.rank, row.section) for row in first.rows] == [
        ("vgg16-deat-abc123", 1, Section.RANKED),
        ("vgg16-pgd-at-abc123", 2, Section.RANKED),
        ("foreign", None, Section.NO_AUTOATTACK),
        ("masked", None, Section.FLAGGED),
    ]
    assert first.best is first.rows[0]


def test_equal_worst_cases_share_a_rank() -> None:
    ranks = [
        row.rank for row in board([evaluation("a"), evaluation("b"), evaluation("c", robust={"autoattack": 0.1})]).rows
    ]
    assert ranks == [1, 1, 3]


def test_one_flagged_seed_flags_the_row_and_says_how_many() -> None:
    records = seeds([0.5, 0.6])
    records[1] = records[1].model_copy(update={"flags": (Flag(code="silent_success", message="m"),)})
    (row,) = board(records).rows
    assert row.section is Section.FLAGGED
    flags = next(column for column in columns_of(board(records)) if column.key == "flags")
    assert flags.text(flags.read(row)) == "silent success (1 of 2 runs)"


@pytest.mark.parametrize(
    ("code", "flagged"), [("not_converged", False), ("silent_success", False), ("zero_gradient", True)]
)
def test_a_weak_attack_takes_no_rank_from_the_evaluation_that_decides(code: str, flagged: bool) -> None:
    training, flag = training_info(0), Flag(code=code, message="m")
    strong = evaluation("a", robust={"autoattack": 0.45}, training=training)
    weak = evaluation("a", robust={"pgd-2": 0.6}, training=training, flags=[flag])
    (row,) = board([strong, weak]).rows
    assert row.section is (Section.FLAGGED if flagged else Section.RANKED)
    (alone,) = board([weak]).rows
    assert alone.section is Section.FLAGGED


# Files


def test_same_records_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = mixed()
    first = {
        p.relative_to(tmp_path / "a"): p.read_bytes() for p in build_leaderboards(home_with(tmp_path / "a", records))
    }
    again = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in build_leaderboards(Home(tmp_path / "a"))}
    assert first == again
    shuffled = random.Random(0).sample(records, len(records))
    assert pages_of(Inputs(evaluations=tuple(shuffled))) == pages_of(Inputs(evaluations=tuple(records)))


def test_pages_written_are_those_returned_and_the_index_reaches_them(tmp_path: Path) -> None:
    paths = build_leaderboards(home_with(tmp_path, mixed()))
    on_disk = sorted(path for path in (tmp_path / "leaderboards").rglob("*") if path.is_file())
    assert paths == on_disk
    names = {str(path.relative_to(tmp_path / "leaderboards")) for path in paths}
    boards = {"digits/Linf-8_255", "digits/Linf-0.031", "cifar10/Linf-8_255"}
    figures = {f"digits/Linf-8_255-{key}.svg" for key in ("clean", "cost")}
    assert names >= {"index.html", "index.md"} | {f"{b}.{kind}" for b in boards for kind in ("html", "md")} | figures
    for kind in ("html", "md"):
        text = (tmp_path / f"leaderboards/index.{kind}").read_text(encoding="utf-8")
        linked = set(re.findall(rf'[("]([\w./-]+\.{kind})[)"]', text))
        assert linked >= {f"{board}.{kind}" for board in boards}
        assert linked <= names


def test_links_between_pages_lead_to_pages(tmp_path: Path) -> None:
    paths = build_leaderboards(home_with(tmp_path, mixed()))
    for path in paths:
        link = r'href="([^"#:]+)"' if path.suffix == ".html" else r"\]\(([^)#:]+)\)"
        links = re.findall(link, path.read_text(encoding="utf-8"))
        missing = [link for link in links if not (path.parent / link).resolve().is_file()]
        assert missing == [], path


def test_own_pages_of_boards_that_are_gone_are_removed_and_others_left(tmp_path: Path) -> None:
    home = home_with(tmp_path, [evaluation("a")])
    stale, foreign = home.leaderboards / "digits/Linf-0.5.html", home.leaderboards / "digits/notes.md"
    build_leaderboards(home_with(tmp_path, seeds([0.5], eps="0.5") + seeds([0.6], eps="0.5", method="trades")))
    figures = list(stale.parent.glob("Linf-0.5-*.svg"))
    assert stale.is_file()
    assert len(figures) == 2
    foreign.write_text("mine", encoding="utf-8")
    for path in home.evaluations.glob("*.json"):
        if '"0.5"' in path.read_text(encoding="utf-8"):
            path.unlink()
    build_leaderboards(home)
    assert not [path for path in (stale, *figures) if path.exists()]
    assert foreign.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("linked", ["leaderboards", "leaderboards/digits", "model_zoo/digits", "model_zoo"])
def test_nothing_is_written_through_a_link_out_of_the_working_folder(tmp_path: Path, linked: str) -> None:
    home, outside = home_with(tmp_path / "home", [evaluation("a")]), tmp_path / "outside"
    card = model_card(dataset="digits")
    write_record(home.zoo / card.dataset / card.threat.slug / card.id / "card.json", card)
    place = home.path / linked
    if place.exists():
        place.rename(outside)
    outside.mkdir(exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    with pytest.raises(ConfigError, match="a link leads from"):
        build_leaderboards(home)
    assert sorted(outside.rglob("*")) == before


def test_a_folder_or_device_named_like_a_page_stays(tmp_path: Path) -> None:
    home = home_with(tmp_path, [evaluation("a")])
    (home.leaderboards / "folder.html").mkdir(parents=True)
    (home.leaderboards / "endless.html").symlink_to("/dev/zero")
    build_leaderboards(home)
    assert (home.leaderboards / "folder.html").is_dir()


def test_no_records_still_give_an_index_that_says_what_to_do(tmp_path: Path) -> None:
    paths = build_leaderboards(Home(tmp_path))
    indices = [path for path in paths if path.stem == "index"]
    assert [path.name for path in indices] == ["index.html", "index.md"]
    assert all("deatbench run --arch vgg16 --method deat" in path.read_text(encoding="utf-8") for path in indices)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "a\nb", "x" * 300])
def test_dataset_that_is_no_file_name_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a page"):
        build_leaderboards(home_with(tmp_path, [evaluation("a", dataset=name)]))
    assert not (tmp_path / "leaderboards").exists()


# Words and numbers


def test_markdown_text_keeps_what_is_harmless() -> None:
    assert markdown("preact_resnet18-deat 43.0 ±1.4 zoo:ID") == "preact_resnet18-deat 43.0 ±1.4 zoo:ID"
    assert markdown("a|b `c` <d> _e_") == "a&#124;b \\`c\\` &lt;d&gt; \\_e\\_"
    assert code("a `b` | c") == "`` a `b` \\| c ``"


def test_units() -> None:
    assert [duration(s) for s in (3.2, 99.0, 750.0, 12_240.0)] == ["3 s", "99 s", "12.5 min", "3.4 h"]
    assert [count(n) for n in (312, 27_200, 11_173_962)] == ["312", "27.2 k", "11.2 M"]


# Without torch, and over HTTP


def test_renders_where_torch_is_not_installed(tmp_path: Path) -> None:
    home_with(tmp_path, seeds([0.5, 0.53]))
    program = """
import importlib.abc, pathlib, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from deatbench.report import build_leaderboards
from deatbench.store import Home
print(len(build_leaderboards(Home(pathlib.Path(sys.argv[1])))))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout) >= 4


def test_serve_shows_the_pages_on_this_machine_only(tmp_path: Path) -> None:
    home = home_with(tmp_path, [evaluation("a")])
    with pytest.raises(MissingError, match="leaderboard build"):
        server(home, 0)
    build_leaderboards(home)
    with server(home, 0) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            assert web.server_address[0] == "127.0.0.1"
            with urllib.request.urlopen(f"http://127.0.0.1:{web.server_port}/digits/Linf-8_255.html") as answer:
                assert b"deatbench" in answer.read()
            with pytest.raises(ConfigError, match="cannot listen"), contextlib.redirect_stdout(io.StringIO()):
                serve(home, web.server_port)
        finally:
            web.shutdown()
            thread.join()
