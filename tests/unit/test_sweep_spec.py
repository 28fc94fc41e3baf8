"""Sweep files: which points they mean, which runs those are, and what is refused before anything is computed."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest
import torch
from cli_runs import call

from deatbench import pipeline
from deatbench.cli.main import cli
from deatbench.errors import ConfigError
from deatbench.sweep import MAX_POINTS, Surroundings, Sweep, configured, load_sweep, parse_sweep, sweep_names
from deatbench.sweep.points import command, planned

BASE = "base: {recipe: digits, dataset: digits, arch: resnet8, method: pgd-at}\n"
HERE = Surroundings("cpu")


def sweep(text: str) -> Sweep:
    return parse_sweep(BASE + text, "tried")


def grid(axes: int) -> str:
    """Axes of ten values."""
    return "axes:\n" + "".join(f"  a{axis}: {list(range(10))}\n" for axis in range(axes))


def test_a_grid_is_the_product_and_the_last_axis_turns_fastest() -> None:
    found = list(sweep("axes:\n  optimizer.lr: [0.1, 1e-3]\n  seed: [0, 1]\n"))
    assert [point.settings for point in found] == [
        {"optimizer.lr": lr, "seed": seed} for lr in (0.1, 0.001) for seed in (0, 1)
    ]
    assert found[3].label == "optimizer.lr=0.001 seed=1"
    assert configured(found[3], HERE).optimizer.params["lr"] == 0.001
    assert configured(found[3], HERE).seed == 1


def test_variants_are_bundles_of_settings_and_are_known_by_their_names() -> None:
    text = """
axes:
  update:
    pgd-at m=0: {optimizer.momentum: 0}
    deat: {method: deat, arch.width: 0.5}
"""
    first, second = sweep(text)
    assert [first.settings, second.settings] == [{"update": "pgd-at m=0"}, {"update": "deat"}]
    assert configured(first, HERE).optimizer.params["momentum"] == 0
    config = configured(second, HERE)
    assert (config.method.name, config.optimizer.name, config.arch.params["width"]) == ("deat", "deat", 0.5)


def test_single_points_stand_beside_the_grid_or_alone() -> None:
    alone = list(sweep("points:\n  - {label: the other, method: trades, method.beta: 3}\n  - {seed: 4}\n"))
    assert [point.label for point in alone] == ["the other", "seed=4"]
    assert configured(alone[0], HERE).method.params["beta"] == 3
    beside = sweep("axes: {seed: [0, 1]}\npoints: [{seed: 7}]\n")
    assert [point.settings for point in beside] == [{"seed": 0}, {"seed": 1}, {"seed": 7}]
    assert beside.count == 3


def test_a_sample_is_of_the_grid_and_repeats() -> None:
    def drawn(seed: int) -> list[str]:
        return [point.label for point in sweep(f"{grid(40)}sample: {{n: 50, seed: {seed}}}\n")]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 50
    whole = sweep("axes: {seed: [0, 1, 2]}\nsample: {n: 3}\n")
    assert [point.settings["seed"] for point in whole] == [0, 1, 2]


def test_any_key_can_be_set_in_the_base() -> None:
    text = """
base:
  {recipe: digits, dataset: digits, arch: vgg16, method: deat,
   set: {evaluation: {n: 50}, threat.eps: 8/255, evaluation.attacks: [pgd-20], optimizer.weight_decay: 1e-5}}
axes: {arch: [vgg16, resnet8]}
"""
    config = configured(list(parse_sweep(text, "base"))[1], HERE)
    assert (config.arch.name, config.evaluation.n, config.threat.eps) == ("resnet8", 50, "8/255")
    assert config.evaluation.attacks == ("pgd-20",)
    assert config.optimizer.params["weight_decay"] == 1e-5


def test_two_points_can_be_one_run() -> None:
    text = "axes: {optimizer.lr: [0.02, 0.1]}\npoints: [{label: as the recipe says, epochs: 30}]\n"
    runs = [point.run_id for point in planned(sweep(text), HERE)]
    assert runs[0] == runs[2] != runs[1]


def test_the_command_of_a_point_makes_the_same_run() -> None:
    """The words are parsed by the command line itself and configured as it would."""
    text = (
        "axes: {threat.eps: [8/255], evaluation.attacks: [[pgd-20, fgsm]], augment: ['none'], optimizer.lr: [1e-5]}\n"
    )
    (point,) = sweep(text)
    words = shlex.split(command(point))[2:]
    context = cli.get_command(cli.make_context("deatbench", ["run", *words]), "run").make_context("run", list(words))
    given = context.params
    config = pipeline.configure(
        arch=given["arch"],
        method=given["method"],
        dataset=given["dataset"],
        recipe=given["recipe"],
        overrides=given["overrides"],
        flags={"seed": int(given["seeds"])},
        device=torch.device("cpu"),
    )
    assert config == configured(point, HERE)


REFUSED = {
    "axis: {seed: [0]}": "unknown key 'axis' (did you mean axes?)",
    "resources: {gpu: 1}\naxes: {seed: [0]}": "unknown key 'resources.gpu' (did you mean resources.gpus?)",
    "axes: {optimzer.lr: [0.1]}": "unknown key 'optimzer' (did you mean optimizer?)",
    "axes: {optimizer.lrr: [0.1]}": "no parameter 'lrr' (did you mean lr?)",
    "axes: {v: {a: {optimizer.lrr: 1}}}": "at v=a: optimizer 'sgd' has no parameter 'lrr'",
    "axes: {arch: [vgg61]}": "unknown arch 'vgg61' (did you mean vgg19",
    "axes: {}": "empty grid",
    "about: nothing": "empty grid",
    "axes: {optimizer.lr: []}": "empty grid: axis 'optimizer.lr' has no values",
    "axes: {epochs: [ten]}": "epochs='ten': Input should be a valid integer",
    "axes: {optimizer.lr: 3}": "axis 'optimizer.lr' must be a list of values or a mapping of variants",
    "axes: {optimizer.lr: [yes]}": "should be a number",
    "axes: {optimizer.lr: [.nan]}": "is no number",
    "axes: {optimizer.lr: [2026-01-01]}": "is no number",
    "axes: {arch: [3]}": "arch=3 is no name",
    "axes: {dataset: [auto]}": "a sweep says which",
    "axes: {seed: [0.5]}": "valid integer",
    "axes: {1: [0]}": "should be a valid string",
    "axes: {'a b=c': [0]}": "is no recipe key",
    "axes: {v: {a: [1]}}": "must be a name with a mapping of settings",
    "axes: {seed: [0, 1, 0]}": "axis 'seed' has the value 0 2 times",
    "axes: {seed: [0]}\nsample: {n: many}": "sample.n='many'",
    "axes: {seed: [0]}\nsample: {n: 2}": "a sample of 2 points from a grid of 1",
    "axes: {seed: [0], v: {a: {seed: 1}}}": "axes 'seed' and 'v' both set seed",
    "axes: {v: {a: {seed: 1}, a: {seed: 2}}}": "'a' stands there twice",
    "axes: {seed: [0]}\nreport: ../../etc": "report=",
    "axes: {seed: &a [0], epochs: *a}": "uses YAML aliases",
    f"axes: {{seed: {'[' * 30}{']' * 30}}}": "nested more than",
    "axes: {evaluation.n: [10, 20]}": "are one training measured in two ways",
    grid(9): f"1,000,000,000 points are more than the limit of {MAX_POINTS:,}",
    grid(40): f"are more than the limit of {MAX_POINTS:,}",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_makes_no_sense_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tried.yaml"
    path.write_text(BASE + text + "\n")
    started = time.monotonic()
    done = call(capsys, "sweep", path, "--home", tmp_path / "home")
    assert (done.code, done.out) == (2, "")
    assert REFUSED[text] in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert time.monotonic() - started < 20
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["..x", "a b", "-x", "x" * 101, "sweep.2"])
def test_a_name_that_is_no_plain_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a sweep"):
        parse_sweep(BASE + "axes: {seed: [0]}\n", name)


@pytest.mark.parametrize(("name", "code"), [("../../x", 2), ("deat-k1k2-digit", 2), ("nowhere.yaml", 4)])
def test_a_sweep_that_is_not_there(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "sweep", name)
    assert (done.code, done.err.count("\n")) == (code, 1)


def test_what_a_point_lacks_is_said() -> None:
    with pytest.raises(ConfigError, match="at seed=0: no arch"):
        planned(parse_sweep("base: {dataset: digits, method: deat}\naxes: {seed: [0]}\n", "tried"), HERE)


@pytest.mark.parametrize("name", sweep_names())
def test_shipped_sweeps_make_sense(name: str) -> None:
    found = load_sweep(name)
    assert found.spec.about
    assert found.name == name
    if found.spec.base.dataset == "digits":
        assert planned(found, HERE)


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "ls", "sweeps")
    assert done.code == 0
    assert all(name in done.out for name in sweep_names())
