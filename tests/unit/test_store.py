"""Reading and writing: whole or not at all, strict, one process per folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from records_factory import evaluation, model_card, training_record

from deatbench import store
from deatbench.errors import ConfigError, DeatbenchError, MissingError
from deatbench.records import EvaluationRecord
from deatbench.store import (
    Home,
    RunFolder,
    atomic_write_bytes,
    atomic_write_text,
    parse_json,
    read_record,
    safe_name,
    sha256_of,
    write_record,
)

AS_ROOT = os.geteuid() == 0


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# -- writing


def test_writing_makes_folders_and_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write_bytes(path, b"old and long")
    atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert only_file(path.parent) == path
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    atomic_write_text(path, "ε = 8/255\n")
    assert path.read_text(encoding="utf-8") == "ε = 8/255\n"


def test_a_file_too_large_for_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    """A full disk, for real: the kernel refuses to let the file grow."""
    path = tmp_path / "checkpoint.pt"
    atomic_write_bytes(path, b"old" * 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead of a signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DeatbenchError) as refusal:
            atomic_write_bytes(path, b"new" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(path) in str(refusal.value)
    assert refusal.value.exit_code == 1
    assert path.read_bytes() == b"old" * 100
    assert only_file(tmp_path) == path


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DeatbenchError, match="Permission denied"):
            atomic_write_bytes(tmp_path / "file", b"x")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(DeatbenchError, match="cannot write"):
        atomic_write_bytes(tmp_path / "runs" / "a" / "file", b"x")
    with pytest.raises(DeatbenchError, match="cannot write"), RunFolder(tmp_path / "runs" / "a").locked():
        pass
    with pytest.raises(DeatbenchError, match="cannot write"):
        atomic_write_bytes(tmp_path, b"x")


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that rewrites one file over and over is killed: the file is one of its versions, whole."""
    path = tmp_path / "file"
    atomic_write_bytes(path, b"0" * 100_000)
    script = f"""
        from pathlib import Path
        from deatbench.store import atomic_write_bytes
        print("ready", flush=True)
        for i in range(10**9):
            atomic_write_bytes(Path({str(path)!r}), str(i % 10).encode() * 100_000)
    """
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)
        child.kill()
        child.wait()
        child.stdout.close()
        data = path.read_bytes()
        assert len(data) == 100_000
        assert len(set(data)) == 1


def _write_many(folder: str, who: int) -> None:
    for i in range(20):
        write_record(Path(folder) / f"{who}-{i}.json", evaluation(f"model-{who}-{i}"))


def test_eight_writers_lose_and_tear_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    home = Home(tmp_path)
    writers = [context.Process(target=_write_many, args=(str(home.evaluations), who)) for who in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(home.load_records()) == 160
    assert not [path for path in home.evaluations.iterdir() if path.suffix != ".json"]


# -- strict JSON


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        '{"a": Infinity}',
        "[-Infinity]",
        "1e999",
        "[-1e999]",
        '{"a": 1, "a": 2}',
        '{"x": {"b": 1, "c": 2, "b": 1}}',
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 5000,
        "{'a': 1}",
        "[1,]",
        "",
        "tru",
        '"\x01"',
        "// comment\n1",
    ],
)
def test_what_is_not_strict_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_json(text, "file.json")
    assert "file.json is not valid JSON" in str(refusal.value)
    assert "\n" not in str(refusal.value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_makes_the_round_trip(value: Any) -> None:
    assert parse_json(json.dumps(value), "here") == value


# -- records on disk


def damaged(record: BaseModel, change: Any) -> str:
    data = json.loads(record.model_dump_json())
    change(data)
    return json.dumps(data)


def test_records_come_back_as_they_went(tmp_path: Path) -> None:
    for record in (evaluation(), training_record(), model_card()):
        write_record(tmp_path / "record.json", record)
        assert read_record(tmp_path / "record.json", type(record)) == record


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda data: data.update(seconds=True), "seconds"),  # a boolean is no number
        (lambda data: data.update(seconds="1.5"), "seconds"),  # nor is a text
        (lambda data: data.update(batch_size=1.5), "batch_size"),
        (lambda data: data.pop("threat"), "threat"),
        (lambda data: data.update(extra=1), "extra"),
        (lambda data: data["env"].update(threads="2"), "env.threads"),
        (lambda data: data["metrics"]["clean_acc"].update(value=0.1), "metrics clean_acc do not follow"),
    ],
)
def test_a_wrong_record_names_its_file_and_first_fault(change: Any, place: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(damaged(evaluation(), change))
    with pytest.raises(ConfigError) as refusal:
        read_record(path, EvaluationRecord)
    assert str(path) in str(refusal.value)
    assert place in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"null", b"[]", b"\x00" * 100, b"[" * 10**6, b'{"a":1,"a":1}'])
def test_what_is_no_record_ends_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as refusal:
        read_record(path, EvaluationRecord)
    assert "\n" not in str(refusal.value)


def test_every_truncation_of_a_record_is_refused(tmp_path: Path) -> None:
    text, path = evaluation().model_dump_json(), tmp_path / "record.json"
    for length in range(0, len(text), 97):
        path.write_text(text[:length])
        with pytest.raises(ConfigError):
            read_record(path, EvaluationRecord)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(store.MAX_JSON_BYTES + 1)  # sparse: takes no room
    with pytest.raises(ConfigError, match="larger than 64 MiB"):
        read_record(path, EvaluationRecord)


def test_a_link_to_what_has_no_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="larger than 64 MiB"):
        read_record(path, EvaluationRecord)


def test_a_missing_record_and_a_folder_in_its_place(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(MissingError, match="cannot read"):
            read_record(path, EvaluationRecord)


# -- names, folders, locks


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", ".hidden", "a\0b"])
def test_names_that_leave_the_folder(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a plain name"):
        safe_name(text, "run")
    with pytest.raises(ConfigError, match="not a plain name"):
        Home(tmp_path).run(text)


@given(st.text(max_size=30))
def test_a_safe_name_stays_in_its_folder(text: str) -> None:
    try:
        name = safe_name(text, "run")
    except ConfigError:
        return
    assert (Path("/home") / name).parent == Path("/home")
    assert (Path("/home") / name).name == name


def test_a_second_process_is_refused_at_once(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from deatbench.errors import ConfigError
        from deatbench.store import RunFolder
        try:
            with RunFolder(Path({str(tmp_path)!r})).locked():
                print("in")
        except ConfigError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with RunFolder(tmp_path).locked():
        held = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "is in use by another run" in held.stdout
    free = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert free.stdout == "in\n"


def test_a_lock_is_let_go_by_an_error_and_by_death(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError), folder.locked():
        raise RuntimeError
    script = f"""
        import os
        from pathlib import Path
        from deatbench.store import RunFolder
        with RunFolder(Path({str(tmp_path)!r})).locked():
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60, check=False)
    with folder.locked():
        pass


def test_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (30, 4, 100):
        atomic_write_bytes(tmp_path / f"checkpoint-{step:08d}-00ff.pt", b"x")
    (tmp_path / ".checkpoint-00000005-00ff.pt.ab12.tmp").write_bytes(b"half")  # what a killed writer leaves
    assert [path.name[11:19] for path in folder.checkpoints()] == ["00000004", "00000030", "00000100"]


def test_home_finds_runs_zoo_and_records(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(MissingError, match="no finished run"):
        home.latest_run()
    assert home.load_records() == []
    for seed in (0, 1):
        record = training_record(seed)
        write_record(home.run(record.id).training, record)
        os.utime(home.run(record.id).training, (1000 - seed, 1000 - seed))
        entry = home.zoo / "digits" / "Linf-8_255" / record.id
        write_record(entry / "card.json", model_card(seed))
        write_record(entry / "evaluations" / "x.json", evaluation(record.id))
    assert home.latest_run().path.name == training_record(0).id  # the one that finished last, not the last name
    assert [card.id for card in home.load_cards()] == sorted(training_record(seed).id for seed in (0, 1))
    assert home.zoo_entry(training_record(1).id).name == training_record(1).id
    write_record(home.evaluations / "again.json", evaluation(training_record(0).id))
    assert len(home.load_records()) == 2  # each id once
    with pytest.raises(MissingError, match="no model 'nobody'"):
        home.zoo_entry("nobody")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
