"""A signal ends training within seconds, whatever it is at: the state is saved, the exit code 130, no bit is lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import Child, Nursery, nursery, outcome, run

from deatbench.engine.checkpoint import load_state
from deatbench.engine.interruption import Stopped, interruption
from deatbench.engine.monitor import Monitor
from deatbench.records import TrainingRecord
from deatbench.store import Home, RunFolder, read_record

SECONDS = 10.0  # until a durable checkpoint
SHORT = ("epochs=2", "batch_size=600", "attack.steps=8")  # two batches an epoch

# Where a signal may come, each part at least a minute long: run, settings, and the words that tell that it is there.
LONG = {
    "attack": ("pgd-at", ("attack.steps=20000",), ["attack"]),
    "attack that moves batch norm": ("pgd-at", ("attack.steps=20000", "attack.bn_mode=train"), ["attack"]),
    "replays": ("free", ("method.replays=20000",), ["attack"] * 3),
    "validation": ("fgsm-rs", ("attack.steps=20000", "batch_size=1000"), ["measure"]),
}
# The same in runs that can be waited for.
BRIEF = {
    "attack": ("pgd-at", SHORT, ["attack"] * 2),
    "attack that moves batch norm": ("pgd-at", (*SHORT, "attack.bn_mode=train"), ["attack"] * 2),
    "replays": ("free", SHORT, ["attack"] * 5),
    "validation": ("pgd-at", SHORT, ["measure"]),
    "weights and averages at the end": ("pgd-at", SHORT, ["measure"] * 2 + ["write"] * 4),
}


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[str, ...]], RunFolder]:
    """The finished run, made when first asked for."""
    return cache(lambda name, more: run(tmp_path_factory.mktemp("undisturbed"), name, more=more))


def stop(child: Child, words: list[str], number: signal.Signals, after: float = 0.3) -> float:
    """Send a signal a moment after all the words are said; the seconds that it takes to end."""
    for word in words:
        assert child.until(word), child.stderr
    time.sleep(after)
    started = time.perf_counter()
    child.send(number)
    child.wait()
    return time.perf_counter() - started


def only_folder(home: Path) -> RunFolder:
    (path,) = Home(home).runs.iterdir()
    return RunFolder(path)


@pytest.mark.parametrize(
    ("where", "number"),
    [*((where, signal.SIGTERM) for where in LONG), ("attack", signal.SIGUSR1), ("validation", signal.SIGINT)],
)
def test_a_signal_ends_what_takes_long_at_once(
    where: str, number: signal.Signals, children: Nursery, tmp_path: Path
) -> None:
    name, more, words = LONG[where]
    child = children.start(tmp_path, name, more)
    seconds = stop(child, words, number)
    print(f"{number.name} in {where}: {seconds:.2f} s")
    assert child.exit_code == 130, child.stderr
    assert seconds < SECONDS
    (line,) = [line for line in child.stderr.splitlines() if not line.startswith("note:")]
    assert f"{number.name}: stopped in epoch 1, state saved in {only_folder(tmp_path).path}" in line
    state = load_state(only_folder(tmp_path), torch.device("cpu"), Monitor())
    assert state is not None
    assert (state["epoch"], state["batch"]) == (0, 1 if where == "validation" else 0)
    assert not only_folder(tmp_path).finished


@pytest.mark.parametrize("where", BRIEF)
def test_stopped_anywhere_it_ends_the_same(
    where: str, children: Nursery, undisturbed: Callable[[str, tuple[str, ...]], RunFolder], tmp_path: Path
) -> None:
    name, more, words = BRIEF[where]
    child = children.start(tmp_path, name, more)
    stop(child, words, signal.SIGTERM, after=0.02)
    assert child.exit_code == 130, child.stderr
    folder = run(tmp_path, name, more=more)
    assert outcome(folder) == outcome(undisturbed(name, more))
    assert read_record(folder.training, TrainingRecord).resumed == 1


def test_a_second_signal_does_not_disturb_the_saving(children: Nursery, tmp_path: Path) -> None:
    """Slurm sends SIGTERM to every process of a job, a launcher passes it on: twice is once."""
    name, more, words = LONG["attack"]
    child = children.start(tmp_path, name, more)
    for word in words:
        child.until(word)
    for _ in range(20):
        child.send(signal.SIGTERM)
        time.sleep(0.002)
    assert child.wait() in (130, -signal.SIGTERM)  # the latter if one comes when all is done, as the process leaves
    assert load_state(only_folder(tmp_path), torch.device("cpu"), Monitor()) is not None


def test_workers_leave_signals_to_their_parent() -> None:
    """A terminal sends Ctrl-C to them as well; they go on reading images until they are let go."""
    with interruption() as stop, stop.at_once():
        pid = os.fork()
        if pid == 0:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    assert not stop


def test_only_the_first_signal_leaves_at_once() -> None:
    """Those that follow must not tear the saving apart; a second Ctrl-C may."""
    with interruption() as stop:
        with pytest.raises(Stopped), stop.at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "word"), [("pgd-at", "attack"), ("free", "attack"), ("fgsm-rs", "measure")])
def test_a_network_of_full_size(name: str, word: str, children: Nursery, tmp_path: Path) -> None:
    """ResNet-18 on 32x32 images: PGD-10 on a batch of 96 is 40 s of a core, so are 16 replays and validation."""
    data = make_images(tmp_path / "data", train=140, test=10)
    more = ("arch.width=1", "batch_size=96", "val_fraction=0.3", "attack.steps=10", "augment=none")
    more += ("method.replays=16",) if name == "free" else ()
    child = children.start(tmp_path / "home", name, more, arch="preact_resnet18", data=str(data))
    seconds = stop(child, [word], signal.SIGTERM, after=3.0)
    print(f"SIGTERM in {word} of {name}: {seconds:.2f} s")
    assert child.exit_code == 130, child.stderr
    assert seconds < SECONDS
    assert load_state(only_folder(tmp_path / "home"), torch.device("cpu"), Monitor()) is not None


def make_images(root: Path, **counts: int) -> Path:
    """An image folder of noise in two classes."""
    shutil.rmtree(root, ignore_errors=True)
    noise = torch.Generator().manual_seed(0)
    for split, count in counts.items():
        for index in range(count):
            path = root / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels_HWC = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=noise)
            Image.fromarray(pixels_HWC.numpy()).save(path)
    return root
