"""Every known-broken defence raises a flag; an undefended and a truly robust network raise none."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_nets import PublishedNet
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench import soundness
from deatbench.attacks import ATTACKS, Attack, make_attack
from deatbench.attacks.gradient_ascent import GradientAscent
from deatbench.attacks.rng import ExampleRng
from deatbench.data import Dataset, Images
from deatbench.engine.evaluate import Evaluation, evaluate
from deatbench.models import LoadedModel
from deatbench.pipeline import EvaluationRequest, Machine
from deatbench.pipeline import evaluate as pipeline_evaluate
from deatbench.records import AttackResult, Flag
from deatbench.report.model.explanations import MEANINGS
from deatbench.soundness import inspect_model, inspect_survivors, judge_results
from deatbench.soundness.judge import GRADIENT_FREE
from deatbench.soundness.survivors import PASSES
from deatbench.store import Home
from deatbench.threats import ThreatModel, make_threat

CPU = torch.device("cpu")
LINF = make_threat("Linf", "0.1")


class Defence(nn.Module):
    """A network behind a trick."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Speechless(Defence):
    """No answer but for images of whole pixel values, as test sets have them."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        whole_N = ((x_NCHW * 255 - (x_NCHW * 255).round()).abs() < 1e-3).flatten(1).all(1)
        return torch.where(whole_N[:, None], self.net(x_NCHW), torch.nan)


class Quantised(Defence):
    """Three bits a pixel; rounding has no gradient."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net((x_NCHW * 7).round() / 7)


class StraightThrough(Defence):
    """Three bits a pixel, with the gradient of the identity: right for an attack (BPDA), false as a gradient."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW + ((x_NCHW * 7).round() / 7 - x_NCHW).detach())


class Jpeg(Defence):
    """Compression, done outside torch."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        images = []
        for x_HW in (x_NCHW.detach()[:, 0] * 255).round().byte():
            file = io.BytesIO()
            Image.fromarray(x_HW.numpy()).save(file, "JPEG", quality=75)
            images.append(np.asarray(Image.open(file), dtype=np.float32) / 255)
        return self.net(torch.from_numpy(np.stack(images))[:, None])


class Loud(Defence):
    """Logits times 1000: the softmax saturates."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return 1000 * self.net(x_NCHW)


class Shattered(Defence):
    """A fine wave on the pixels: the gradient is right, and says nothing a hundredth further on."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW + 0.05 * torch.sin(300 * x_NCHW))


class _RandomBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.randn_like(gradient) * gradient.abs().mean()


class _FlippedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


class RandomGradient(Defence):
    """Noise instead of the gradient."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(_RandomBackward.apply(x_NCHW))


class FlippedGradient(Defence):
    """The gradient with its sign turned."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(_FlippedBackward.apply(x_NCHW))


class Softmax(Defence):
    """Probabilities."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW).softmax(1)


class Randomised(Defence):
    """Random resize and noise."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        size = int(torch.randint(6, 9, ()))
        smaller = F.interpolate(x_NCHW, size=(size, size), mode="bilinear", align_corners=False)
        padded = F.pad(smaller, (0, 8 - size, 0, 8 - size))
        return self.net(padded + 0.05 * torch.randn_like(padded))


class BatchStatistics(Defence):
    """Batch norm that is in training mode whatever the caller asks for."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(F.batch_norm(x_NCHW, None, None, training=True))


class Memoriser(nn.Module):
    """The nearest neighbour among the test images themselves."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        (batch,) = images.batches([torch.arange(len(images))], CPU)
        self.memory_MD, self.labels_M = batch[0].flatten(1), batch[1]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        distance_NM = torch.cdist(x_NCHW.flatten(1), self.memory_MD)
        return torch.stack([-distance_NM[:, self.labels_M == k].amin(1) for k in range(10)], dim=1)


def codes(model: nn.Module, images: Images, threat: ThreatModel = LINF) -> list[str]:
    return [flag.code for flag in inspect_model(model, images, threat, device=CPU)]


def survivors_codes(
    model: nn.Module, images: Images, threat: ThreatModel, attacks: Sequence[Attack], known: Sequence[Flag] = ()
) -> list[str]:
    done = evaluate(model, images, threat, attacks)
    flags = inspect_survivors(model, images, threat, attacks, done.clean_N, done.robust, known, seed=0, device=CPU)
    return [flag.code for flag in flags]


@pytest.fixture(scope="session")
def images(digits: Dataset) -> Images:
    return digits.test.subset(torch.arange(64))


@pytest.mark.parametrize(
    ("defence", "code"),
    [
        (Quantised, "zero_gradient"),
        (StraightThrough, "false_gradient"),
        (Jpeg, "interrupted_graph"),
        (Loud, "zero_gradient"),
        (RandomGradient, "false_gradient"),
        (FlippedGradient, "false_gradient"),
        (Softmax, "softmax_output"),
        (Speechless, "nonfinite_logits"),
        (Randomised, "randomised"),
        (BatchStatistics, "batch_dependent"),
    ],
)
def test_broken_defences_are_flagged(
    standard_net: nn.Module, images: Images, defence: Callable[[nn.Module], nn.Module], code: str
) -> None:
    assert code in codes(defence(standard_net), images)


def test_no_answer_is_no_defence(standard_net: nn.Module, images: Images) -> None:
    """Of images of class 0, too, for which the largest of ten NaN would pass."""
    done = evaluate(Speechless(standard_net), images, LINF, [make_attack("gaussian-noise")])
    assert done.clean_N.mean() > 0.9
    assert done.robust["gaussian-noise"].sum() == 0


@pytest.mark.parametrize("defence", [Quantised, Loud, RandomGradient, FlippedGradient])
@pytest.mark.parametrize("net", ["standard_net", "robust_net"])
def test_an_attack_without_bounds_fails_on_masked_gradients(
    images: Images, defence: Callable[[nn.Module], nn.Module], net: str, request: pytest.FixtureRequest
) -> None:
    assert "unbounded_fails" in codes(defence(request.getfixturevalue(net)), images)


def test_an_attack_without_bounds_fails_on_larger_masked_networks(
    published_nets: dict[str, PublishedNet], cifar10_test: Images
) -> None:
    images = cifar10_test.subset(torch.arange(64))
    for published in published_nets.values():
        assert "unbounded_fails" in codes(Loud(published.module), images)
        assert "unbounded_fails" in codes(Quantised(published.module), images)


class Constant(nn.Module):
    """The same answer for every image."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return 0 * x_NCHW.flatten(1)[:, :10] + torch.eye(10)[3]


def test_a_network_with_one_answer_is_not_blamed_for_it(images: Images) -> None:
    assert "unbounded_fails" not in codes(Constant(), images)


@pytest.mark.parametrize("defence", [Quantised, Loud, Jpeg, RandomGradient])
def test_the_broken_defences_do_mask_a_gradient(
    standard_net: nn.Module, images: Images, defence: Callable[[nn.Module], nn.Module]
) -> None:
    """Otherwise the flags above would prove nothing: PGD finds little where the plain network falls."""
    attack = make_attack("pgd-10")
    plain = evaluate(standard_net, images, LINF, [attack]).robust["pgd-10"].mean()
    masked = evaluate(defence(standard_net), images, LINF, [attack]).robust["pgd-10"].mean()
    assert masked >= plain + 0.15


def test_a_memoriser_is_flagged(digits: Dataset, images: Images) -> None:
    model = Memoriser(images)
    threat = make_threat("Linf", "0.03")
    done = evaluate(model, images, threat, [make_attack("pgd-10")])
    assert done.clean_N.all()
    assert [flag.code for flag in judge_results(done.clean_N, done.robust, done.attacks, threat)] == ["clean_perfect"]


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.2"), ("Linf", "1/255"), ("L2", "1.0"), ("L1", "3")])
@pytest.mark.parametrize("net", ["standard_net", "robust_net"])
def test_honest_networks_raise_no_flag(
    net: str, norm: str, eps: str, digits: Dataset, request: pytest.FixtureRequest
) -> None:
    model, threat = request.getfixturevalue(net), make_threat(norm, eps)
    for indices_N in torch.arange(len(digits.test)).split(64):
        assert codes(model, digits.test.subset(indices_N), threat) == []
    attacks = [make_attack("pgd-10" if norm == "Linf" else "pgd-20")]
    done = evaluate(model, digits.test, threat, attacks)
    assert judge_results(done.clean_N, done.robust, done.attacks, threat) == []
    assert survivors_codes(model, digits.test, threat, attacks) == []


def test_untrained_networks_raise_no_flag(images: Images) -> None:
    torch.manual_seed(0)
    assert codes(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), images) == []


def test_published_robust_networks_raise_no_flag(published_nets: dict[str, PublishedNet], cifar10_test: Images) -> None:
    """Among them one of which every twentieth image has all ReLUs of its last layer dead: an honest zero gradient."""
    for published in published_nets.values():
        for first in range(0, 640, 64):
            images = cifar10_test.subset(torch.arange(first, first + 64))
            assert codes(published.module, images, make_threat("Linf", published.eps)) == []
        threat, images = make_threat("Linf", published.eps), cifar10_test.subset(torch.arange(128))
        for attack in ("pgd-10", "cw-20"):
            assert survivors_codes(published.module, images, threat, [make_attack(attack)]) == []


def test_inspection_leaves_no_trace(standard_net: nn.Module, images: Images) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), standard_net)
    model[0].train()
    model[2].eval()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    state = torch.get_rng_state()
    assert codes(model, images) == []
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_are_enough(standard_net: nn.Module, digits: Dataset, n: int) -> None:
    assert codes(standard_net, digits.test.subset(torch.arange(n))) == []


# -- the survivors


@pytest.mark.parametrize("net", ["standard_net", "robust_net"])
@pytest.mark.parametrize("attack", ["pgd-1", "pgd-2", "cw-2"])
def test_an_attack_of_too_few_steps_has_not_converged(
    net: str, attack: str, digits: Dataset, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(net)
    for eps in ("0.05", "0.1", "0.2"):
        threat = make_threat("Linf", eps)
        assert survivors_codes(model, digits.test, threat, [make_attack(attack)]) == ["not_converged"]
        thorough = [make_attack(attack), make_attack("apgd-ce")]
        assert survivors_codes(model, digits.test, threat, thorough) == []  # what it missed was found


def test_steps_that_are_too_short_have_not_converged(robust_net: nn.Module, digits: Dataset) -> None:
    attack = make_attack("pgd-20", rel_step=0.01)
    assert "not_converged" in survivors_codes(robust_net, digits.test, make_threat("Linf", "0.2"), [attack])


def test_an_attack_that_loses_what_it_found_is_flagged(standard_net: nn.Module, digits: Dataset) -> None:
    threat, attack = make_threat("Linf", "0.2"), make_attack("pgd-20")
    found = survivors_codes(Shattered(standard_net), digits.test, threat, [attack])
    assert found == ["silent_success", "not_monotone"]


def test_success_on_the_way_is_seen(standard_net: nn.Module, digits: Dataset) -> None:
    """The history of an attack ends with its answer and begins with its start."""
    attack, threat = make_attack("pgd-5"), make_threat("Linf", "0.2")
    assert isinstance(attack, GradientAscent)
    ((x_NCHW, y_N),) = digits.test.batches([torch.arange(64)], CPU)
    draws = (ExampleRng(0, torch.arange(64), "pgd-5/0") for _ in range(4))
    fooled_SN = attack.history(standard_net, x_NCHW, y_N, threat, next(draws))
    for steps in (1, 3, 5):
        x_adv = replace(attack, steps=steps)(standard_net, x_NCHW, y_N, threat, next(draws))
        assert torch.equal(fooled_SN[steps], standard_net(x_adv).argmax(1) != y_N)
    assert fooled_SN.shape == (6, 64)


class Counted(Defence):
    """Counts the images that pass through it."""

    images = 0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.images += len(x_NCHW)
        return self.net(x_NCHW)


@pytest.mark.parametrize("name", ["fgsm", "pgd-2", "pgd-20", "pgd-100", "pgd-640", "pgd-700", "apgd-ce", "square"])
def test_looking_at_survivors_costs_little(standard_net: nn.Module, images: Images, name: str) -> None:
    attack, threat, model = make_attack(name), make_threat("Linf", "0.01"), Counted(standard_net)
    standing_N = np.ones(len(images), dtype=bool)
    inspect_survivors(model, images, threat, [attack], standing_N, {name: standing_N}, [], seed=0, device=CPU)
    assert model.images <= 1.2 * PASSES  # besides those with a gradient there is one for each end
    assert bool(model.images) == (name not in ("pgd-700", "apgd-ce", "square"))


def test_survivors_are_not_asked_where_the_answer_means_nothing(standard_net: nn.Module, images: Images) -> None:
    attacks, randomised = [make_attack("pgd-2")], [Flag(code="randomised", message="x")]
    assert survivors_codes(standard_net, images, LINF, attacks, randomised) == []
    assert survivors_codes(Jpeg(standard_net), images, LINF, attacks) == []
    assert survivors_codes(standard_net, images, make_threat("Linf", "1"), [make_attack("pgd-10")]) == []  # nobody left


def test_looking_at_survivors_leaves_no_trace(standard_net: nn.Module, images: Images) -> None:
    model = nn.Sequential(nn.Dropout(0.5), standard_net)
    model.train()
    state, modes = torch.get_rng_state(), [part.training for part in model.modules()]
    found = [survivors_codes(model, images, LINF, [make_attack("pgd-2")]) for _ in range(2)]
    assert found[0] == found[1] == ["not_converged"]
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    standard_net.eval()


# -- the outcome


def outcome(n: int, gain: int) -> Evaluation:
    """Of n images all but one are right; Square fools `gain` after the white-box attacks."""
    clean_N = np.arange(n) > 0
    before, after = clean_N.mean(), (clean_N.sum() - gain) / n
    results = (member("apgd-ce", 1.0, before), member("square", before, after))
    return Evaluation(clean_N, {"autoattack": np.arange(n) > gain}, results, 1.0)


def member(name: str, before: float, after: float) -> AttackResult:
    return AttackResult(
        name=f"autoattack/{name}",
        params={},
        seed=0,
        engine="x",
        robust_before=float(before),
        robust_after=float(after),
        seconds=1.0,
        forward_passes=1,
    )


def judged(done: Evaluation, eps: str = "8/255", norm: str = "Linf") -> list[str]:
    return [flag.code for flag in judge_results(done.clean_N, done.robust, done.attacks, make_threat(norm, eps))]


@pytest.mark.parametrize(
    ("n", "gain", "fires"), [(10_000, 20, False), (10_000, 21, True), (256, 1, False), (256, 2, True), (64, 60, True)]
)
def test_square_beats_whitebox(n: int, gain: int, fires: bool) -> None:
    assert ("square_beats_whitebox" in judged(outcome(n, gain))) == fires


@pytest.mark.parametrize(
    ("n", "gain", "fires"), [(10_000, 20, False), (10_000, 21, True), (256, 1, False), (256, 2, True), (64, 60, True)]
)
def test_transfer_beats_whitebox(n: int, gain: int, fires: bool) -> None:
    """Of n images all but one are right; AutoAttack and PGD break some, transfer these and `gain` others."""
    clean_N, transfer_N = np.arange(n) > 0, np.arange(n) > gain
    pgd_N, autoattack_N = clean_N & (np.arange(n) < n - 1), clean_N & (np.arange(n) < n - 3)
    transfer_N[-3:] = False
    done = Evaluation(clean_N, {"pgd-20": pgd_N, "transfer": transfer_N, "autoattack": autoattack_N}, [])
    assert ("transfer_beats_whitebox" in judged(done)) == fires


@pytest.mark.parametrize(("broken", "fires"), [(0, True), (40, True), (60, False)])
def test_after_pgd_alone_transfer_may_break_some_more(broken: int, fires: bool) -> None:
    n, clean_N = 200, np.ones(200, dtype=bool)
    robust = {"pgd-20": np.arange(n) >= broken, "transfer": np.arange(n) < n - 5}
    assert ("transfer_beats_whitebox" in judged(Evaluation(clean_N, robust, []))) == fires
    assert "transfer_beats_whitebox" not in judged(Evaluation(clean_N, {**robust, "cw-20": robust["transfer"]}, []))
    black_box_only = {"transfer": robust["transfer"], "square": robust["pgd-20"]}
    assert "transfer_beats_whitebox" not in judged(Evaluation(clean_N, black_box_only, []))


def test_black_box_attacks_are_known_by_name() -> None:
    names = [name for name in ATTACKS.names() if "{" not in name]
    assert {name for name in names if ATTACKS[name].gradient_free} == GRADIENT_FREE


def all_right(n: int, fooled: Sequence[int] = ()) -> Evaluation:
    robust_N = np.ones(n, dtype=bool)
    robust_N[list(fooled)] = False
    return Evaluation(np.ones(n, dtype=bool), {"pgd-10": robust_N}, (), 1.0)


def test_clean_perfect_does_not_cry_wolf() -> None:
    assert judged(all_right(1000, fooled=range(1000))) == ["clean_perfect"]
    assert judged(all_right(360, fooled=range(360))) == []  # 360 digits may all be read
    assert judged(all_right(360)) == ["clean_perfect"]
    assert judged(all_right(360, fooled=[3])) == []
    assert judged(all_right(20)) == []  # too few to say anything
    clean_only = Evaluation(np.ones(360, dtype=bool), {}, (), 1.0)
    assert judged(clean_only) == []


@pytest.mark.parametrize("eps", ["0.031", "0.0314", "0.0157", "0.016", "0.0078", "0.0039", "0.0627"])
def test_eps_off_fires_on_rounded_radii(eps: str) -> None:
    assert judged(outcome(100, 0), eps) == ["eps_off"]


@pytest.mark.parametrize("eps", ["8/255", "4/255", "0.2", "0.3", "0.1", "0.03", "0.05", "0.5", "1e-3", "12/255"])
def test_eps_off_leaves_other_radii_alone(eps: str) -> None:
    assert judged(outcome(100, 0), eps) == []


def test_eps_off_is_about_linf() -> None:
    assert judged(outcome(100, 0), "0.031", "L2") == []


# -- as part of an evaluation


def test_an_interrupted_gradient_is_reported_not_a_crash(
    standard_net: nn.Module, digits: Dataset, images: Images, tmp_path: Path
) -> None:
    model = LoadedModel(Jpeg(standard_net), name="jpeg", arch="jpeg", source="here")
    machine = Machine(Home(tmp_path), CPU)
    threat = make_threat("Linf", "0.031")
    record = pipeline_evaluate(model, digits, threat, EvaluationRequest(("pgd-10", "fgsm"), n=16), machine).record
    assert [flag.code for flag in record.flags] == ["interrupted_graph", "eps_off"]
    assert record.metrics["pgd-10"] == record.metrics["clean_acc"]
    assert [result.robust_after for result in record.attacks] == [record.metrics["clean_acc"].value] * 2


def test_transfer_tells_of_masked_gradients(
    standard_net: nn.Module, robust_net: nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    """Images of a plain network break the same one with loud logits; honest ones have fallen to white-box attacks."""
    plain = LoadedModel(standard_net, name="plain", arch="x", source="here")
    threat, machine = make_threat("Linf", "0.2"), Machine(Home(tmp_path), CPU)
    request = EvaluationRequest(("pgd-20", "transfer"), surrogate=plain)
    for net, fires in ((Loud(standard_net), True), (standard_net, False), (robust_net, False)):
        model = LoadedModel(net, name="net", arch="x", source="here")
        found = [flag.code for flag in pipeline_evaluate(model, digits, threat, request, machine).record.flags]
        assert ("transfer_beats_whitebox" in found) == fires
        assert fires or found == []


def test_the_record_tells_of_survivors_and_changes_no_verdict(
    standard_net: nn.Module, digits: Dataset, tmp_path: Path
) -> None:
    model, machine = LoadedModel(standard_net, name="net", arch="x", source="here"), Machine(Home(tmp_path), CPU)
    records = [
        pipeline_evaluate(model, digits, LINF, EvaluationRequest(("pgd-2",), n=128, batch_size=size), machine).record
        for size in (500, 50)
    ]
    assert [flag.code for flag in records[0].flags] == ["not_converged"]
    assert records[0].flags == records[1].flags
    verdicts_N = evaluate(standard_net, digits.test.subset(torch.arange(128)), LINF, [make_attack("pgd-2")]).robust
    assert np.array_equal(records[0].samples.robust_N("pgd-2"), verdicts_N["pgd-2"])
    assert sum(result.forward_passes for result in records[0].attacks) < 128 * 4


def test_every_flag_is_explained() -> None:
    source = "".join(path.read_text() for path in Path(soundness.__file__).parent.glob("*.py"))
    raised = set(re.findall(r'Flag\(\s*code="(\w+)"', source))
    assert len(raised) >= 13
    assert raised <= MEANINGS.keys()


def test_autoattack_on_an_interrupted_gradient_leaves_it_to_square(standard_net: nn.Module, digits: Dataset) -> None:
    images = digits.test.subset(torch.arange(4))
    done = evaluate(Jpeg(standard_net), images, make_threat("Linf", "0.3"), [make_attack("autoattack")])
    *white_box, square = done.attacks
    assert [result.robust_after for result in white_box] == [done.clean_N.mean()] * 3
    assert square.robust_after < square.robust_before
    assert "square_beats_whitebox" in [
        flag.code for flag in judge_results(done.clean_N, done.robust, done.attacks, make_threat("Linf", "0.3"))
    ]
