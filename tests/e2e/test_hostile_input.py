"""Bad input ends in one clear line and its exit code, and leaves nothing half-written behind."""

from __future__ import annotations

import json
import os
import pty
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, call, environment, files, spawn
from hostile_files import code_runners, saved, zip_bomb

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(channels, 4, 3), torch.nn.Linear(4, classes)
    def forward(self, x):
        return self.linear(self.conv(x).mean((2, 3)))
def grey(): return Net(1, 10)
def colour(): return Net(3, 10)
def seven(): return Net(1, 7)
def twelve(): return Net(1, 12)
def image(): return torch.nn.Identity()
def nan():
    net = Net(1, 10)
    torch.nn.init.constant_(net.linear.bias, float("nan"))
    return net
class InPlace(Net):
    def forward(self, x):
        x *= 2
        return super().forward(x)
def in_place(): return InPlace(1, 10)
class Rounded(Net):
    def forward(self, x):
        return super().forward(x).round().long()
def rounded(): return Rounded(1, 10)
class Late(Net):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise ArithmeticError("not with gradients")
        return super().forward(x)
def late(): return Late(1, 10)
def nowhere(): return Net(1, 10).to("meta")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model of one's own, no data set but digits, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEATBENCH_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DEATBENCH_DATA", raising=False)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """refused(code, words, *arguments): the command ends so, and has written no file."""

    def refused(code: int, words: list[str], *arguments: str | Path) -> str:
        before = files(home)
        done = call(capsys, *arguments)
        assert_refused(done.code, done.out, done.err, code, words)
        assert {file for file in files(home) - before if "__pycache__" not in file.parts} == set()
        return done.err

    return refused


def assert_refused(code: int, out: str, err: str, expected: int, words: list[str]) -> None:
    """The exit code, nothing on stdout, one `error:` line at the end that has all words, no traceback."""
    assert code == expected, err
    assert out == ""
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert err.splitlines()[-1] == errors[0]
    assert "unexpected" not in errors[0]
    for word in words:
        assert word in errors[0]


def shell(
    command: str, stderr: int = subprocess.PIPE, changes: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`deatbench COMMAND` with the redirections of a shell."""
    line = ["sh", "-c", f"{sys.executable} -m deatbench {command}"]
    return subprocess.run(
        line,
        env=environment(**(changes or {})),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=120,
        check=False,
    )


RUN = ("run", "--arch", "resnet8", "--method", "pgd-at", "--dataset", "digits", "--epochs", "1")
FULL = "error: cannot write the output: No space left on device (send stdout elsewhere)\n"
EVAL = ("eval", "./net.py:grey", "--dataset", "digits", "--eps", "0.1", "--n", "4", "--attacks", "pgd-2")


@pytest.mark.parametrize(
    ("code", "words", "changes"),
    [
        (2, ["resnet80", "did you mean resnet8"], ("--arch", "resnet80")),
        (2, ["timm model", "'resnt18'", "resnet18"], ("--arch", "timm/resnt18")),
        (2, ["pgd-att", "did you mean pgd-at"], ("--method", "pgd-att")),
        (2, ["digit", "did you mean digits"], ("--dataset", "digit")),
        (2, ["recipe", "papr", "paper"], ("--recipe", "papr")),
        (4, ["none.yaml"], ("--recipe", "none.yaml")),
        (2, ["pgd-0", "at least 1"], ("--set", "evaluation.attacks=[pgd-0]")),
        (2, ["apgd-cee", "did you mean"], ("--set", "evaluation.attacks=[apgd-cee]")),
        (2, ["optimizr", "did you mean optimizer"], ("--set", "optimizr.lr=1")),
        (2, ["not key=value"], ("--set", "epochs")),
        (2, ["width"], ("--set", "arch.width=wide")),
        (2, ["width"], ("--set", "arch.width=-1")),
        (2, ["wdth", "did you mean width"], ("--set", "arch.wdth=1")),
        (2, ["8/0"], ("--set", "threat.eps=8/0")),
        (2, ["eps", "abc"], ("--set", "threat.eps=abc")),
        (2, ["greater than 0"], ("--set", "threat.eps=-0.1")),
        (2, ["steps"], ("--set", "attack.steps=0")),
        (2, ["epochs"], ("--epochs", "0")),
        (2, ["seed"], ("--seed", "0,x")),
        (2, ["seed"], ("--seed", "99999999999")),
        (2, ["L3"], ("--set", "threat.norm=L3")),
        (2, ["exclude each other"], ("--resume", "--fresh")),
        (2, ["device", "gpu"], ("--device", "gpu")),
        (2, ["--threads 99999", "cores"], ("--threads", "99999")),
        (2, ["eps '8'", "did you mean 8/255"], ("--set", "threat.eps=8")),
        (4, ["no folder nowhere"], ("--data-dir", "nowhere")),
        (4, ["cifar10", "cache", "--dataset digits"], ("--dataset", "cifar10")),
    ],
)  # fmt: skip
def test_run_refuses(code: int, words: list[str], changes: tuple[str, ...], refused) -> None:  # type: ignore[no-untyped-def]
    refused(code, words, *RUN, *changes)
    refused(code, words, *RUN, *changes, "--dry-run")


@pytest.mark.parametrize(
    ("code", "words", "changes"),
    [
        (2, ["pdg-20", "did you mean"], ("--attacks", "pdg-20")),
        (2, ["pgd-0", "at least 1"], ("--attacks", "pgd-0")),
        (2, ["cw--3"], ("--attacks", "fgsm,cw--3")),
        (2, ["pgd-1.5", "whole number"], ("--attacks", "pgd-1.5")),
        (2, ["pgd-99999999999", "whole number"], ("--attacks", "pgd-99999999999")),
        (2, ["names no attack"], ("--attacks", ",")),
        (2, ["8/0"], ("--eps", "8/0")),
        (2, ["abc"], ("--eps", "abc")),
        (2, ["-8/255", "greater than 0"], ("--eps", "-8/255")),
        (2, ["nan"], ("--eps", "nan")),
        (2, ["eps"], ("--eps", "0")),
        (2, ["eps '8'", "did you mean 8/255"], ("--eps", "8")),
        (2, ["eps '4'", "did you mean 4/255"], ("--eps-sweep", "2/255,4")),
        (2, ["--arch vgg16", "net.py:grey is a Net", "leave out --arch"], ("--arch", "vgg16")),
        (2, ["digitz", "did you mean digits"], ("--dataset", "digitz")),
        (4, ["mnist", "DEATBENCH_OFFLINE", "--dataset digits"], ("--dataset", "mnist")),
        (2, ["--set"], ("--set", "arch.width=1")),
        (2, ["vgg17", "did you mean"], ("--arch", "vgg17")),
        (2, ["wdth", "did you mean width"], ("--arch", "vgg16", "--set", "arch.wdth=1")),
    ],
)  # fmt: skip
def test_eval_refuses(code: int, words: list[str], changes: tuple[str, ...], refused) -> None:  # type: ignore[no-untyped-def]
    refused(code, words, *EVAL, *changes)


@pytest.mark.parametrize(
    ("factory", "code", "words"),
    [
        ("colour", 2, ["images of shape (1, 8, 8)", "--dataset"]),
        ("seven", 2, ["7 classes"]),
        ("twelve", 2, ["12 classes", "10"]),
        ("image", 2, ["logits"]),
        ("nan", 1, ["NaN"]),
        ("gray", 4, ["did you mean grey"]),
        ("in_place", 2, ["net.py:20: RuntimeError", "in-place"]),
        ("rounded", 2, ["torch.int64", "logits"]),
        ("late", 2, ["net.py:30", "ArithmeticError: not with gradients"]),
        ("nowhere", 2, ["net.py:nowhere", "NotImplementedError", "meta"]),
    ],
)
def test_models_that_do_not_fit(factory: str, code: int, words: list[str], refused) -> None:  # type: ignore[no-untyped-def]
    refused(code, words, "eval", f"./net.py:{factory}", *EVAL[2:])


def test_a_faulty_switch_of_the_step(refused, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("DEATBENCH_STEP", "compile=perhaps")
    refused(2, ["DEATBENCH_STEP", "compile=perhaps", "known"], *RUN)


def test_another_network_in_the_same_file_is_another_evaluation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights are the same, so that nothing else would tell the verdicts of the one from the other's."""
    (home / "net.py").write_text(f"torch = __import__('torch')\ntorch.manual_seed(0)\n{NET}")
    assert call(capsys, *EVAL).code == 0
    (home / "net.py").write_text((home / "net.py").read_text().replace("mean((2, 3))", "amax((2, 3))"))
    assert call(capsys, *EVAL).code == 0
    records = [json.loads(path.read_text()) for path in (home / "evaluations").glob("*.json")]
    assert len({record["id"] for record in records}) == len(records) == 2
    assert len({record["model"]["sha256"] for record in records}) == 1


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("ls archs >&-", 0, ""),
        ("ls archs > /dev/full", 1, FULL),
        ("--help > /dev/full", 1, FULL),
        ("nonsense 2> /dev/full", 2, ""),
    ],
)
def test_an_output_that_takes_nothing(command: str, code: int, said: str, home: Path) -> None:
    done = shell(command)
    assert (done.returncode, done.stderr) == (code, said)


def test_an_unbuffered_output_that_takes_nothing(home: Path) -> None:
    done = shell("ls archs > /dev/full", changes={"PYTHONUNBUFFERED": "1"})
    assert (done.returncode, done.stderr) == (1, FULL)


@pytest.mark.parametrize("stderr", ["2>&-", "2> /dev/full", ""])
def test_an_evaluation_goes_on_without_its_progress(stderr: str, home: Path) -> None:
    """Its stderr is closed, is full, is a pipe that nobody reads: the record is made, and the result said."""
    reader, pipe = os.pipe()
    os.close(reader)
    try:
        done = shell(f"{shlex.join(EVAL)} --threads 1 {stderr}", stderr=pipe)
    finally:
        os.close(pipe)
    assert done.returncode == 0
    assert "net-grey" in done.stdout
    assert len(list((home / "evaluations").glob("*.json"))) == 1


def test_a_bar_on_a_terminal_that_is_gone(home: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "deatbench", *EVAL, "--threads", "1"]
    with subprocess.Popen(command, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs) as evaluating:
        os.close(theirs)
        assert os.read(ours, 1)
        os.close(ours)
        out, _ = evaluating.communicate(timeout=120)
    assert (evaluating.returncode, b"net-grey" in out) == (0, True)


def test_foreign_models_need_a_dataset_and_an_eps(refused) -> None:  # type: ignore[no-untyped-def]
    refused(2, ["net.py:grey", "--dataset"], "eval", "./net.py:grey", "--eps", "0.1")
    refused(2, ["net.py:grey", "--eps 8/255"], "eval", "./net.py:grey", "--dataset", "digits")
    refused(4, ["no finished run", "deatbench run"], "eval")
    refused(2, ["--arch needs --dataset"], "eval", "net.pt", "--arch", "vgg16")


def test_weight_files_of_strangers(home: Path, refused) -> None:  # type: ignore[no-untyped-def]
    proof = home / "proof"
    where = ("--arch", "resnet8", "--dataset", "digits", "--eps", "0.1", "--n", "4")
    plain = saved({"w": torch.zeros(100)})
    cases = {**code_runners(proof), "truncated": plain[:300], "bomb": zip_bomb(), "other": plain, "empty": b""}
    for name, data in cases.items():
        file = home / f"{name.replace(' ', '-')}.pt"
        file.write_bytes(data)
        refused(4, [file.name], "eval", file, *where)
    assert not proof.exists()
    (home / "cut.safetensors").write_bytes(b"\x10" + bytes(7) + b"{}")
    refused(4, ["cut.safetensors"], "eval", "cut.safetensors", *where)


def test_recipes_of_strangers(home: Path, refused) -> None:  # type: ignore[no-untyped-def]
    recipes = {
        "unknown": ("epochz: 3", ["epochz", "did you mean epochs"]),
        "nested": ("optimizer: {name: sgd, lrr: 3}", ["lrr", "did you mean lr"]),
        "type": ("batch_size: many", ["batch_size", "many"]),
        "list": ("- 1", ["not a mapping"]),
        "broken": ("epochs: [", ["not valid YAML"]),
        "alias": ("a: &a [1]\nb: *a", ["aliases"]),
        "code": ("epochs: !!python/object/apply:os.system ['touch proof']", ["not valid YAML"]),
        "deep": ("[" * 5000, ["nested more than"]),
    }
    for name, (text, words) in recipes.items():
        (home / f"{name}.yaml").write_text(text)
        refused(2, words, "train", *RUN[1:], "--recipe", f"{name}.yaml")
    assert not (home / "proof").exists()


def test_a_truncated_data_file(home: Path, refused) -> None:  # type: ignore[no-untyped-def]
    folder = home / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (folder / name).write_bytes(bytes(3073 * 3 - 1))
    place = ("--dataset", "cifar10", "--data-dir", home / "data")
    refused(4, ["data_batch_1.bin", "damaged"], *RUN, *place)
    refused(4, ["data_batch_1.bin", "damaged"], *EVAL, *place)
    assert not (home / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda(refused) -> None:  # type: ignore[no-untyped-def]
    refused(2, ["no CUDA device", "--device cpu"], *RUN, "--device", "cuda")
    refused(2, ["no CUDA device", "--device cpu"], *EVAL, "--device", "cuda")


def test_output_folders_that_cannot_be_written(home: Path, refused) -> None:  # type: ignore[no-untyped-def]
    (home / "file").write_text("in the way")
    for command in ((*RUN, "--out", "file"), ("--home", "file/below", *RUN), (*EVAL, "--out", "file")):
        refused(1, ["file", "not a folder", "choose another place"], *command)
    refused(4, ["no folder file"], "leaderboard", "build", "--home", "file")
    (home / "full").mkdir()
    (home / "full" / "leaderboards").write_text("in the way")
    refused(1, ["cannot write", "leaderboards"], "leaderboard", "build", "--home", "full")
    closed = home / "closed"
    closed.mkdir(mode=0o555)
    if os.access(closed, os.W_OK):
        return  # the superuser may write anywhere
    refused(1, ["no permission"], *RUN, "--out", "closed")


def test_two_runs_on_one_folder(home: Path, refused, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    plan = call(capsys, "train", *TINY, "--json")
    folder = home / "runs" / json.loads(plan.out)[0]["id"]
    hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        refused(2, ["in use by another run"], "train", *TINY, "--fresh")
    finally:
        holder.communicate(b"\n")
    assert call(capsys, "train", *TINY, "--fresh").code == 0


def test_a_full_disk_leaves_the_run_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may grow beyond 20,000 bytes, as on a disk that is full: config.yaml fits, weights do not."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = spawn(["train", *TINY], home, preexec_fn=no_room)
    assert_refused(done.returncode, done.stdout, done.stderr, 1, ["cannot write", "free space"])
    left = {file.name for file in files(home / "runs")}
    assert left == {"config.yaml"}
    assert call(capsys, "train", *TINY).code == 0
    assert {"best.safetensors", "last.safetensors", "training.json"} <= {file.name for file in files(home / "runs")}
