"""The training step in all its forms against a plain loop, and the attack's network against the network itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from watched_calls import calls_of

from deatbench.archs.build import build_arch
from deatbench.attacks.gradient import cross_entropy, input_gradient
from deatbench.attacks.rng import BatchRng
from deatbench.config import RunConfig
from deatbench.data import Dataset
from deatbench.data.augment import augment
from deatbench.engine.attack_threads import AttackThreads
from deatbench.engine.execution import Execution
from deatbench.engine.forms import Forms
from deatbench.engine.interruption import Stopped
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.scripted import ScriptedForm
from deatbench.engine.search import Search
from deatbench.engine.seeding import derive, epoch_order, seed_everything
from deatbench.engine.selfcheck import check_gradient
from deatbench.engine.shadow import AttackForm
from deatbench.engine.state import TrainState
from deatbench.engine.step import Step
from deatbench.errors import ConfigError, DeatbenchError
from deatbench.methods import METHODS, Batch
from deatbench.methods.base import Inner
from deatbench.optim import OPTIMIZERS
from deatbench.records import ModelSpec
from deatbench.threats import make_threat

STEPS, BATCH = 50, 16
ARCHS = {"resnet8": 0.5, "preact_resnet18": 0.0625}


class Notes(Monitor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def make(
    data: Dataset,
    method: str = "pgd-at",
    arch: str = "resnet8",
    *,
    bn_mode: Any = "eval",
    ema: float = 0.0,
    precision: str = "fp32",
    device: str = "cpu",
) -> tuple[Plan, TrainState]:
    """A fresh run; the same arguments give the same one."""
    config = RunConfig.model_validate(
        {"arch": arch, "dataset": "digits", "method": method, "batch_size": BATCH, "precision": precision}
    )
    spec = ModelSpec(
        arch=arch,
        params={"width": ARCHS[arch]},
        num_classes=10,
        in_channels=1,
        image_size=8,
        mean=(0.3,),
        std=(0.38,),
    )
    torch.manual_seed(0)
    model = build_arch(**spec.model_dump(exclude={"arch", "params"}), name=spec.arch, **spec.params)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[METHODS[method].optimizer](model.parameters(), lr=0.1)
    plan = Plan(
        config=config,
        method=METHODS[method](**METHODS.bind(method, {})),
        inner=Inner(make_threat("Linf", "0.1"), 3, 0.5, True, bn_mode),
        data=data,
        spec=spec,
        augment=augment("crop"),
        device=torch.device(device),
        peak_lr=0.1,
    )
    return plan, TrainState.fresh(model, optimizer, ema)


def batches(data: Dataset, steps: int, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    order = epoch_order(len(data.train), 0, 0)
    return list(data.train.batches(list(order.split(BATCH))[:steps], torch.device(device)))


def rate(t: int) -> float:
    """A learning rate that moves: a step that froze it would show."""
    return 0.005 * (1 + t % 3)


def plain(plan: Plan, state: TrainState, steps: int) -> list[float]:
    """The losses of the loop that everybody writes: no shadow, no static memory, nothing compiled."""
    losses, memory = [], {}  # type: tuple[list[float], dict[str, Tensor]]
    generator = torch.Generator(plan.device)
    for t, (x_NCHW, y_N) in enumerate(batches(plan.data, steps, plan.device.type)):
        seed_everything(plan.config.seed, "step", t)
        generator.manual_seed(derive(plan.config.seed, "batch", t))
        x_NCHW = plan.augment(x_NCHW, y_N, generator).x_NCHW.contiguous(memory_format=torch.channels_last)
        for group in state.optimizer.param_groups:
            group["lr"] = rate(t)
        state.model.train()
        total = 0.0
        memory = memory or plan.method.memory(x_NCHW)
        batch = Batch(x_NCHW, y_N, BatchRng(generator), memory=memory)
        for _ in range(plan.method.replays):
            state.optimizer.zero_grad()
            loss = plan.method.step(state.model, batch, plan.inner).loss
            state.optimizer.step()
            if state.ema is not None:
                state.ema.update_parameters(state.model)
            total += loss.item()
        losses.append(total)
    return losses


def stepped(plan: Plan, state: TrainState, steps: int, monitor: Monitor | None = None, **how: Any) -> list[float]:
    """The losses of our step in the form that `how` asks for."""
    step = Step(plan, state, monitor, Execution(**how))
    losses, before = [], torch.zeros_like(state.totals)
    for t, (x_NCHW, y_N) in enumerate(batches(plan.data, steps, plan.device.type)):
        step(x_NCHW, y_N, t, rate(t))
        losses.append(float((state.totals - before)[1] / len(y_N)))
        before = state.totals.clone()
    return losses


def assert_same_course(ours: list[float], theirs: list[float], tight: int, rel: float, loose: float) -> None:
    """Equal to rounding for `tight` steps; later a sign that flips at a gradient near zero has been amplified."""
    assert len(ours) == len(theirs)
    assert ours[:tight] == pytest.approx(theirs[:tight], rel=rel)
    assert ours == pytest.approx(theirs, rel=loose)
    assert sum(ours[-10:]) == pytest.approx(sum(theirs[-10:]), rel=0.05)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("method", ["pgd-at", "trades", "deat"])
def test_losses_are_those_of_a_plain_loop(method: str, arch: str, digits: Dataset) -> None:
    """TRADES climbs from a point where its gradient is nearly zero: there rounding decides signs from the start."""
    ours = stepped(*make(digits, method, arch, ema=0.9), STEPS)
    theirs = plain(*make(digits, method, arch, ema=0.9), STEPS)
    assert_same_course(ours, theirs, *((3, 0.02, 0.2) if method == "trades" else (10, 1e-4, 0.1)))
    assert len(set(ours)) == STEPS


@pytest.mark.parametrize("method", sorted(set(METHODS.names()) - {"pgd-at", "trades", "deat"}))
def test_the_first_losses_of_every_method_are_those_of_a_plain_loop(method: str, digits: Dataset) -> None:
    ours = stepped(*make(digits, method, "resnet8", ema=0.9), 6)
    assert ours == pytest.approx(plain(*make(digits, method, "resnet8", ema=0.9), 6), rel=2e-3)


@pytest.mark.parametrize(("how", "bn_mode"), [({"fold": "off"}, "eval"), ({}, "train")])
def test_without_a_shadow_every_bit_is_the_plain_loops(how: dict[str, str], bn_mode: str, digits: Dataset) -> None:
    ours, theirs = make(digits, "trades", bn_mode=bn_mode), make(digits, "trades", bn_mode=bn_mode)
    assert stepped(*ours, 6, **how) == plain(*theirs, 6)
    for a, b in zip(ours[1].model.state_dict().values(), theirs[1].model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", METHODS.names())
def test_static_memory_changes_no_bit(method: str, digits: Dataset) -> None:
    """The path of a CUDA graph, without the graph: drawn ahead, copied into buffers, averaged without a look."""
    free, static = make(digits, method, ema=0.9), make(digits, method, ema=0.9)
    assert stepped(*free, 8) == stepped(*static, 8, graph="on")
    averages = [state.dump()["averages"]["ema"].values() for _, state in (free, static)]
    for a, b in zip(*averages, strict=True):
        assert torch.equal(a, b)


def test_statistics_are_counted(digits: Dataset) -> None:
    plan, state = make(digits, "trades")
    stepped(plan, state, 4)
    images, _, clean, clean_seen, robust, robust_seen = state.totals.tolist()
    assert images == clean_seen == robust_seen == 4 * BATCH
    assert 0 <= robust <= images
    assert 0 <= clean <= images


# -- the attack's network


NETS = [
    ("preact_resnet18", {"width": 0.0625}, 1e-5),
    ("preact_resnet50", {"width": 0.0625}, 1e-5),
    ("resnet20", {"width": 0.5}, 1e-5),
    ("senet18", {"width": 0.0625}, 1e-5),
    ("vgg16", {"width": 0.0625}, 1e-5),
    ("wrn_16_4", {"width": 0.125}, 1e-5),
    ("timm/resnet18", {}, 1e-5),
]


def updated(model: nn.Module, form: AttackForm, steps: int) -> None:
    """Weights and running statistics move; the form hears of it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.rand(8, 3, 16, 16)), torch.randint(10, (8,))).backward()
        optimizer.step()
    form.refresh()
    model.eval()


@pytest.mark.parametrize(("arch", "params", "tolerance"), NETS)
@pytest.mark.parametrize("channels", [0, 8])
def test_attack_form_is_the_network(arch: str, params: dict[str, Any], tolerance: float, channels: int) -> None:
    torch.manual_seed(0)
    model = build_arch(
        arch, num_classes=10, in_channels=3, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), **params
    )
    modes = [part.training for part in model.modules()]
    form = AttackForm(model, channels=channels)
    assert [part.training for part in model.modules()] == modes
    addresses = [tensor.data_ptr() for tensor in form.state_dict().values()]
    updated(model, form, 3)
    assert [tensor.data_ptr() for tensor in form.state_dict().values()] == addresses
    x_NCHW, y_N = torch.rand(8, 3, 16, 16), torch.randint(10, (8,))
    with torch.no_grad():
        expected, found = model(x_NCHW), form(x_NCHW)
    assert (expected - found).abs().max() <= tolerance * expected.abs().max()
    assert check_gradient(form, model, x_NCHW, y_N).cosine > 0.9999
    input_gradient(form, x_NCHW, y_N, cross_entropy)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in form.parameters())


def test_a_stale_form_is_another_network() -> None:
    """What the test above relies on: three updates do change the logits."""
    torch.manual_seed(0)
    model = build_arch("resnet8", num_classes=10, in_channels=3, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    form = AttackForm(model)
    stale = copy.deepcopy(form)
    updated(model, form, 3)
    x_NCHW = torch.rand(4, 3, 16, 16)
    assert (form(x_NCHW) - stale(x_NCHW)).abs().max() > 1e-2


def test_bfloat16_form_is_near_and_normalises_in_float32() -> None:
    torch.manual_seed(0)
    model = build_arch(
        "preact_resnet18", num_classes=10, in_channels=3, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3, width=0.0625
    )
    form = AttackForm(model, torch.bfloat16, channels=8)
    updated(model, form, 3)
    x_NCHW, y_N = torch.rand(8, 3, 16, 16), torch.randint(10, (8,))
    assert form(x_NCHW).dtype == torch.float32
    agreement = check_gradient(form, model, x_NCHW, y_N)
    assert 0.95 < agreement.cosine < 0.999999
    assert input_gradient(form, x_NCHW, y_N, cross_entropy).dtype == torch.float32


def test_a_wrong_gradient_is_noticed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    other = copy.deepcopy(model)
    nn.init.normal_(other[4].weight)
    with pytest.raises(DeatbenchError, match="not the network's"):
        check_gradient(other, model, torch.rand(8, 1, 8, 8), torch.arange(8))


class Untraceable(nn.Module):
    """Takes a way that depends on the pixels, as torch.fx cannot follow."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW) if x_NCHW.mean() > 0 else -self.net(x_NCHW)


def test_what_cannot_be_traced_is_trained_all_the_same(digits: Dataset) -> None:
    courses, notes = [], Notes()
    for course in (lambda p, s: stepped(p, s, 3, notes), lambda p, s: plain(p, s, 3)):
        plan, state = make(digits)
        state.model = Untraceable(state.model)
        courses.append(course(plan, state))
    assert courses[0] == courses[1]
    assert len(notes.lines) == 1
    assert notes.lines[0].startswith("training without the folded attack form: TraceError")


def test_a_step_that_cannot_be_captured_runs_freely(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    theirs = stepped(*make(digits), 6)
    monkeypatch.setattr("deatbench.engine.step.CapturedStep", fails)
    notes = Notes()
    assert stepped(*make(digits), 6, notes, graph="on") == theirs
    assert notes.lines == [
        "training without the CUDA graph of the step: RuntimeError: operation not permitted when stream is capturing"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pgd-at", "trades"])
def test_compiled_forms_take_the_same_course(method: str, digits: Dataset) -> None:
    notes = Notes()
    ours = stepped(*make(digits, method), 8, notes, compile="on", graph="on")
    assert not notes.lines
    assert ours == pytest.approx(plain(*make(digits, method), 8), rel=1e-3)


@pytest.mark.parametrize("method", METHODS.names())
def test_a_scripted_attack_changes_no_bit(method: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, notes = calls_of(monkeypatch, ScriptedForm, "_vjp"), Notes()
    ours = stepped(*make(digits, method, "preact_resnet18"), 8, notes)
    assert len(passes) > 8 or not METHODS[method].asks_network
    assert not notes.lines
    made = len(passes)
    assert stepped(*make(digits, method, "preact_resnet18"), 8, script="off") == ours
    assert len(passes) == made


def test_large_networks_are_not_scripted(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, state = make(digits)
    forms = Forms(plan, state.model, Execution(), Monitor())
    x_NCHW, y_N = batches(digits, 1)[0]
    batch = Batch(x_NCHW, y_N, BatchRng(torch.Generator()))
    forms.prepare(batch)
    assert isinstance(forms.search, ScriptedForm)
    monkeypatch.setattr("deatbench.engine.forms.MOST_FLOPS", 1000)
    forms.prepare(batch)
    assert isinstance(forms.search, AttackForm)


def test_what_cannot_be_scripted_is_trained_all_the_same(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("Arguments for call are not valid.\nmore")

    theirs = stepped(*make(digits), 3)
    monkeypatch.setattr("torch.jit.script", fails)
    notes = Notes()
    assert stepped(*make(digits), 3, notes) == theirs
    assert notes.lines == ["training without the scripted attack: RuntimeError: Arguments for call are not valid."]


# -- the switches


def test_execution_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEATBENCH_STEP", "compile=attack graph=off channels=4")
    assert Execution.from_environment() == Execution(compile="attack", graph="off", channels="4")
    monkeypatch.delenv("DEATBENCH_STEP")
    assert Execution.from_environment() == Execution()


@pytest.mark.parametrize(
    ("text", "hint"), [("compile=maybe", "auto|on|off|attack"), ("speed=11", "graph"), ("x", "fold")]
)
def test_unknown_switches_are_refused(text: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEATBENCH_STEP", text)
    with pytest.raises(ConfigError) as caught:
        Execution.from_environment()
    assert hint in caught.value.hint


# -- on the GPU


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers and drivers talk
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("method", METHODS.names())
def test_captured_steps_take_the_course_of_free_ones(
    method: str, arch: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    notes = Notes()
    common: dict[str, Any] = {"device": "cuda", "ema": 0.9}
    ours = stepped(*make(digits, method, arch, **common), 30, notes, compile="off", graph="on")
    assert any("captured" in line for line in notes.lines), notes.lines
    free = stepped(*make(digits, method, arch, **common), 30, compile="off", graph="off")
    assert ours[:8] == pytest.approx(free[:8], rel=0.02 if method == "trades" else 1e-3)
    assert ours == pytest.approx(free, rel=0.2)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers and drivers talk
def test_what_waits_for_the_device_is_left_out_of_a_graph(digits: Dataset) -> None:
    """A projection in L1 does. Others are captured as ever, which a capture that fails would forbid."""
    plan, state = make(digits, "pgd-at", "preact_resnet18", device="cuda")
    waiting, notes = replace(plan, inner=replace(plan.inner, threat=make_threat("L1", "2"))), Notes()
    assert all(loss < 10 for loss in stepped(waiting, state, 6, notes, compile="off", graph="on"))
    assert [line for line in notes.lines if "without the CUDA graph" in line], notes.lines
    notes = Notes()
    stepped(*make(digits, "pgd-at", "preact_resnet18", device="cuda"), 6, notes, compile="off", graph="on")
    assert any("captured" in line for line in notes.lines), notes.lines


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers and drivers talk
def test_a_search_in_tf32_has_folded_batch_norm(digits: Dataset) -> None:
    _, state = make(digits, "pgd-at", "preact_resnet18", device="cuda")
    search = Search("tf32")
    with search.arithmetic():
        ((x_NCHW, _),) = digits.test.batches([torch.arange(32)], torch.device("cuda"))
        form = search.form(state.model.eval(), x_NCHW)
    assert isinstance(form.cheap, AttackForm)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers and drivers talk
@pytest.mark.parametrize("method", ["pgd-at", "trades", "deat"])
def test_every_fast_path_works_in_bfloat16(method: str, digits: Dataset) -> None:
    notes = Notes()
    ours = stepped(*make(digits, method, "preact_resnet18", device="cuda", precision="bf16"), 30, notes)
    assert not [line for line in notes.lines if "without" in line], notes.lines
    free = stepped(*make(digits, method, "preact_resnet18", device="cuda"), 30, compile="off", graph="off", fold="off")
    assert ours[:3] == pytest.approx(free[:3], rel=0.1)
    assert sum(ours[-5:]) == pytest.approx(sum(free[-5:]), rel=0.25)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("method", METHODS.names())
def test_threads_that_part_a_batch_find_what_one_finds(method: str, digits: Dataset) -> None:
    """Draws, memory and the generator afterwards too; pixels may differ where rounding decides a sign."""
    plan, state = make(digits, method, "preact_resnet18")
    form, found = AttackForm(state.model), []
    x_NCHW, y_N = batches(digits, 1)[0]
    for threads in (None, AttackThreads(10**9)):
        generator = torch.Generator().manual_seed(3)
        batch = Batch(x_NCHW, y_N, BatchRng(generator), memory=plan.method.memory(x_NCHW))
        run = plan.method.perturb if threads is None else partial(threads.perturb, plan.method)
        x_adv_NCHW = run(form, batch, plan.inner)
        found.append((x_adv_NCHW, batch.memory, torch.rand(4, generator=generator)))
    (alone, memory_alone, then_alone), (parted, memory_parted, then_parted) = found
    assert float(((alone - parted).abs() > 1e-5).double().mean()) < 0.01
    assert memory_alone.keys() == memory_parted.keys()
    assert all(torch.equal(memory_alone[name], memory_parted[name]) for name in memory_alone)
    assert torch.equal(then_alone, then_parted)


def test_a_batch_that_cannot_be_parted_is_left_whole() -> None:
    threads = AttackThreads(10**7)
    threads.count = 2
    assert [threads.divide(n) for n in (198, 199, 200, 201, 202)] == [False, False, True, False, True]
    threads.flops = 10**9
    assert [threads.divide(n) for n in (30, 32)] == [False, True]
    threads.count = 1
    assert not threads.divide(200)


@pytest.mark.usefixtures("two_threads")
def test_a_step_with_threads_takes_the_course_of_one_without(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, asked, perturb = [], [], AttackThreads.perturb

    def counting(*arguments: Any) -> Tensor:
        asked.append(arguments)
        return perturb(*arguments)

    monkeypatch.setattr(AttackThreads, "perturb", counting)
    for parts in (False, True):
        monkeypatch.setattr(AttackThreads, "divide", lambda self, images, parts=parts: parts)
        losses.append(stepped(*make(digits, "deat", "preact_resnet18"), 20, script="off"))
    assert len(asked) == 20
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1][:3] == pytest.approx(losses[0][:3], rel=1e-3)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("error", [Stopped, ArithmeticError])
def test_what_ends_one_thread_ends_all(error: type[BaseException], digits: Dataset) -> None:
    """No thread may be at work any more when the state is saved, and the first error is the one that is told."""
    plan, state = make(digits, "pgd-at", "resnet8")
    asked = []

    class Failing(nn.Module):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            asked.append(len(x_NCHW))
            if len(asked) >= 3:
                raise error
            return state.model(x_NCHW)

    x_NCHW, y_N = batches(digits, 1)[0]
    inner = replace(plan.inner, steps=1000)
    with pytest.raises(error):
        AttackThreads(1).perturb(plan.method, Failing(), Batch(x_NCHW, y_N, BatchRng(torch.Generator())), inner)
    seen = len(asked)
    time.sleep(0.2)
    assert len(asked) == seen < 1000
