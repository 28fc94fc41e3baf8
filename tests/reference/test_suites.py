"""Suites: our members, given the published draws, reach the verdicts of the published code's own loop.

Both sides are shortened by the same amounts: the full settings take minutes even on digits.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace

import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from deatbench.attacks import Attack, make_attack
from deatbench.attacks.apgd import APGDCE, APGDDLR, APGDT
from deatbench.attacks.autoattack import STANDARD, AutoAttack, AutoAttackPlus, AutoAttackRand, Suite
from deatbench.attacks.base import Engine
from deatbench.attacks.fab_untargeted import FABUntargeted
from deatbench.attacks.restarts import all_runs, still_standing
from deatbench.attacks.rng import ExampleRng, PublishedRng
from deatbench.attacks.square import Square
from deatbench.data import Dataset
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel, make_threat

SEED, STEPS, QUERIES = 3, 20, 150
EPS = {"Linf": "0.2", "L2": "0.8", "L1": "1.2"}


class Fresh(nn.Module):
    """Logits that may be written into, as the published Square does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW).clone()


def shortened(member: Attack) -> Attack:
    known = {field.name for field in fields(member)}
    return replace(member, **{key: value for key, value in (("steps", STEPS), ("queries", QUERIES)) if key in known})


def published_suite(net: nn.Module, threat: ThreatModel, version: str) -> pyautoattack.AutoAttack:
    suite = pyautoattack.AutoAttack(Fresh(net), norm=threat.norm, eps=threat.eps, seed=SEED, version=version)
    for attack in (suite.apgd, suite.apgd_targeted):
        attack.n_iter = attack.n_iter_orig = STEPS
        attack.n_iter_2, attack.n_iter_min = max(int(0.22 * STEPS), 1), max(int(0.06 * STEPS), 1)
        attack.size_decr = max(int(0.03 * STEPS), 1)
    suite.fab.n_iter, suite.square.n_queries = STEPS, QUERIES
    return suite


def published_verdicts(suite: pyautoattack.AutoAttack, x: Tensor, y: Tensor, batch_size: int) -> list[bool]:
    """Which images stand, by the published loop."""
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[]):
        _, y_adv_N = suite.run_standard_evaluation(x, y, batch_size=batch_size)
    sys.settrace(tracer)  # its check for dynamic models switches the tracer off
    return (y_adv_N == y).tolist()


def our_verdicts(
    members: tuple[Attack, ...], net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, batch_size: int
) -> list[bool]:
    """The same loop around our members: batches of survivors, a new stream of published draws for each."""
    with torch.no_grad():
        standing = torch.nonzero(net(x).argmax(1) == y)[:, 0]
    for member in members:
        left = []
        for part in standing.split(batch_size):
            found = all_runs(member, net, x[part], y[part], threat, PublishedRng(SEED))
            left.append(part[still_standing(net, found, x[part], y[part], threat)])
        standing = torch.cat(left)
    return torch.isin(torch.arange(len(x)), standing).tolist()


def batch(digits: Dataset, n: int) -> tuple[Tensor, Tensor]:
    ((x_NCHW, y_N),) = digits.test.batches([torch.arange(n)], torch.device("cpu"))
    return x_NCHW, y_N


SUITES = [AutoAttack(), AutoAttackPlus(), AutoAttackRand()]
CASES = [
    pytest.param(suite, norm, id=f"{suite.version}-{norm}", marks=[pytest.mark.slow] * (i > 0 and norm != "Linf"))
    for i, suite in enumerate(SUITES)
    for norm in EPS
]


def changed_values(delta: Tensor) -> Tensor:
    """How many pixel values of each image changed. The published count takes what rounding left, 1e-8, for a change."""
    return (delta.abs() > 1e-6).flatten(1).sum(1)


@pytest.mark.parametrize(("suite", "norm"), CASES)
def test_published_draws_give_the_published_suite(
    robust_net: nn.Module, digits: Dataset, suite: Suite, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyautoattack.autopgd_base, "L0_norm", changed_values)  # only L1 counts
    threat = make_threat(norm, EPS[norm])
    n = 100 if (suite.version, norm) == ("standard", "Linf") else 40
    x_NCHW, y_N = batch(digits, n)
    expected = published_verdicts(published_suite(robust_net, threat, suite.version), x_NCHW, y_N, 32)
    members = tuple(map(shortened, suite.members(norm)))
    assert our_verdicts(members, robust_net, x_NCHW, y_N, threat, 32) == expected
    assert 0 < sum(expected) < n  # both outcomes occur, so that this can fail


def test_members_have_the_published_settings() -> None:
    standard = (APGDCE(), APGDT(), Square())
    assert tuple(m for m in AutoAttack().members("L2") if m.name != "fab-t") == standard
    assert [member.name for member in AutoAttack().members()] == list(STANDARD)
    for suite in SUITES:
        for norm in EPS:
            own, reference = suite.members(norm), suite.by("reference").members(norm)
            assert [member.name for member in own] == [member.name for member in reference]
            for ours, theirs in zip(own, reference, strict=True):
                a, b = ours.params(), theirs.params()
                assert a.get("steps", 100) == b.get("n_iter", 100)
                assert a.get("queries", 5000) == b.get("n_queries", 5000)
                assert a.get("restarts", 1) == b["restarts"]
                assert a.get("targets") == b.get("targets")
                assert a.get("eot", 1) == b.get("eot_iter", 1)
                assert a.get("large_reps", False) == b.get("use_largereps", False)
                assert ours.passes(10) * ours.runs == theirs.passes(10) * theirs.runs


@pytest.mark.parametrize("version", [pytest.param("plus", marks=pytest.mark.slow), "rand"])
def test_reference_members_are_the_published_code(robust_net: nn.Module, digits: Dataset, version: str) -> None:
    """Full settings: APGD with its restarts or 20 passes a step, FAB with its restarts."""
    x_NCHW, y_N = batch(digits, 4)
    threat, suite = make_threat("Linf", "0.2"), make_attack(f"autoattack-{version}").by("reference")
    with torch.no_grad():
        kept_N = robust_net(x_NCHW).argmax(1) == y_N
    x_NCHW, y_N = x_NCHW[kept_N], y_N[kept_N]
    for member in [m for m in suite.members() if m.name in ("apgd-ce", "fab")]:
        with torch.random.fork_rng(devices=[]):
            published = pyautoattack.AutoAttack(robust_net, norm="Linf", eps=threat.eps, seed=SEED, version=version)
            published.apgd.loss, published.fab.targeted = "ce", False
            attack = published.fab if member.name == "fab" else published.apgd
            expected = attack.perturb(x_NCHW, y_N).detach()
        assert torch.equal(member(robust_net, x_NCHW, y_N, threat, PublishedRng(SEED)), expected)


@pytest.mark.parametrize("norm", EPS)
def test_untargeted_fab_with_restarts_is_the_published_one(robust_net: nn.Module, digits: Dataset, norm: str) -> None:
    threat = make_threat(norm, EPS[norm])
    x_NCHW, y_N = batch(digits, 64)
    published = FABAttack_PT(
        robust_net, norm=norm, n_iter=STEPS, n_restarts=3, eps=threat.eps, seed=SEED, device=torch.device("cpu")
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        kept_N = robust_net(x_NCHW).argmax(1) == y_N
        x_NCHW, y_N = x_NCHW[kept_N], y_N[kept_N]
        expected = still_standing(robust_net, published.perturb(x_NCHW, y_N), x_NCHW, y_N, threat)
    found = all_runs(FABUntargeted(STEPS, restarts=3), robust_net, x_NCHW, y_N, threat, PublishedRng(SEED))
    assert still_standing(robust_net, found, x_NCHW, y_N, threat).tolist() == expected.tolist()
    assert 0 < len(expected) < len(x_NCHW)


def test_further_tries_of_fab_begin_elsewhere(robust_net: nn.Module, digits: Dataset) -> None:
    x_NCHW, y_N = batch(digits, 8)
    threat = make_threat("L2", "0.8")
    tries = [
        FABUntargeted(1)(robust_net, x_NCHW, y_N, make_threat("L2", "9"), ExampleRng(SEED, torch.arange(8), "fab", run))
        for run in (0, 1)
    ]
    assert threat.distance(*tries).max() > 0.1


@pytest.mark.parametrize("attack", [APGDCE(STEPS, eot=3), APGDDLR(STEPS, eot=3)], ids=lambda attack: attack.name)
def test_averaged_gradients_are_the_published_ones(robust_net: nn.Module, digits: Dataset, attack: Attack) -> None:
    x_NCHW, y_N = batch(digits, 48)
    threat = make_threat("Linf", "0.2")
    with torch.no_grad():
        kept_N = robust_net(x_NCHW).argmax(1) == y_N
    x_NCHW, y_N = x_NCHW[kept_N], y_N[kept_N]
    published = APGDAttack(
        robust_net, n_iter=STEPS, norm="Linf", eps=threat.eps, seed=SEED, loss=attack.name[5:], eot_iter=3, device="cpu"
    )
    with torch.random.fork_rng(devices=[]):
        expected = published.perturb(x_NCHW, y_N)
    found = attack(robust_net, x_NCHW, y_N, threat, PublishedRng(SEED))
    left = [still_standing(robust_net, x_adv, x_NCHW, y_N, threat).tolist() for x_adv in (found, expected)]
    assert left[0] == left[1]
    assert 0 < len(left[0]) < len(x_NCHW)
    assert attack.passes(10) == 3 * (STEPS + 1)


class Noisy(nn.Module):
    """A network behind random pixels: a single pass's gradient says little."""

    def __init__(self, net: nn.Module, level: float) -> None:
        super().__init__()
        self.net, self.level = net, level

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW + self.level * torch.randn_like(x_NCHW))


def test_averaging_breaks_more_of_a_network_that_draws_random_numbers(robust_net: nn.Module, digits: Dataset) -> None:
    """Judged by the network without its noise: what the attack found is a weakness, not a lucky draw."""
    x_NCHW, y_N = batch(digits, 200)
    threat, noisy = make_threat("Linf", "0.12"), Noisy(robust_net, 0.5)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        directions = []
        for eot in (1, 20):
            found = APGDCE(10, eot=eot)(noisy, x_NCHW, y_N, threat, ExampleRng(0, torch.arange(200), "apgd-ce/0"))
            directions.append(int((robust_net(found).argmax(1) != y_N).sum()))
    assert directions[1] > directions[0]


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("norm", EPS)
def test_few_classes(digits: Dataset, num_classes: int, norm: str) -> None:
    images = digits.test.subset(torch.nonzero(digits.test.labels_N < num_classes)[:12, 0])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    ((x_NCHW, y_N),) = images.batches([torch.arange(12)], torch.device("cpu"))
    y_N = net(x_NCHW).argmax(1)
    threat = make_threat(norm, EPS[norm])
    for suite in SUITES:
        for member in map(shortened, suite.members(norm)):
            found = all_runs(member, net, x_NCHW, y_N, threat, ExampleRng(0, torch.arange(12), member.name))
            assert len(still_standing(net, found, x_NCHW, y_N, threat)) < 12, member.name
    reference = AutoAttack().by("reference").members(norm)[0]
    with pytest.raises(ConfigError, match="at least 4 classes") as refusal:
        reference(net, x_NCHW, y_N, threat, PublishedRng(0))
    assert refusal.value.hint == "use --engine fast"


def test_the_record_says_which_loss_was_used() -> None:
    assert [APGDT().params(k)["loss"] for k in (2, 3, 4, 10)] == ["margin-targeted"] * 2 + ["dlr-targeted"] * 2
    assert [APGDDLR().params(k)["loss"] for k in (2, 3)] == ["margin", "dlr"]
    assert [APGDT().params(k)["targets"] for k in (2, 5, 10, 100)] == [1, 4, 9, 9]
    assert "targets" not in APGDCE().params()


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("name", ["autoattack", "autoattack-plus", "autoattack-rand"])
def test_a_suite_says_whose_code_runs_it(name: str, engine: Engine) -> None:
    suite = make_attack(name)
    assert suite.engine.startswith("deatbench")  # ours unless told otherwise
    assert suite.by(engine).engine.startswith("deatbench" if engine == "fast" else "pyautoattack ")
    assert suite.by(engine).name == name


def test_images_need_not_be_square(digits: Dataset) -> None:
    x_NCHW, _ = batch(digits, 10)
    x_NCHW = x_NCHW[:, :, :5].repeat(1, 2, 1, 1)  # two channels, 5 x 8
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(80, 10))
    y_N = net(x_NCHW).argmax(1)
    for norm in EPS:
        threat = make_threat(norm, EPS[norm])
        for member in map(shortened, AutoAttackPlus().members(norm)):
            found = member(net, x_NCHW, y_N, threat, ExampleRng(0, torch.arange(10), member.name))
            assert len(still_standing(net, found, x_NCHW, y_N, threat)) < 10, (norm, member.name)


def test_rows_of_numbers_are_images_too(digits: Dataset) -> None:
    x_ND = batch(digits, 12)[0].flatten(1)
    torch.manual_seed(0)
    net = nn.Linear(64, 5)
    y_N = net(x_ND).argmax(1)
    for norm in EPS:
        threat = make_threat(norm, EPS[norm])
        for member in map(shortened, AutoAttackPlus().members(norm)):
            if isinstance(member, Square):
                continue  # knows images alone
            found = all_runs(member, net, x_ND, y_N, threat, ExampleRng(0, torch.arange(12), member.name))
            assert found.shape == x_ND.shape
            assert len(still_standing(net, found, x_ND, y_N, threat)) < 12, (norm, member.name)


def test_published_draws_begin_anew_for_each_batch() -> None:
    rng, like = PublishedRng(SEED), torch.empty(3, 2)
    first = rng.normal(like)
    assert torch.equal(rng.of(torch.tensor([0])).normal(like), first)
    assert not torch.equal(rng.onward(torch.tensor([0]), 1).normal(like), first)


def test_own_draws_go_on_for_those_that_stand() -> None:
    rng, whole = (ExampleRng(SEED, torch.tensor([4, 7, 9]), "a/0") for _ in range(2))
    like = torch.empty(3, 2)
    rng.uniform(like)
    whole.uniform(like)
    rest = rng.onward(torch.tensor([0, 2]), 1)
    assert rest.run == 1
    assert torch.equal(rest.uniform(like[:2]), whole.uniform(like)[[0, 2]])
