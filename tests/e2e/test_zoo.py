"""`load_model` and `deatbench zoo`: what is kept is what its card says, and what is not is named with exit code 3."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import TINY, call, environment, files
from hostile_files import Payload
from small_nets import write_factories

import deatbench
from deatbench.cli.main import main
from deatbench.errors import CheckpointError, ConfigError, MissingError
from deatbench.models import ModelRequest
from deatbench.models import load_model as load
from deatbench.store import Home


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one finished run and its zoo entry."""
    home = tmp_path_factory.mktemp("made")
    assert main(["run", *TINY, "--home", str(home), "--json"]) == 0
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, and the current one."""
    copy = tmp_path / "home"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def entry(home: Path) -> Path:
    (card,) = home.glob("model_zoo/*/*/*/card.json")
    return card.parent


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# load_model


def test_load_model_gives_the_network_that_eval_attacks(home: Path, entry: Path) -> None:
    run, x_NCHW = home / "runs" / entry.name, torch.rand(3, 1, 8, 8)
    expected = load(ModelRequest(f"zoo:{entry.name}", Home(home), torch.device("cpu"))).module(x_NCHW)
    for name in (f"zoo:{entry.name}", entry.name, str(run), str(run / "best.safetensors")):
        model = deatbench.load_model(name, home=home)
        assert not any(module.training for module in model.modules())
        logits_NK = model(x_NCHW)
        assert logits_NK.shape == (3, 10)
        assert torch.equal(logits_NK, expected)
    last = deatbench.load_model(entry.name, home=str(home), checkpoint="last", device=torch.device("cpu"))
    assert isinstance(last, torch.nn.Module)
    with pytest.raises(MissingError, match="keeps the best weights"):
        deatbench.load_model(f"zoo:{entry.name}", checkpoint="last")
    with pytest.raises(ConfigError, match="unknown device"):
        deatbench.load_model(f"zoo:{entry.name}", device="abacus")


def test_load_model_takes_a_factory(robust_net: torch.nn.Module, tmp_path: Path) -> None:
    write_factories(tmp_path, robust_net, robust_net)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert deatbench.load_model("./net.py:net")(torch.rand(1, 1, 8, 8)).shape == (1, 10)


def test_in_a_fresh_interpreter_torch_comes_with_the_first_model(home: Path, entry: Path) -> None:
    program = (
        "import sys\n"
        "from deatbench import load_model\n"
        "assert not {'torch', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        f"model = load_model('zoo:{entry.name}')\n"
        "import torch\n"
        "print(tuple(model(torch.zeros(2, 1, 8, 8)).shape), model.training)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=home, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(2, 10) False", done.stderr


# ls and show


def test_ls_shows_accuracies_and_filters(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = call(capsys, "zoo", "ls")
    assert listed.code == 0, listed.err
    columns, row = listed.out.splitlines()
    assert columns.split("  ")[0] == "id"
    assert "worst case" in columns
    assert "autoattack" in columns
    assert entry.name in row
    for options, found in ((("--method", "pgd-at"), 1), (("--arch", "vgg16"), 0), (("--dataset", "digits"), 1)):
        assert len(json.loads(call(capsys, "zoo", "ls", *options, "--json").out)) == found
    (document,) = json.loads(call(capsys, "zoo", "ls", "--json").out)
    assert document["metrics"].keys() == {"clean_acc", "pgd-2", "worst_case_acc"}
    assert document == json.loads(call(capsys, "zoo", "show", f"zoo:{entry.name}", "--json").out)
    assert f'load_model("zoo:{entry.name}")' in call(capsys, "zoo", "show", entry.name).out
    (entry / "model.safetensors").unlink()
    assert "not here" in call(capsys, "zoo", "ls").out


def test_ls_puts_the_most_robust_first(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = entry.with_name("a-first-by-name")
    shutil.copytree(entry, bare)
    rewrite(bare / "card.json", lambda card: card.update(id=bare.name))
    shutil.rmtree(bare / "evaluations")
    ids = [card["id"] for card in json.loads(call(capsys, "zoo", "ls", "--json").out)]
    assert ids == [entry.name, bare.name]


# verify


def test_an_honest_zoo_passes(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(home)
    done = call(capsys, "zoo", "verify", "--json")
    assert done.code == 0, done.err
    (model,) = json.loads(done.out)["models"]
    assert model["id"] == entry.name
    assert [(c["name"], c["status"]) for c in model["checks"]] == [
        ("card", "PASS"), ("weights", "PASS"), ("evaluations", "PASS"), ("diagnostics", "PASS"),
    ]  # fmt: skip
    assert call(capsys, "zoo", "verify", f"zoo:{entry.name}").code == 0
    assert call(capsys, "zoo", "verify", "nobody").code == 4
    assert files(home) == before


def test_weights_that_are_not_kept_are_no_failure(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry / "model.safetensors").unlink()
    assert call(capsys, "zoo", "verify").out.count("PASS") == 1  # those of the run are the same
    shutil.rmtree(home / "runs")
    done = call(capsys, "zoo", "verify")
    assert done.code == 0, done.err
    assert "NOT PROVEN" in done.out
    assert "not kept here" in done.out


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def failed(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `zoo verify` ends at exit code 3."""
    done = call(capsys, "zoo", "verify")
    assert done.code == 3, done.err
    (line,) = done.err.splitlines()
    assert "FAIL" in done.out
    return line


def test_a_flipped_bit_of_the_weights(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(entry / "model.safetensors")
    line = failed(capsys)
    assert f"{entry.name}: weights: " in line
    assert "SHA-256 differs" in line
    with pytest.raises(CheckpointError, match="SHA-256"):
        deatbench.load_model(f"zoo:{entry.name}")


@pytest.mark.parametrize("file", ["../../../../secret.safetensors", "/etc/passwd", "..", "a\\..\\b", ".hidden"])
def test_a_weight_file_elsewhere(file: str, home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(entry / "model.safetensors", home / "secret.safetensors")
    rewrite(entry / "card.json", lambda card: card.update(weights_file=file))
    assert "not a plain name" in failed(capsys)
    with pytest.raises(ConfigError, match="not a plain name"):
        deatbench.load_model(f"zoo:{entry.name}")


def test_pickled_weights_run_no_code(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where the card names their SHA-256."""
    proof, data = home / "proof", pickle.dumps(Payload(home / "proof"))
    (entry / "model.pt").write_bytes(data)

    def change(card: dict[str, Any]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        card.update(weights_file="model.pt", weights_sha256=digest, weights_bytes=len(data))
        card["training"]["weights"]["best"] = digest

    rewrite(entry / "card.json", change)
    assert "not a whole safetensors file" in failed(capsys)
    with pytest.raises(CheckpointError):
        deatbench.load_model(f"zoo:{entry.name}")
    assert not proof.exists()


def on_card(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda entry: rewrite(entry / "card.json", change)


def on_evaluation(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda entry: rewrite(next((entry / "evaluations").glob("*-best-*.json")), change)


LIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another width": (on_card(lambda card: card["model"]["params"].update(width=0.5)), "different models"),
    "another place": (on_card(lambda card: card.update(dataset="cifar10")), "belongs to cifar10/"),
    "another recipe": (on_card(lambda card: card["training"]["config"].update(epochs=200)), "not the one of its name"),
    "a recipe that is none": (on_card(lambda card: card["training"]["config"].update(epochs=-1)), "does not load"),
    "fewer parameters": (on_card(lambda card: card["training"].update(n_params=7)), "number of parameters"),
    "another size": (on_card(lambda card: card.update(weights_bytes=7)), "on the card 7"),
    "an unknown key": (on_card(lambda card: card.update(extra=1)), "card: card.json: extra"),
    "no card at all": (lambda entry: (entry / "card.json").write_text("{"), "not valid JSON"),
    "other weights": (on_evaluation(lambda r: r["model"].update(sha256="0" * 64)), "speaks of other weights"),
    "other metrics": (on_evaluation(lambda r: r["metrics"]["pgd-2"].update(value=0.99)), "do not follow"),
    "another run": (on_evaluation(lambda r: r["training"].update(run_id="x")), "is of another run"),
    "another training": (on_evaluation(lambda r: r["training"]["config"].update(epochs=9)), "made by another recipe"),
    "other diagnostics": (
        lambda entry: rewrite(entry / "diagnostics.json", lambda d: d["model"].update(sha256="0" * 64)),
        "of other weights",
    ),
    "another id": (on_evaluation(lambda r: r.update(id="x")), "lies in "),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(lie: str, home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell, words = LIES[lie]
    tell(entry)
    line = failed(capsys)
    assert words in line
    assert str(home) not in line


def test_one_bad_entry_hides_no_other(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(entry, entry.with_name("copy"))
    flip(entry / "model.safetensors")
    done = call(capsys, "zoo", "verify")
    assert done.code == 3
    assert done.out.count("FAIL") == 2
    assert "1 more of 2 entries" in done.err


def test_archives_are_checked(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "eval", f"zoo:{entry.name}", "--attacks", "fgsm", "--n", "20", "--save-adversarials").code == 0
    (archive,) = (entry / "evaluations").glob("*.adv")
    done = call(capsys, "zoo", "verify", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["models"][0]["checks"][-1]["status"] == "PASS"
    whole = archive.read_bytes()
    flip(archive)
    assert "archives: not the ones on record" in failed(capsys)
    archive.unlink()
    assert "NOT PROVEN" in call(capsys, "zoo", "verify").out
    archive.write_bytes(whole)
    assert call(capsys, "zoo", "verify").out.count("PASS") == 1


# add


def test_add_enters_what_train_and_eval_made(
    home: Path, entry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.relative_to(entry): path.read_bytes() for path in files(entry)}
    before = {name: data for name, data in before.items() if name.name not in ("README.md", "diagnostics.json")}
    shutil.rmtree(home / "model_zoo")
    run = home / "runs" / entry.name
    assert call(capsys, "eval", run, "--attacks", "fgsm", "--n", "20", "--save-adversarials").code == 0
    other = tmp_path / "other"
    for text, at in ((entry.name, ()), (str(run), ("--home", other))):
        done = call(capsys, "zoo", "add", text, *at)
        assert done.code == 0, done.err
        made = (other if at else home) / entry.relative_to(home)
        assert done.out.strip() == str(made if at else entry.relative_to(home))
        assert f"next: deatbench diagnose zoo:{entry.name}" in done.err
        assert "deatbench leaderboard build" in done.err
        kept = {path.relative_to(made): path.read_bytes() for path in files(made)}
        assert {name: kept.get(name) for name in before} == before
        assert len(list(made.glob("evaluations/*.adv"))) == 1
        assert call(capsys, "zoo", "verify", *at).code == 0


def test_add_keeps_what_the_entry_had(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "eval", f"zoo:{entry.name}", "--attacks", "fgsm", "--n", "20").code == 0
    before = files(entry)
    for path in (home / "runs" / entry.name / "evaluations").glob("*.json"):
        path.unlink()
    assert call(capsys, "zoo", "add", entry.name).code == 0
    assert files(entry) == before


def test_add_without_evaluations_says_what_is_next(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(home / "model_zoo")
    shutil.rmtree(home / "runs" / entry.name / "evaluations")
    done = call(capsys, "zoo", "add", entry.name)
    assert done.code == 0, done.err
    assert f"next: deatbench eval zoo:{entry.name} --autoattack · " in done.err
    assert "deatbench leaderboard build" in done.err


def test_add_refuses_what_is_no_run(home: Path, entry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = home / "runs" / entry.name
    for text, code, words in (
        ("./net.py:net", 2, "deatbench eval ./net.py:net"),
        (run / "best.safetensors", 2, "deatbench eval"),
        ("nobody", 4, "no run 'nobody'"),
        (home, 4, "no finished run"),
    ):
        done = call(capsys, "zoo", "add", text)
        assert done.code == code
        assert words in done.err
    flip(run / "best.safetensors")
    assert call(capsys, "zoo", "add", entry.name).code == 4
