"""MODEL arguments: every kind of source, its errors, and files from strangers."""

from __future__ import annotations

import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile_files import code_runners, lying_storage, rewritten, saved, zip_bomb
from torch import nn

from deatbench.archs.build import build_arch
from deatbench.cli.main import main
from deatbench.engine.checkpoint import save_weights, weights_sha256
from deatbench.errors import CheckpointError, ConfigError, DeatbenchError, MissingError, UnknownNameError
from deatbench.models import LoadedModel, ModelRequest, load_model, robustbench_zoo
from deatbench.models.loaded import identifier
from deatbench.models.torch_file import read_torch_file
from deatbench.records import Checkpoint, ModelSpec
from deatbench.store import Home

SPEC = ModelSpec(
    arch="resnet8", params={"width": 0.25}, num_classes=10, in_channels=1, image_size=8, mean=(0.3,), std=(0.4,)
)
CPU = torch.device("cpu")
Load = Callable[..., LoadedModel]


def network(spec: ModelSpec = SPEC, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params).eval()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """load_model with tmp_path as current and working folder."""
    monkeypatch.chdir(tmp_path)

    def load(text: str | Path, spec: ModelSpec | None = None, checkpoint: Checkpoint = "best") -> LoadedModel:
        model = load_model(ModelRequest(str(text), Home(tmp_path), CPU, checkpoint, spec))
        assert not model.module.training
        return model

    return load


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one finished run of two epochs and its zoo entry."""
    home = tmp_path_factory.mktemp("trained")
    settings = ("evaluation.attacks=[fgsm]", "evaluation.last_attacks=[fgsm]", "evaluation.n=20", "batch_size=128")
    arguments = ["--arch", "resnet8", "--method", "standard", "--dataset", "digits", "--set", "arch.width=0.25"]
    changes = [part for setting in settings for part in ("--set", setting)]
    assert main(["run", *arguments, *changes, "--epochs", "2", "--out", str(home)]) == 0
    return home


@pytest.fixture
def run_id(trained: Path, tmp_path: Path, load: Load) -> str:
    """The run of `trained`, copied into tmp_path."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return next((tmp_path / "runs").iterdir()).name


def fails(load: Load, kind: type[DeatbenchError], *words: str, text: str | Path, **options: object) -> None:
    """Loading raises `kind` in one line that has all `words`."""
    with pytest.raises(kind) as caught:
        load(text, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# Runs and the zoo


def test_a_run_by_folder_id_file_and_zoo_is_one_model(load: Load, run_id: str, tmp_path: Path) -> None:
    texts = [f"runs/{run_id}", run_id, tmp_path / "runs" / run_id / "best.safetensors", f"zoo:{run_id}"]
    models = [load(text) for text in texts]
    assert len({weights_sha256(model.module) for model in models}) == 1
    for model in models:
        assert (model.name, model.dataset) == (run_id, "digits")
        assert model.threat is not None
        assert model.threat.slug == "Linf-0.2"
        assert model.training is not None
        assert (model.training.checkpoint, model.training.epochs) == ("best", 2)
        assert str(tmp_path) not in model.source
    assert load(run_id, checkpoint="last").training.checkpoint == "last"  # type: ignore[union-attr]


def test_a_bare_zoo_id_works_once_the_run_is_gone(load: Load, run_id: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "runs")
    assert load(run_id).source == f"zoo:{run_id}"


def test_two_readings_are_both_named(load: Load, run_id: str, tmp_path: Path) -> None:
    (tmp_path / run_id).mkdir()
    fails(load, ConfigError, f"the folder ./{run_id}", f"runs/{run_id}", text=run_id)
    shutil.rmtree(tmp_path / "runs")
    fails(load, ConfigError, f"the folder {run_id}", f"zoo:{run_id}", text=run_id)
    (tmp_path / "zoo:thing").mkdir()
    fails(load, ConfigError, "the folder zoo:thing", "and as zoo:thing", text="zoo:thing")


def test_changed_weights_are_refused(load: Load, run_id: str, tmp_path: Path) -> None:
    for weights in (*tmp_path.glob("runs/*/best.safetensors"), *tmp_path.glob("model_zoo/*/*/*/model.safetensors")):
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    fails(load, CheckpointError, "SHA-256", text=run_id)
    fails(load, CheckpointError, "SHA-256", text=f"zoo:{run_id}")


def test_a_large_zoo_model_is_read_from_its_run(load: Load, run_id: str, tmp_path: Path) -> None:
    (card,) = tmp_path.glob("model_zoo/*/*/*/card.json")
    card.write_text(card.read_text().replace('"weights_file": "model.safetensors"', '"weights_file": null'))
    assert load(f"zoo:{run_id}").source == f"zoo:{run_id}"
    shutil.rmtree(tmp_path / "runs")
    fails(load, MissingError, "not kept in the zoo", "deatbench run", text=f"zoo:{run_id}")


@pytest.mark.parametrize(
    "text", ["zoo:nothing", "zoo:../../etc", "zoo:", "nothing", "", "runs/none", "none.pt", "x.safetensors"]
)
def test_what_is_not_there(text: str, load: Load) -> None:
    with pytest.raises(DeatbenchError) as caught:
        load(text)
    assert caught.value.exit_code in (2, 4)


def test_near_ids_are_offered(load: Load, run_id: str) -> None:
    fails(load, MissingError, "did you mean", run_id, text=run_id[:-1] + "7")


def test_an_unfinished_run_says_so(load: Load, run_id: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / run_id / "training.json").unlink()
    fails(load, MissingError, "not finished", text=f"runs/{run_id}")
    assert load(f"runs/{run_id}/best.safetensors").training is None


# Weight files


def test_our_own_file_needs_nothing_else(load: Load, tmp_path: Path) -> None:
    net = network()
    save_weights(tmp_path / "net.safetensors", net, SPEC)
    model = load("net.safetensors")
    assert weights_sha256(model.module) == weights_sha256(net)
    assert (model.arch, model.params, model.source) == ("resnet8", {"width": 0.25}, "net.safetensors")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_state_dicts(load: Load, tmp_path: Path, wrapper: str | None, prefix: str, legacy: bool) -> None:
    net = network(seed=3)
    foreign = {
        prefix + key.removeprefix("net."): value
        for key, value in net.state_dict().items()
        if key.startswith("net.") and not key.endswith("num_batches_tracked")
    }
    content = {wrapper: foreign, "epoch": 3} if wrapper else foreign
    (tmp_path / "net.pt").write_bytes(saved(content, legacy=legacy))
    x_NCHW = torch.rand(4, 1, 8, 8)
    assert torch.equal(load("net.pt", spec=SPEC).module(x_NCHW), net(x_NCHW))


def test_weights_without_an_architecture(load: Load, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(saved(network().state_dict()))
    fails(load, ConfigError, "net.pt", "--arch", text="net.pt")
    wide = SPEC.model_copy(update={"params": {"width": 0.5}})
    fails(load, CheckpointError, "net.pt", "shape", text="net.pt", spec=wide)
    other = SPEC.model_copy(update={"arch": "resnet20"})
    fails(load, CheckpointError, "net.pt", "missing", text="net.pt", spec=other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(load: Load, tmp_path: Path, value: float) -> None:
    net = network()
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = value
    save_weights(tmp_path / "net.safetensors", net, SPEC)
    (tmp_path / "net.pt").write_bytes(saved(net.state_dict()))
    fails(load, CheckpointError, "NaN or infinite", text="net.safetensors")
    fails(load, CheckpointError, "NaN or infinite", text="net.pt", spec=SPEC)


def test_no_file_of_a_stranger_runs_code(load: Load, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for name, data in code_runners(proof).items():
        (tmp_path / "evil.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"evil\.pt"):
            load("evil.pt", spec=SPEC)
        assert not proof.exists(), name


def test_a_refusal_names_what_was_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(code_runners(tmp_path / "proof")["zip"])
    fails(load, CheckpointError, "exec", "refused", text="evil.pt", spec=SPEC)
    (tmp_path / "whole.pt").write_bytes(saved(nn.Linear(2, 2)))
    fails(load, CheckpointError, "torch.nn.modules.linear.Linear", "state_dict", text="whole.pt", spec=SPEC)


def test_no_refusal_advises_to_run_the_code(load: Load, tmp_path: Path) -> None:
    """As torch does of pickles that are no files of its own."""
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"weight": [1.0]}))
    (tmp_path / "text.pt").write_text("# a readme\n")
    for name in ("pickle.pt", "text.pt"):
        with pytest.raises(CheckpointError) as refusal:
            load(name, spec=SPEC)
        assert "weights_only" not in str(refusal.value)
        assert name in str(refusal.value)


def test_torchscript_is_a_program(load: Load, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    fails(load, CheckpointError, "TorchScript", text="script.pt", spec=SPEC)


def test_archives_that_unpack_to_more_than_they_are(load: Load, tmp_path: Path) -> None:
    bomb = zip_bomb()
    assert len(bomb) < 2**18
    (tmp_path / "bomb.pt").write_bytes(bomb)
    fails(load, CheckpointError, "compressed", text="bomb.pt", spec=SPEC)
    (tmp_path / "liar.pt").write_bytes(lying_storage())
    fails(load, CheckpointError, "liar.pt", text="liar.pt", spec=SPEC)


def test_damage_at_every_length(tmp_path: Path) -> None:
    """Whatever is cut off: one line, never another exception. A bit in a tensor cannot be seen, in its frame can."""
    for data in (saved({"w": torch.arange(40.0)}), saved({"w": torch.arange(40.0)}, legacy=True)):
        for length in (0, 1, 2, 8, 60, 100, len(data) // 2, len(data) - 30, len(data) - 1):
            (tmp_path / "cut.pt").write_bytes(data[:length])
            with pytest.raises(CheckpointError) as caught:
                read_torch_file(tmp_path / "cut.pt")
            assert "\n" not in str(caught.value)
    for noise in (b"hello, world", b"\x80\x02junk", b"PK\x03\x04" + bytes(200), bytes(4096)):
        (tmp_path / "noise.pt").write_bytes(noise)
        with pytest.raises(CheckpointError):
            read_torch_file(tmp_path / "noise.pt")


@pytest.mark.parametrize(
    "content", [{}, [1, 2], 3, "text", {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3), {"state_dict": {}}]
)
def test_what_is_no_state_dict(content: object, tmp_path: Path) -> None:
    (tmp_path / "odd.pt").write_bytes(saved(content))
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_torch_file(tmp_path / "odd.pt")


def test_what_is_no_plain_tensor(tmp_path: Path) -> None:
    (tmp_path / "odd.pt").write_bytes(saved({"w": torch.eye(3).to_sparse()}))
    with pytest.raises(CheckpointError, match="no plain tensor"):
        read_torch_file(tmp_path / "odd.pt")


def test_a_truncated_safetensors(load: Load, tmp_path: Path) -> None:
    save_weights(tmp_path / "net.safetensors", network(), SPEC)
    data = (tmp_path / "net.safetensors").read_bytes()
    for length in (0, 4, 100, len(data) - 1):
        (tmp_path / "net.safetensors").write_bytes(data[:length])
        fails(load, CheckpointError, "net.safetensors", text="net.safetensors")


def test_repacking_without_compression_is_fine(tmp_path: Path) -> None:
    (tmp_path / "again.pt").write_bytes(rewritten(saved({"w": torch.arange(4.0)})))
    assert torch.equal(read_torch_file(tmp_path / "again.pt")["w"], torch.arange(4.0))


# Factories


def test_a_factory_in_a_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("size = 64\n")
    (tmp_path / "my.py").write_text("import torch, parts\ndef net(): return torch.nn.Linear(parts.size, 10)\n")
    model = load("./my.py:net")
    assert (model.name, model.arch, model.source) == ("my-net", "Linear", "my.py:net")
    assert load(tmp_path / "my.py:net").source == "my.py:net"
    assert str(tmp_path) not in sys.path


def test_the_code_of_a_factory_is_known_by_its_files(load: Load, tmp_path: Path) -> None:
    """Its own, and what it imports from beside; a file that it does not use is nobody's business."""
    codes = []
    for size, name, other in ((64, "net", 1), (64, "net", 2), (640, "net", 2), (640, "nett", 2)):
        (tmp_path / "sizes.py").write_text(f"size = {size}\n")
        (tmp_path / "unused.py").write_text(f"x = {other}\n")
        source = f"import torch, sizes\ndef net(): return torch.nn.Linear(sizes.size, 10)\n{name} = net\n"
        (tmp_path / "coded.py").write_text(source)
        sys.modules.pop("sizes", None)
        codes.append(load("./coded.py:net").code_sha256)
    assert codes[0] == codes[1]
    assert len(set(codes)) == 3


def test_a_factory_in_a_module(load: Load) -> None:
    assert load("torch.nn:Identity").source == "torch.nn:Identity"


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("def other(): pass", MissingError, ["no function 'net'"]),
        ("def nett(): pass", MissingError, ["did you mean nett"]),
        ("net = 3", MissingError, ["no function 'net'"]),
        ("def net(): return 3", ConfigError, ["returned a int", "torch.nn.Module"]),
        ("def net():\n    return 1 / 0", ConfigError, ["my.py:2", "ZeroDivisionError"]),
        ("def net(width): pass", ConfigError, ["TypeError", "width"]),
        ("\n\nraise ValueError('two\\nlines')", ConfigError, ["my.py:3", "ValueError: two"]),
        ("def net(:", ConfigError, ["my.py:1", "SyntaxError"]),
        ("import no_such_thing_here", ConfigError, ["my.py:1", "no_such_thing_here"]),
        ("import sys; sys.exit(3)", ConfigError, ["my.py:1", "SystemExit"]),
        ("import torch\ndef net():\n    return torch.nn.Linear('a', 2)", ConfigError, ["my.py:3", "TypeError"]),
    ],
)
def test_factories_that_fail(
    body: str, kind: type[DeatbenchError], words: list[str], load: Load, tmp_path: Path
) -> None:
    (tmp_path / "my.py").write_text(body + "\n")
    fails(load, kind, *words, text="./my.py:net")


def test_factories_that_are_not_there(load: Load, tmp_path: Path) -> None:
    fails(load, MissingError, "no file nowhere.py", text="nowhere.py:net")
    (tmp_path / "nets.py").write_text("")
    fails(load, MissingError, f"did you mean {tmp_path / 'nets.py'}?", text=f"{tmp_path}/nest.py:net")
    fails(load, MissingError, f"no file {tmp_path}/else/nest.py", text=f"{tmp_path}/else/nest.py:net")
    fails(load, MissingError, "no module 'nowhere'", text="nowhere.deep:net")
    fails(load, MissingError, "no function 'Linaer'", "Linear", text="torch.nn:Linaer")


# RobustBench and timm


def test_robustbench_weights_come_from_disk(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    net.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))
    zoo = {
        "cifar10": {
            "Linf": {"Key2024Net": {"model": lambda: net, "gdrive_id": "abc"}, "Many": {"gdrive_id": ["a", "b"]}}
        }
    }
    monkeypatch.setattr(robustbench_zoo, "_model_dicts", lambda: zoo)
    text = "robustbench:Key2024Net@cifar10/Linf"
    place = "robustbench/cifar10/Linf/Key2024Net.pt"
    fails(load, MissingError, place, "id=abc", text=text)
    (tmp_path / place).parent.mkdir(parents=True)
    state = {f"module.{key}": value for key, value in net.state_dict().items() if key != "mu"}
    (tmp_path / place).write_bytes(saved({"state_dict": state, "epoch": 1}))
    model = load(text)
    assert (model.name, model.dataset, model.source) == ("robustbench-Key2024Net", "cifar10", text)
    assert model.threat is not None
    assert model.threat.eps_text == "8/255"
    monkeypatch.setenv("DEATBENCH_ROBUSTBENCH", str(tmp_path / "elsewhere"))
    fails(load, MissingError, "elsewhere/cifar10", text=text)
    fails(load, UnknownNameError, "Key2024Net", text="robustbench:Key2024Nat@cifar10/Linf")
    fails(load, ConfigError, "ensemble of 2", text="robustbench:Many@cifar10/Linf")


@pytest.mark.parametrize(
    "text", ["robustbench:", "robustbench:A@cifar11/Linf", "robustbench:A@cifar10/L7", "robustbench:../A"]
)
def test_robustbench_names_have_a_form(text: str, load: Load) -> None:
    fails(load, ConfigError, "robustbench:Key@DATASET/NORM", text=text)


def test_timm_without_a_network(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    fails(load, UnknownNameError, "resnet18", text="timm:resnt18")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fails(load, MissingError, "resnet18", text="timm:resnet18")


def test_identifiers_are_safe_file_names() -> None:
    assert identifier("my net/../x") == "my-net-..-x"
    assert identifier("...") == "model"
    assert identifier("é" * 10) == "model"
    assert len(identifier("a" * 500)) == 150
