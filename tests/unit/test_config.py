"""Recipes, `--set`, digests: what is meant is taken, what cannot be meant is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deatbench.archs import ARCHS
from deatbench.config import (
    RunConfig,
    build_config,
    dump_config,
    load_recipe,
    parse_yaml,
    recipe_names,
    validate_config,
)
from deatbench.errors import ConfigError, DeatbenchError, MissingError, UnknownNameError
from deatbench.methods import METHODS
from deatbench.pipeline import configure
from deatbench.records import parse_eps

CPU = torch.device("cpu")


def config(*overrides: str, recipe: str = "digits", method: str = "pgd-at", **flags: Any) -> RunConfig:
    return build_config(
        recipe=recipe,
        arch="vgg16",
        dataset="digits",
        method=method,
        arch_params=("width",),
        overrides=overrides,
        flags=flags,
    )


def one_line(error: DeatbenchError) -> str:
    assert "\n" not in str(error)
    return str(error)


# -- recipes


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("method", METHODS.names())
def test_every_shipped_recipe_is_whole(recipe: str, method: str) -> None:
    found = configure(arch="vgg16", method=method, dataset="digits", recipe=recipe, device=CPU)
    assert found.recipe == recipe
    assert found.method.name == method
    assert found.precision == "fp32"
    assert found.optimizer.name == METHODS[method].optimizer
    assert set(found.optimizer.params) > {"lr", "weight_decay"}  # every hyper-parameter is written out
    again = RunConfig.model_validate(parse_yaml(dump_config(found), "dump"))
    assert again == found
    assert again.digest == found.digest


def test_the_paper_recipe_is_the_papers_table_1() -> None:
    paper = configure(arch="vgg19", method="deat", dataset="cifar10", recipe="paper", device=CPU)
    assert (paper.epochs, paper.batch_size, paper.threat.eps) == (110, 128, "8/255")
    assert (paper.schedule.name, paper.schedule.milestones, paper.schedule.gamma) == ("piecewise", (100, 105), 0.1)
    assert paper.attack.steps == 10
    assert paper.attack.rel_step * parse_eps("8/255") == pytest.approx(2 / 255)
    assert paper.attack.bn_mode == "eval"
    assert {key: paper.optimizer.params[key] for key in ("k1", "k2", "weight_decay")} == {
        "k1": 1.0,
        "k2": 0.8,
        "weight_decay": 5e-4,
    }


def test_a_recipe_takes_from_its_arch_part_what_the_arch_has() -> None:
    assert "width" in config().arch.params
    assert (
        "width"
        not in build_config(
            recipe="digits", arch="timm/resnet18", dataset="digits", method="deat", arch_params=()
        ).arch.params
    )


def test_a_recipes_part_for_a_method_is_for_that_method(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: {name: auto, lr: 0.1}\nmethods: {trades: {optimizer: {lr: 0.2}, epochs: 7}}\n")
    plain, trades = (config(recipe=str(path), method=method) for method in ("pgd-at", "trades"))
    assert (plain.optimizer.params["lr"], plain.epochs) == (0.1, 110)
    assert (trades.optimizer.params["lr"], trades.epochs) == (0.2, 7)
    assert trades.recipe == "mine"


def test_flags_beat_overrides_beat_the_recipe() -> None:
    assert config().epochs == load_recipe("digits")["epochs"]
    assert config("epochs=5").epochs == 5
    assert config("epochs=5", epochs=3).epochs == 3


def test_unknown_recipes() -> None:
    with pytest.raises(UnknownNameError, match="did you mean digits"):
        load_recipe("digit")
    with pytest.raises(MissingError, match=r"nowhere\.yaml"):
        load_recipe("nowhere.yaml")


# -- --set


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optimizer.lr=1e-3", "lr", 1e-3),
        ("optimizer.lr=.5", "lr", 0.5),
        ("optimizer.momentum=0", "momentum", 0),
        ("optimizer.nesterov=true", "nesterov", True),
    ],
)
def test_set_reads_numbers_as_numbers(text: str, key: str, value: Any) -> None:
    found = config(text).optimizer.params[key]
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(("text", "eps"), [("8/255", "8/255"), ("0.031", "0.031"), ("1e-3", "0.001"), ("1", "1")])
def test_set_keeps_a_radius_as_text(text: str, eps: str) -> None:
    assert config(f"threat.eps={text}").threat.eps == eps


def test_set_reaches_lists_and_specs() -> None:
    found = config(
        "schedule.milestones=[5, 7.5]", "schedule.name=piecewise", "arch.width=0.5", "evaluation.attacks=[pgd-3]"
    )
    assert found.schedule.milestones == (5.0, 7.5)
    assert found.arch.params["width"] == 0.5
    assert found.evaluation.attacks == ("pgd-3",)
    swapped = config("optimizer=deat")
    assert swapped.optimizer.name == "deat"
    assert "lr" in swapped.optimizer.params  # the recipe's other settings stay


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs", "not key=value"),
        ("=3", "not key=value"),
        ("epoch=3", "did you mean epochs"),
        ("attack.step=3", "did you mean attack.steps"),
        ("epochs=many", "epochs='many'"),
        ("epochs=0", "epochs=0"),
        ("epochs=true", "epochs=True"),
        ("epochs=2.5", "epochs=2.5"),
        ("batch_size=1", "batch_size=1"),
        ("seed=-1", "seed=-1"),
        ("ema=1.0", "ema=1.0"),
        ("attack.steps=0", "attack.steps=0"),
        ("attack.rel_step=nan", "attack.rel_step"),
        ("optimizer.lr=nan", "lr must be a finite number"),
        ("optimizer.lr=.inf", "lr must be a finite number"),
        ("optimizer.lr=1e999", "lr must be a finite number"),
        ("threat.eps=8/0", "8/0"),
        ("threat.eps=abc", "abc"),
        ("threat.eps=-8/255", "must be greater than 0"),
        ("threat.eps=8/", "8/"),
        ("threat.norm=no", "threat.norm"),
        ("threat.norm=L7", "threat.norm"),
        ("epochs=[1", "not valid YAML"),
        ("epochs=*x", "aliases"),
        ("epochs=!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("arch.name.x=1", "arch"),
    ],
)
def test_set_refuses_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        config(text)
    assert says in one_line(refusal.value)
    assert refusal.value.exit_code == 2


def test_configure_checks_names_and_hyper_parameters_before_anything_runs() -> None:
    def made(**changes: Any) -> RunConfig:
        return configure(**({"arch": "vgg16", "method": "deat", "dataset": "digits", "device": CPU} | changes))

    assert made().optimizer.name == "deat"
    for changes, says in (
        ({"arch": "vgg61"}, "vgg16"),
        ({"method": "daet"}, "did you mean deat"),
        ({"dataset": "digit"}, "did you mean digits"),
        ({"overrides": ["optimizer.k3=1"]}, "did you mean k"),
        ({"overrides": ["optimizer.k1=x"]}, "k1='x'"),
        ({"overrides": ["optimizer.k1=true"]}, "k1=True"),
        ({"overrides": ["arch.widht=1"]}, "did you mean width"),
        ({"overrides": ["evaluation.attacks=[pgd-0]"]}, "at least 1"),
        ({"overrides": ["evaluation.attacks=[pdg-20]"]}, "did you mean pgd-20"),
        ({"overrides": ["method.beta=1"]}, "no parameter 'beta'"),
    ):
        with pytest.raises(ConfigError) as refusal:
            made(**changes)
        assert says in one_line(refusal.value)


# -- digests


def test_digest_stands_for_everything_but_seed_and_evaluation() -> None:
    base = config()
    assert base.digest == config("seed=5").digest == config("evaluation.attacks=[pgd-3]", "evaluation.n=7").digest
    changed = ["epochs=5", "optimizer.lr=0.3", "arch.width=0.5", "threat.eps=0.1", "attack.bn_mode=train", "ema=0.9"]
    digests = {config(text).digest for text in changed} | {base.digest}
    assert len(digests) == len(changed) + 1
    assert config("seed=5").run_id != base.run_id


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    value = config().model_dump(mode="json")

    def turned(part: Any) -> Any:
        return {key: turned(part[key]) for key in reversed(part)} if isinstance(part, dict) else part

    assert validate_config(turned(value)).digest == config().digest


def test_digest_is_pinned() -> None:
    """Run folders and zoo entries carry it in their names: it must not move by accident."""
    fixed = RunConfig.model_validate({"arch": "vgg16", "dataset": "digits", "method": "deat"})
    assert fixed.digest == "3ef287c0e0ec"


# -- hostile files


def test_alias_bombs_are_refused_before_they_grow() -> None:
    lines = [f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    bomb = "a: &a [x, x, x]\n" + "".join(lines)
    with pytest.raises(ConfigError, match="aliases"):
        parse_yaml(bomb, "bomb")


@pytest.mark.parametrize(
    "text",
    [
        "epochs: [1, 2",
        "- 1\n- 2",
        "just text",
        "",
        "epochs: !!python/name:os.system",
        "\x00",
        "[" * (1 << 20),
        "a: " + "{b: " * 30 + "1" + "}" * 30,
        "a: 2001-99-99",
        "x" * (2 << 20),
    ],
)
def test_broken_recipes_end_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        config(recipe=str(path))
    one_line(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "methods: [deat]",
        "methods: {pgd-at: yes}",
        "methods: {pgd-at: {epochs: x}}",
        "summary: [1]",
        "1: 2",
        "arch: 5",
        "optimizer: [1]",
        "schedule: one-cycle",
        "typo: 1",
        "threat: {eps: yes}",
    ],
)
def test_recipes_of_wrong_shape_end_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    if text == "arch: 5":
        assert config(recipe=str(path)).arch.name == "vgg16"  # the command line names the architecture
        return
    with pytest.raises(ConfigError) as refusal:
        config(recipe=str(path))
    one_line(refusal.value)


def test_a_recipe_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_recipe(str(path))


def test_shipped_recipes_name_only_what_exists() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert isinstance(recipe.get("summary"), str)
        assert all(method in METHODS for method in recipe.get("methods", {}))
        assert all(key in ARCHS.bind("vgg16", {}) for key in recipe.get("arch", {}))
