"""What every attack promises. A new one is tested by being registered.

Templates are tried with 3 for each field, long attacks with fewer steps where they have such a parameter; the members
of a suite have none, so that all but the quickest are slow tests.
"""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn

from deatbench.attacks import ATTACKS, Attack, make_attack
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.transfer import Transfer
from deatbench.data.images import TensorImages
from deatbench.engine.evaluate import Settings, evaluate
from deatbench.errors import ConfigError
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
MEMBERS = {
    member.name: pytest.param(
        member, id=member.name, marks=[pytest.mark.slow] * (member is not attack and "apgd-ce" not in member.name)
    )
    for attack in EXAMPLES
    for member in attack.members()
}
OWN = [attack for attack in EXAMPLES if attack.own and attack.members() == (attack,)]
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
    try:
        return attack(model, x, y, threat, rng)
    except ConfigError as refusal:
        if threat.norm == ONLY.get(attack.name, "Linf") and model(x[:1]).shape[1] >= 4:
            raise
        pytest.skip(str(refusal))


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("attack", MEMBERS.values())
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


@pytest.mark.parametrize("attack", MEMBERS.values())
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
    for member in attack.members():
        assert member.passes(10) >= 1
        assert member.runs >= 1
        assert json.loads(json.dumps(member.params())) == member.params()


@pytest.mark.slow
def test_the_whole_suite_as_one_attack(threat: ThreatModel) -> None:
    model = Net(10).eval()
    x_NCHW, y_N = batch(model)
    x_adv = run(make_attack("autoattack"), model, x_NCHW, y_N, threat)
    fooled = model(x_adv).argmax(1) != y_N
    inside = threat.distance(x_adv, x_NCHW) <= threat.eps + threat.tolerance
    assert bool(fooled.any())
    assert bool(inside[fooled].any())
