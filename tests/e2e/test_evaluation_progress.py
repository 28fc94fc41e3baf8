"""An evaluation that is killed, interrupted, cut up or shared among processes ends with the verdicts of a quiet one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import ROOT, call, environment
from filelock import FileLock
from small_nets import write_factories
from torch import Tensor, nn
from watched_calls import calls_of

from deatbench.archs.build import count_flops
from deatbench.attacks import Attack, make_attack
from deatbench.attacks.autoattack import AutoAttack
from deatbench.data import Dataset
from deatbench.engine import progress as engine_progress
from deatbench.engine.evaluate import Evaluation, Settings, evaluate
from deatbench.engine.monitor import Monitor
from deatbench.engine.progress import SavedProgress, locked
from deatbench.engine.shards import Alone
from deatbench.engine.workers import Workers
from deatbench.errors import CheckpointError, ConfigError, DeatbenchError, InterruptedRun
from deatbench.records import EvaluationRecord
from deatbench.threats import make_threat

LINF = make_threat("Linf", "0.2")
KEY = {"of": "these tests"}


class ShortSuite(AutoAttack):
    """AutoAttack's four members with few steps."""

    def members(self, *args: object) -> tuple[Attack, ...]:
        steps = {"apgd-ce": {"steps": 12}, "apgd-t": {"steps": 8}, "fab-t": {"steps": 8}, "square": {"queries": 60}}
        return tuple(make_attack(name, **params) for name, params in steps.items())


ATTACKS = [make_attack("pgd-10"), ShortSuite("fast")]


def same(a: Evaluation, b: Evaluation) -> bool:
    return (
        np.array_equal(a.clean_N, b.clean_N)
        and a.robust.keys() == b.robust.keys()
        and all(np.array_equal(a.robust[name], b.robust[name]) for name in a.robust)
        and [point[1].tolist() for point in a.curve] == [point[1].tolist() for point in b.curve]
    )


class Impatient(Monitor):
    """Presses Ctrl-C after some thousand images have passed."""

    def __init__(self, patience: float) -> None:
        self.patience = patience

    def advance(self, amount: float, status: str = "") -> None:
        self.patience -= amount if not status else 0
        if self.patience < 0:
            raise KeyboardInterrupt


@pytest.fixture
def images(digits: Dataset):  # type: ignore[no-untyped-def]
    return digits.test.subset(torch.arange(60))


def test_interrupted_often_ends_the_same(
    robust_net: nn.Module, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(engine_progress, "KEEP_EVERY_SECONDS", 0.0)
    sweep = [make_threat("Linf", "0.1"), make_threat("Linf", "0.3")]
    settings = Settings(batch_size=90, keep_images=True)
    whole = evaluate(robust_net, images, LINF, ATTACKS, settings, sweep=sweep)
    assert 0 < whole.robust["autoattack"].sum() < whole.robust["pgd-10"].sum() < 60
    dice, tries = random.Random(0), 0
    while True:
        tries += 1
        progress = SavedProgress(tmp_path / "state", KEY)
        try:
            args = {"sweep": sweep, "progress": progress, "monitor": Impatient(dice.uniform(100, 2000))}
            done = evaluate(robust_net, images, LINF, ATTACKS, settings, **args)  # type: ignore[arg-type]
        except InterruptedRun:
            continue
        if not done.missing:
            break
        assert done.robust.keys() <= {"pgd-10", "autoattack-provisional", "autoattack"}
        assert tries < 500
    assert tries > 10
    assert same(done, whole)
    for name, (indices, x_adv) in whole.images.items():
        assert np.array_equal(done.images[name][0], indices)
        assert np.array_equal(done.images[name][1], x_adv)


CHILD = """
    import sys
    import torch
    torch.set_num_threads(1)
    sys.path[:0] = [{checkout!r}, {tests!r}, {here!r}]
    from pathlib import Path
    import test_evaluation_progress as test
    from deatbench.data import load_dataset
    from small_nets import digits_cnn

    test.engine_progress.KEEP_EVERY_SECONDS = 0.05
    net = digits_cnn()
    net.load_state_dict(torch.load({weights!r}, weights_only=True))
    images = load_dataset("digits", download=False).test.subset(torch.arange(60))
    print("begun", flush=True)
    done = test.evaluate(net.eval(), images, test.LINF, test.ATTACKS, test.Settings(batch_size=90),
                         progress=test.SavedProgress(Path({state!r}), test.KEY))
    print({{name: verdicts.tolist() for name, verdicts in done.robust.items()}}, flush=True)
"""


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_with_sigkill_ends_the_same(robust_net: nn.Module, images, tmp_path: Path, kills: int) -> None:  # type: ignore[no-untyped-def]
    torch.save(robust_net.state_dict(), tmp_path / "net.pt")
    values = {"checkout": str(ROOT), "tests": str(ROOT / "tests"), "here": str(Path(__file__).parent)}
    values |= {"weights": str(tmp_path / "net.pt"), "state": str(tmp_path / "state")}
    command = [sys.executable, "-c", textwrap.dedent(CHILD).format(**values)]
    dice, killed = random.Random(kills), 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            if killed < kills:
                time.sleep(dice.uniform(0.0, 0.4 if kills == 1 else 0.15))
                child.send_signal(signal.SIGKILL)
                killed += child.wait() == -signal.SIGKILL
            text = child.stdout.read()
        if text:
            break
    assert killed >= 1
    whole = evaluate(robust_net, images, LINF, ATTACKS, Settings(batch_size=90))
    assert eval(text) == {name: verdicts.tolist() for name, verdicts in whole.robust.items()}


def test_threads_change_no_verdict(robust_net: nn.Module, images) -> None:  # type: ignore[no-untyped-def]
    before, done = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            done.append(evaluate(robust_net, images, LINF, ATTACKS, Settings(batch_size=100)))
    finally:
        torch.set_num_threads(before)
    assert same(done[1], done[0])
    assert same(done[2], done[0])


def test_a_large_network_is_not_for_workers(robust_net: nn.Module, images, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    attacks, settings = [make_attack("apgd-ce", steps=5), make_attack("square", queries=20)], Settings(workers=2)
    shared = calls_of(monkeypatch, Workers, "share")
    small = evaluate(robust_net, images, LINF, attacks, settings)
    assert len(shared) == 2
    monkeypatch.setattr("deatbench.engine.trial.MOST_FLOPS", 10**5)
    assert count_flops(robust_net, (1, 1, 8, 8)) > 10**5
    large = evaluate(robust_net, images, LINF, attacks, settings)
    assert len(shared) == 2
    assert same(large, small)


def test_workers_change_no_verdict_and_stop_at_once(robust_net: nn.Module, images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = evaluate(robust_net, images, LINF, ATTACKS)
    threads = torch.get_num_threads()
    done = evaluate(robust_net, images, LINF, ATTACKS, Settings(workers=3, batch_size=100))
    assert same(done, whole)
    assert sum(part.forward_passes for part in done.attacks) > 0
    progress, started = SavedProgress(tmp_path / "state", KEY), time.monotonic()
    long = [make_attack("apgd-ce", steps=10**6)]
    with pytest.raises(InterruptedRun):
        evaluate(robust_net, images, LINF, long, Settings(workers=3), progress=progress, monitor=Impatient(20_000))
    assert time.monotonic() - started < 60
    assert torch.get_num_threads() == threads
    again = evaluate(robust_net, images, LINF, ATTACKS, Settings(workers=2), monitor=Impatient(1e9))
    assert same(again, whole)


def test_processes_share_the_units_whatever_the_number_of_workers(robust_net: nn.Module, images) -> None:  # type: ignore[no-untyped-def]
    class Team(Alone):
        count = 2
        shared = 0

        def share(self, stage, units, work):  # type: ignore[no-untyped-def]
            self.shared += units
            return super().share(stage, units, work)

    team = Team()
    evaluate(
        robust_net, images, LINF, [make_attack("apgd-ce", steps=3)], Settings(workers=2, batch_size=20), shards=team
    )
    assert team.shared > 3  # three units of clean images; the attack's are shared as well


@pytest.mark.parametrize("size", [7, 64])
def test_batch_size_changes_no_verdict(robust_net: nn.Module, images, size: int) -> None:  # type: ignore[no-untyped-def]
    whole = evaluate(robust_net, images, LINF, ATTACKS, Settings(batch_size=500))
    assert same(evaluate(robust_net, images, LINF, ATTACKS, Settings(batch_size=size)), whole)


class SmallMemory(nn.Module):
    """Runs out of memory above some images at once."""

    def __init__(self, net: nn.Module, holds: int) -> None:
        super().__init__()
        self.net, self.holds = net, holds

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if len(x_NCHW) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.net(x_NCHW)


def test_out_of_memory_means_smaller_pieces(robust_net: nn.Module, images) -> None:  # type: ignore[no-untyped-def]
    attacks, settings = ATTACKS[1:], Settings(batch_size=60)
    whole = evaluate(robust_net, images, LINF, attacks, settings)
    tight = SmallMemory(robust_net, 60)

    class Tighten(Monitor):
        def start(self, title: str, total: float) -> None:
            tight.holds = 60 if title == "clean" else 40

    assert same(evaluate(tight, images, LINF, attacks, settings, monitor=Tighten()), whole)
    tight.holds = 25  # for the clean pass, too
    assert same(evaluate(tight, images, LINF, attacks, settings), whole)
    tight.holds = 60

    class Hopeless(Monitor):
        def start(self, title: str, total: float) -> None:
            tight.holds = 60 if title == "clean" else 0

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(tight, images, LINF, attacks, settings, monitor=Hopeless())


def test_the_curve_never_rises_and_meets_the_verdicts(robust_net: nn.Module, images) -> None:  # type: ignore[no-untyped-def]
    sweep = [make_threat("Linf", text) for text in ("0.3", "0.05", "0.1", "0.4")]
    done = evaluate(robust_net, images, LINF, ATTACKS, sweep=sweep)
    assert [threat.eps_text for threat, _ in done.curve] == ["0.05", "0.1", "0.2", "0.3", "0.4"]
    for (_, before_N), (_, after_N) in zip(done.curve, done.curve[1:], strict=False):
        assert not (after_N & ~before_N).any()
    worst_N = np.logical_and.reduce(list(done.robust.values()))
    assert np.array_equal(done.curve[2][1], worst_N)
    assert done.curve[0][1].sum() > done.curve[2][1].sum() > done.curve[4][1].sum()


def test_more_attacks_never_raise_the_worst_case(robust_net: nn.Module, images) -> None:  # type: ignore[no-untyped-def]
    standing_N = np.ones(60, dtype=bool)
    attacks: list[Attack] = []
    for name in ("fgsm", "pgd-5", "cw-5", "apgd-ce"):
        attacks.append(make_attack(name))
        done = evaluate(robust_net, images, LINF, attacks)
        worst_N = np.logical_and.reduce(list(done.robust.values()))
        assert not (worst_N & ~standing_N).any()
        assert not (worst_N & ~done.clean_N).any()
        standing_N = worst_N


def test_every_kept_image_is_a_proof(robust_net: nn.Module, images, digits: Dataset) -> None:  # type: ignore[no-untyped-def]
    done = evaluate(robust_net, images, LINF, ATTACKS, Settings(keep_images=True))
    for name, robust_N in done.robust.items():
        indices, x_adv = done.images[name]
        assert sorted(indices.tolist()) == np.flatnonzero(done.clean_N & ~robust_N).tolist()
        ((x_NCHW, y_N),) = digits.test.batches([torch.from_numpy(indices)], torch.device("cpu"))
        x_adv_NCHW = torch.from_numpy(x_adv)
        assert float((x_adv_NCHW - x_NCHW).abs().max()) <= LINF.eps + 1e-6
        assert 0 <= x_adv.min() <= x_adv.max() <= 1
        with torch.no_grad():
            assert bool((robust_net(x_adv_NCHW).argmax(1) != y_N).all())


def test_foreign_and_damaged_progress_is_refused(robust_net: nn.Module, images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "state"
    run = {"attacks": [make_attack("pgd-2")], "progress": SavedProgress(folder, KEY)}
    evaluate(robust_net, images, LINF, **run)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another evaluation"):
        SavedProgress(folder, {"of": "somebody else"})
    unit = sorted(folder.glob("*.safetensors"))[-1]
    before = unit.read_bytes()
    for junk in (b"", before[:-3], b"\xff" * 40, before.replace(b"found", b"fount")):
        unit.write_bytes(junk)
        with pytest.raises(CheckpointError, match="--fresh"):
            evaluate(robust_net, images, LINF, **run)  # type: ignore[arg-type]
        assert unit.read_bytes() == junk  # left as it was found
    (folder / "key.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        SavedProgress(folder, KEY)


@pytest.fixture
def model(
    robust_net: nn.Module, standard_net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Arguments of `eval` for the small robust network."""
    monkeypatch.chdir(tmp_path)
    write_factories(tmp_path, robust_net, standard_net)
    return ("./net.py:net", "--dataset", "digits", "--eps", "0.2", "--images", "60")


SHARED = ("--attacks", "pgd-10,apgd-ce", "--batch-size", "15", "--eps-sweep", "0.1", "--json")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def torchrun(count: int, *arguments: str) -> subprocess.Popen[str]:
    """`torchrun … -m deatbench eval …` in a process group of its own."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--master-port", str(free_port())]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "deatbench", "eval", *arguments],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def shared_by(count: int, *arguments: str) -> EvaluationRecord:
    """What `count` processes find together; they are started as torchrun would, without its own seconds."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "deatbench", "eval", *arguments]
    children = [
        subprocess.Popen(
            command,
            env=environment(RANK=str(rank), **common),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0] * count, said
    assert [bool(out) for out, _ in said] == [rank == 0 for rank in range(count)]  # one process speaks
    return EvaluationRecord.model_validate_json(said[0][0])


def assert_same_findings(record: EvaluationRecord, other: EvaluationRecord) -> None:
    assert (record.samples, record.metrics, record.curve) == (other.samples, other.metrics, other.curve)
    assert [part.forward_passes for part in record.attacks] == [part.forward_passes for part in other.attacks]


@pytest.fixture
def alone(model: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> EvaluationRecord:
    """What one process finds."""
    record = EvaluationRecord.model_validate_json(call(capsys, "eval", *model, *SHARED).out)
    assert 0 < record.metrics["apgd-ce"].value < 1
    return record


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shards_reach_the_verdicts_of_one_process(model: tuple[str, ...], alone: EvaluationRecord, count: int) -> None:
    assert_same_findings(shared_by(count, *model, *SHARED, "--out", "shared"), alone)
    assert [path.name for path in Path("shared").iterdir()] == [f"{alone.id}.json"]
    assert not Path("evaluations/.unfinished").exists()


@pytest.mark.slow
def test_torchrun_killed_and_started_again(model: tuple[str, ...], alone: EvaluationRecord) -> None:
    arguments = (*model, *SHARED, "--batch-size", "3", "--out", "shared")
    killed, dice = 0, random.Random(2)
    for _ in range(3):
        team = torchrun(2, *arguments)
        deadline, enough = time.monotonic() + 100, begun() + dice.randrange(3, 9)
        while begun() < enough and team.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):  # torchrun and its children
            os.killpg(team.pid, signal.SIGKILL)
        killed += team.wait() == -signal.SIGKILL
        team.communicate()
        wait_for_lock()
    assert killed >= 2
    team = torchrun(2, *arguments)
    out, err = team.communicate(timeout=240)
    assert team.returncode == 0, err
    assert err.count("continuing an evaluation that was stopped") == 1
    record = EvaluationRecord.model_validate_json(out)
    assert (record.samples, record.metrics, record.curve) == (alone.samples, alone.metrics, alone.curve)
    assert not Path("evaluations/.unfinished").exists()


def begun() -> int:
    folder = Path("evaluations/.unfinished")
    return len(list(folder.glob("*/*.safetensors"))) if folder.exists() else 0


def wait_for_lock() -> None:
    """Until the killed processes are gone for good: torchrun puts its children into sessions of their own."""
    for path in Path("evaluations/.unfinished").glob("*.lock"):
        with FileLock(path, timeout=60):
            pass


def test_a_finished_or_refused_evaluation_leaves_nothing_unfinished(
    model: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("eval", *model, "--attacks", "pgd-2", "--images", "8")
    held = tmp_path / "evaluations" / ".unfinished"
    with locked(held / "another"):
        assert call(capsys, *arguments).code == 0
        assert [path.name for path in held.iterdir()] == ["another.lock"]
    assert not held.exists()
    (record,) = (tmp_path / "evaluations").iterdir()
    with locked(held / record.stem):
        refused = call(capsys, *arguments)
        assert refused.code == 2
        assert "being evaluated by another process" in refused.err
    assert not held.exists()
    assert call(capsys, *arguments).code == 0


def test_a_lock_whose_file_was_removed_holds_nobody_off(tmp_path: Path) -> None:
    """Who waits for a lock may get it on a file that its holder has just removed."""
    folder, path = tmp_path / "state", tmp_path / "state.lock"
    acquire, stale = FileLock.acquire, []

    def beaten_once(lock: FileLock, *args: object, **kwargs: object) -> object:
        done = acquire(lock, *args, **kwargs)  # type: ignore[arg-type]
        if not stale:
            stale.append(lock)
            path.unlink()
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileLock, "acquire", beaten_once)
        with locked(folder):
            assert path.exists()
            with pytest.raises(ConfigError, match="another process"), locked(folder):
                pass
    assert not path.exists()


def test_a_stopped_evaluation_is_provisional_until_it_is_continued(
    model: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deatbench.attacks.fab import FABT

    arguments = ("eval", *model, "--autoattack", "--attacks", "pgd-2", "--n", "8", "--out", tmp_path / "out", "--json")

    def ctrl_c(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FABT, "__call__", ctrl_c)
        stopped = call(capsys, *arguments)
    assert stopped.code == 130
    assert "provisional" in stopped.err
    record = json.loads(stopped.out)
    assert record["metrics"].keys() == {"clean_acc", "pgd-2", "autoattack-provisional", "worst_case_acc"}
    assert "provisional" in [flag["code"] for flag in record["flags"]]
    monkeypatch.setattr("deatbench.attacks.square.Square.queries", 50, raising=False)
    done = call(capsys, *arguments)
    assert done.code == 0
    assert "continuing" in done.err
    record = json.loads(done.out)
    assert record["metrics"].keys() == {"clean_acc", "pgd-2", "autoattack", "worst_case_acc"}
    (path,) = (tmp_path / "out").glob("*.json")
    assert not (tmp_path / "evaluations" / ".unfinished").exists()
    finished = path.read_bytes()
    monkeypatch.setattr(FABT, "__call__", ctrl_c)
    again = call(capsys, *arguments)
    assert (again.code, again.out) == (130, "")
    assert f"{path} stays" in again.err
    assert path.read_bytes() == finished


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--eps", "0"), "must be greater than 0"),
        (("--eps-sweep", "0.1,zero"), "'zero' is not a number"),
        (("--attacks", "transfer"), "--surrogate"),
        (("--surrogate", "zoo:x"), "--attacks transfer"),
        (("--checkpoint", "last"), "is no run"),
    ],
)
def test_bad_input_is_one_line(
    model: tuple[str, ...], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    done = call(capsys, "eval", *model, *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not Path("evaluations").exists()


def test_nan_logits_and_pixels_out_of_range(robust_net: nn.Module, images) -> None:  # type: ignore[no-untyped-def]
    class NaN(nn.Module):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            return robust_net(x_NCHW) * float("nan")

    with pytest.raises(DeatbenchError, match="NaN"):
        evaluate(NaN(), images, LINF, ATTACKS)

    class Shifted:
        labels_N = images.labels_N

        def __len__(self) -> int:
            return len(images)

        def batches(self, index_batches, device):  # type: ignore[no-untyped-def]
            return ((x_NCHW + 1, y_N) for x_NCHW, y_N in images.batches(index_batches, device))

    with pytest.raises(ConfigError, match=r"outside \[0, 1\]"):
        evaluate(robust_net, Shifted(), LINF, ATTACKS)  # type: ignore[arg-type]


def test_a_model_left_in_training_mode_is_judged_in_eval_mode(images) -> None:  # type: ignore[no-untyped-def]
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 10))
    expected = evaluate(net.eval(), images, LINF, [make_attack("pgd-2")])
    net.train()
    assert same(evaluate(net, images, LINF, [make_attack("pgd-2")]), expected)
    assert net.training
