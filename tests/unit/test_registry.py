"""Registries: lazy, collision-proof, and helpful about names and hyper-parameters that do not exist."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deatbench.archs import ARCHS
from deatbench.attacks import ATTACKS, make_attack
from deatbench.attacks.pgd import PGD
from deatbench.data import DATASETS
from deatbench.errors import ConfigError, UnknownNameError
from deatbench.methods import METHODS
from deatbench.optim import OPTIMIZERS
from deatbench.registry import Registry
from deatbench.threats import THREATS


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package `toys` whose __init__ holds a registry."""
    folder = tmp_path / "toys"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from deatbench.registry import Registry\nTOYS = Registry('toy', 'toys')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name == "toys" or name.startswith("toys.")]:
        del sys.modules[name]


def toy(name: str, doc: str = "A toy.") -> str:
    return (
        f"from toys import TOYS\n@TOYS.register({name!r})\ndef target(size: int = 1):\n    {doc!r}\n    return size\n"
    )


def test_files_are_imported_on_first_use_and_not_before(package: Path) -> None:
    (package / "ball.py").write_text(toy("ball", "A ball.\n\nRound."))
    import toys  # type: ignore[import-not-found]

    assert "toys.ball" not in sys.modules
    assert "ball" in toys.TOYS
    assert "toys.ball" in sys.modules
    assert toys.TOYS.names() == ["ball"]
    assert toys.TOYS["ball"]() == 1
    assert toys.TOYS.summary("ball") == "A ball."


def test_adding_a_thing_is_adding_a_file(package: Path) -> None:
    for name in ("b", "a", "c"):
        (package / f"{name}.py").write_text(toy(name))
    import toys

    assert toys.TOYS.names() == ["a", "b", "c"]


def test_two_targets_of_one_name_collide(package: Path) -> None:
    (package / "one.py").write_text(toy("ball"))
    (package / "two.py").write_text(toy("ball"))
    import toys

    with pytest.raises(ValueError, match="toy 'ball' is registered twice"):
        toys.TOYS.names()


def test_a_broken_file_is_not_half_loaded(package: Path) -> None:
    (package / "a.py").write_text(toy("a"))
    (package / "b.py").write_text("raise RuntimeError('broken')")
    import toys

    for _ in range(2):  # the second look must not pretend that all is loaded
        with pytest.raises(RuntimeError, match="broken"):
            toys.TOYS.names()


def registry(**targets: Any) -> Registry[Any]:
    made: Registry[Any] = Registry("toy", "deatbench.optim")  # any package: it registers elsewhere
    for name, target in targets.items():
        made.register(name)(target)
    return made


def test_registering_the_same_target_twice_is_no_collision() -> None:
    made = registry(ball=dict)
    assert made.register("ball")(dict) is dict
    with pytest.raises(ValueError, match="registered twice"):
        made.register("ball")(list)


# -- templates


def test_a_templates_fields_become_parameters() -> None:
    found = ATTACKS.resolve("pgd-20")
    assert (found.name, found.target, found.params) == ("pgd-20", PGD, {"steps": 20})
    assert "pgd-20" in ATTACKS
    assert "pgd-" not in ATTACKS
    assert "xpgd-20" not in ATTACKS
    assert "pgd-{steps:int}" in ATTACKS.names()


@given(st.integers(1, 10**9 - 1))
def test_any_number_fits_the_template(steps: int) -> None:
    attack = make_attack(f"pgd-{steps}")
    assert isinstance(attack, PGD)
    assert attack.steps == steps
    assert attack.name == f"pgd-{steps}"


@pytest.mark.parametrize(
    "name", ["pgd-x", "pgd-2.5", "pgd-1e3", "pgd- 3", "pgd-٣", "pgd-9999999999", "pgd-{steps:int}"]
)
def test_a_field_that_is_no_number(name: str) -> None:
    with pytest.raises(ConfigError, match="steps must be a whole number"):
        ATTACKS.resolve(name)


@pytest.mark.parametrize("name", ["pgd-0", "pgd--3", "cw-0"])
def test_k_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        make_attack(name)


def test_a_text_field_takes_the_rest() -> None:
    made = registry(**{"timm/{name}": dict})
    assert made.resolve("timm/a/b-c").params == {"name": "a/b-c"}
    assert "timm/" not in made


def test_literal_names_come_before_templates() -> None:
    made = registry(**{"a-{x:int}": dict, "a-1": list})
    assert made["a-1"] is list
    assert made["a-2"] is dict


def test_dots_in_a_template_are_literal() -> None:
    made = registry(**{"v1.{x:int}": dict})
    assert "v1.3" in made
    assert "v1x3" not in made


# -- names that do not exist


@pytest.mark.parametrize(
    ("known", "name", "near"),
    [
        (ATTACKS, "pdg-20", "pgd-20"),
        (ATTACKS, "pgd20", "pgd-20"),
        (ATTACKS, "CW-7", "cw-7"),
        (ATTACKS, "auto-attack", "autoattack"),
        (ARCHS, "vgg-16", "vgg16"),
        (ARCHS, "tmm/resnet18", "timm/resnet18"),
        (METHODS, "pgdat", "pgd-at"),
        (DATASETS, "cifar-10", "cifar10"),
        (THREATS, "linf", "Linf"),
        (OPTIMIZERS, "sdg", "sgd"),
    ],
)
def test_the_nearest_name_is_offered(known: Registry[Any], name: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as refusal:
        known.resolve(name)
    assert f"unknown {known.kind} {name!r}" in str(refusal.value)
    assert near in str(refusal.value).partition("(")[2]
    assert refusal.value.exit_code == 2
    assert name not in known


def test_nothing_near_is_no_guess() -> None:
    with pytest.raises(UnknownNameError) as refusal:
        ARCHS.resolve("qqqqqqqq")
    assert "did you mean" not in str(refusal.value)
    assert "`deatbench ls archs`" in str(refusal.value)


def test_a_short_list_is_shown_at_once() -> None:
    with pytest.raises(UnknownNameError, match="known: L1, L2, Linf"):
        THREATS.resolve("qq")


@given(st.text(max_size=30))
def test_any_text_ends_in_a_target_or_one_clear_error(name: str) -> None:
    if name in ATTACKS:
        assert ATTACKS.resolve(name).target is not None
        return
    with pytest.raises(ConfigError) as refusal:  # unknown, or a template's field that is no number: `pgd-:`
        ATTACKS.resolve(name)
    assert repr(name) in str(refusal.value)


# -- binding


@dataclass(frozen=True)
class Toy:
    """A toy."""

    size: int = 1
    weight: float = 0.5
    shiny: bool = False
    note: str | None = None


def build(count: int, width: float = 1.0, **rest: Any) -> None:
    """A function with something for the caller to give."""


def test_bind_gives_every_hyper_parameter_with_its_default() -> None:
    made = registry(toy=Toy, build=build)
    assert made.bind("toy", {}) == {"size": 1, "weight": 0.5, "shiny": False, "note": None}
    assert made.bind("toy", {"size": 3})["size"] == 3
    assert made.bind("build", {}, context=("rest",)) == {"width": 1.0}
    assert made.bind("build", {}, context=("width", "rest")) == {}


def test_bind_reads_the_names_own_fields() -> None:
    bound = ATTACKS.bind("pgd-7", {})
    assert bound["steps"] == 7
    assert bound.keys() >= {"rel_step", "restarts", "random_start"}


def test_bind_turns_text_into_the_parameters_type() -> None:
    bound = registry(toy=Toy).bind("toy", {"size": "3", "weight": "1e-3", "shiny": "true"})
    assert bound == {"size": 3, "weight": 1e-3, "shiny": True, "note": None}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"sise": 1}, "did you mean size"),
        ({"qqq": 1}, "it has size, weight, shiny, note"),
        ({"size": "big"}, "size='big'"),
        ({"size": 1.5}, "size=1.5"),
        ({"size": True}, "size=True"),
        ({"weight": True}, "weight=True"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"weight": float("inf")}, "weight=inf"),
        ({"shiny": 3}, "shiny=3"),
        ({"note": 3}, "note=3"),
    ],
)
def test_bind_refuses_in_one_line(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        registry(toy=Toy).bind("toy", params)
    assert says in str(refusal.value)
    assert "toy 'toy'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_registered_thing_says_what_it_is() -> None:
    for known in (ARCHS, ATTACKS, DATASETS, METHODS, OPTIMIZERS, THREATS):
        for name in known.names():
            assert known.summary(name).endswith("."), f"{known.kind} {name} has no summary line"
