"""What every attack promises. A new one is tested by being registered.

Templates are tried with 3 for each field, long attacks with fewer steps where they have such a parameter. A suite's own
members are attacks of that kind; its published members have no such parameter, so that all but the quickest are slow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks import ATTACKS, Attack, make_attack
from deatbench.attacks.autoattack import Member, Suite
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.transfer import Transfer
from deatbench.data.images import TensorImages
from deatbench.engine.evaluate import Settings, evaluate
from deatbench.errors import ConfigError
from deatbench.records import AttackResult
from deatbench.threats import THREATS, ThreatModel, make_threat

N = 5
EPS = {"Linf": "8/255", "L2": "0.5", "L1": "2"}
SHORT = {"steps": 12, "queries": 60}
ENOUGH = {"ddn": {"steps": 40}}  # its radius begins at 1 and falls by 5 % a step
MINIMUM_NORM = ("fab", "fab-t", "fmn", "ddn")  # they minimise the distance; where they fail they may end outside
ONLY = {"ddn": "L2"}  # norms that an attack must take; Linf where nothing is said


class Net(nn.Module):
    """A small network with everything an attack could disturb: batch norm, frozen weights, a foreign gradient."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.head = nn.Linear(6 * 64, num_classes)
        self.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.head.weight.grad = torch.ones_like(self.head.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x_NCHW))).flatten(1))


def example(template: str) -> Attack:
    if template == "transfer":
        return Transfer(Net(10), source="Net(10)", sha256="0" * 64)
    name = re.sub(r"\{\w+(:int)?\}", "3", template)
    free = ATTACKS.bind(name, {}).keys() - ATTACKS.resolve(name).params.keys()
    short = {**SHORT, **ENOUGH.get(name, {})}
    return make_attack(name, **{key: value for key, value in short.items() if key in free})


EXAMPLES = [example(template) for template in ATTACKS.names()]
SUITES = [attack for attack in EXAMPLES if isinstance(attack, Suite)]
SINGLE = [attack for attack in EXAMPLES if not isinstance(attack, Suite)]
PUBLISHED = [
    pytest.param(
        member, id=f"{suite.name}/{member.name}", marks=[pytest.mark.slow] * ((suite.id, i) != ("autoattack", 0))
    )
    for suite in SUITES
    for i, member in enumerate(suite.by("reference").members())
]
MEMBERS = [*(pytest.param(attack, id=attack.name) for attack in SINGLE), *PUBLISHED]
OWN = [attack for attack in SINGLE if attack.own]
pytestmark = pytest.mark.parametrize(
    "threat", [pytest.param(make_threat(norm, EPS.get(norm, "0.5")), id=norm) for norm in THREATS.names()]
)


def batch(model: nn.Module, n: int = N) -> tuple[Tensor, Tensor]:
    """Images whose labels are what the model says, so that there is something to attack."""
    x_NCHW = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x_NCHW[0].round_()  # pixels at the borders of [0, 1]
    with torch.no_grad():
        return x_NCHW, model(x_NCHW).argmax(1)


def run(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, first: int = 0) -> Tensor:
    """Adversarial images. An attack may refuse few classes or a norm, in plain words, but not ten and its own norm."""
    rng = ExampleRng(0, torch.arange(first, first + len(x)), f"{attack.name}/0")
    if isinstance(attack, Member):
        attack = replace(attack, norm=threat.norm)
    try:
        return attack(model, x, y, threat, rng)
    except ConfigError as refusal:
        if threat.norm == ONLY.get(attack.name, "Linf") and model(x[:1]).shape[1] >= 4:
            raise
        pytest.skip(str(refusal))


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("attack", MEMBERS)
def test_result_is_admissible_and_reproducible(attack: Attack, num_classes: int, threat: ThreatModel) -> None:
    model = Net(num_classes).eval()
    x_NCHW, y_N = batch(model)
    x_before, y_before = x_NCHW.clone(), y_N.clone()
    x_adv = run(attack, model, x_NCHW, y_N, threat)
    assert x_adv.shape == x_NCHW.shape
    assert x_adv.dtype == torch.float32
    assert not x_adv.requires_grad
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1
    fooled = model(x_adv).argmax(1) != y_N
    inside = threat.distance(x_adv, x_NCHW) <= threat.eps + threat.tolerance
    if not attack.name.endswith(MINIMUM_NORM):
        assert bool(inside.all())
    assert bool(inside[fooled].any()) or not bool(fooled.any())
    assert torch.equal(x_NCHW, x_before)
    assert torch.equal(y_N, y_before)
    torch.manual_seed(99)
    assert torch.equal(run(attack, model, x_NCHW, y_N, threat), x_adv)


@pytest.mark.parametrize("attack", MEMBERS)
def test_model_and_global_generator_are_left_alone(attack: Attack, threat: ThreatModel) -> None:
    model = Net(10).eval()
    x_NCHW, y_N = batch(model)
    model.conv.train()  # a mixture of modes
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    generator = torch.get_rng_state()
    run(attack, model, x_NCHW, y_N, threat)
    assert [part.training for part in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    foreign = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(foreign) == 1
    assert torch.equal(foreign[0], torch.ones_like(foreign[0]))


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("attack", OWN, ids=lambda attack: attack.name)
def test_batch_mates_and_order_do_not_matter(attack: Attack, num_classes: int, threat: ThreatModel) -> None:
    model = Net(num_classes).eval()
    x_NCHW, y_N = batch(model)
    together = run(attack, model, x_NCHW, y_N, threat)
    alone = torch.cat([run(attack, model, x_NCHW[i : i + 1], y_N[i : i + 1], threat, first=i) for i in range(N)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attack", OWN, ids=lambda attack: attack.name)
def test_verdicts_do_not_depend_on_the_batch_size(attack: Attack, threat: ThreatModel) -> None:
    model = Net(10).eval()
    x_NCHW, y_N = batch(model, 40)
    run(attack, model, x_NCHW[:1], y_N[:1], threat)  # skips where it refuses
    pixels = (x_NCHW * 255).round().byte()
    images = TensorImages(pixels, model(pixels / 255).argmax(1))
    verdicts = [
        evaluate(model, images, threat, [attack], Settings(batch_size=size)).robust[attack.name].tolist()
        for size in (40, 7, 1)
    ]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert 0 < sum(verdicts[0]) < 40  # both outcomes occur


@pytest.mark.parametrize("attack", EXAMPLES, ids=lambda attack: attack.name)
def test_name_and_parameters_belong_to_a_record(attack: Attack, threat: ThreatModel) -> None:
    if not isinstance(attack, Transfer):  # a name alone does not say which surrogate
        assert type(make_attack(attack.name)) is type(attack)
    for member in (*attack.members(threat.norm), *attack.by("reference").members(threat.norm)):
        assert member.runs >= 1
        assert member.engine.split()[0] == ("deatbench" if member.own else "pyautoattack")
        for num_classes in (2, 10, 1000):
            assert 1 <= member.rows(num_classes) <= max(num_classes - 1, 1)
            assert member.passes(num_classes) >= member.rows(num_classes)
            params = member.params(num_classes)
            assert json.loads(json.dumps(params)) == params
            assert 1 <= params.get("targets", 1) < num_classes
            result = AttackResult(
                name=member.name, params=params, seed=0, engine=member.engine,
                robust_before=1.0, robust_after=1.0, seconds=0.0, forward_passes=0,
            )  # fmt: skip
            assert AttackResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("attack", SINGLE, ids=lambda attack: attack.name)
def test_a_single_attack_is_its_only_member_whoever_runs_it(attack: Attack, threat: ThreatModel) -> None:
    assert attack.members(threat.norm) == (attack,)
    assert attack.by("reference") is attack.by("fast") is attack
    assert attack.provisional_after == ""


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_suite_has_the_same_single_members_by_either_engine(suite: Suite, threat: ThreatModel) -> None:
    ours, published = suite.by("fast").members(threat.norm), suite.by("reference").members(threat.norm)
    names = [member.name for member in ours]
    assert names == [member.name for member in published]
    assert len(set(names)) == len(names) > 1
    assert suite.provisional_after in ("", *names)
    for mine, theirs in zip(ours, published, strict=True):
        assert (mine.own, theirs.own) == (True, False)
        assert mine.members(threat.norm) == (mine,)
        assert theirs.members(threat.norm) == (theirs,)
        assert mine.gradient_free == theirs.gradient_free
        given, expected = mine.params(10), theirs.params(10)
        same = given.keys() & expected.keys() - {"restarts"}
        assert {key: given[key] for key in same} == {key: expected[key] for key in same}
        assert mine.passes(10) * mine.runs == theirs.passes(10) * theirs.runs
    assert suite.passes(10) == sum(member.passes(10) * member.runs for member in suite.members())


@pytest.mark.parametrize("attack", SINGLE, ids=lambda attack: attack.name)
def test_check_refuses_the_norms_that_the_attack_refuses(attack: Attack, threat: ThreatModel) -> None:
    def refusal(act: Callable[[], object]) -> str:
        try:
            act()
        except ConfigError as error:
            return str(error)
        return ""

    model = Net(10).eval()
    x_NCHW, y_N = batch(model, 1)
    rng = ExampleRng(0, torch.arange(1), f"{attack.name}/0")
    in_advance = refusal(lambda: attack.check(threat))
    assert in_advance == refusal(lambda: attack(model, x_NCHW, y_N, threat, rng))
    assert not in_advance or threat.norm in in_advance
    images = TensorImages((x_NCHW * 255).round().byte(), y_N)
    assert in_advance == refusal(lambda: evaluate(model, images, threat, [attack]))


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_the_whole_suite_as_one_attack(suite: Suite, threat: ThreatModel) -> None:
    model = Net(10).eval()
    x_NCHW, y_N = batch(model)
    x_adv = run(suite, model, x_NCHW, y_N, threat)
    fooled = model(x_adv).argmax(1) != y_N
    inside = threat.distance(x_adv, x_NCHW) <= threat.eps + threat.tolerance
    assert bool(fooled.any())
    assert bool(inside[fooled].any())
