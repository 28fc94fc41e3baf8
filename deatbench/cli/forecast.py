"""`--dry-run`: the resolved recipe, how many passes it means, and a guess at the time from a few real steps."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from deatbench import pipeline
from deatbench.attacks import make_attack
from deatbench.attacks.gradient import cross_entropy, input_gradient
from deatbench.cli.monitor import clock
from deatbench.config import RunConfig, dump_config
from deatbench.data import Dataset, load_dataset
from deatbench.engine.execution import Execution
from deatbench.engine.plan import Plan
from deatbench.engine.search import Search, strict_float32
from deatbench.engine.state import TrainState
from deatbench.engine.step import FREE_STEPS, Step

# AutoAttack's members see survivors only. Of the passes it might make it makes about the share that it leaves robust,
# to 0.04 in the records of model_zoo/: 0.25 to 0.37 on CIFAR-10, 0.3 to 0.74 on digits, 0.02 untrained for it.
SURVIVORS = 0.4
PROBE_IMAGES = 128
PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Stage:
    """A part of the work: images that pass forward (times the passes each costs), and the seconds they take at most.

    `expected`: those seconds if SURVIVORS of the images that members of a suite might see are left for them.
    """

    name: str
    passes: int
    seconds: float
    expected: float
    how: str


def print_forecast(configs: Sequence[RunConfig], machine: pipeline.Machine, as_json: bool) -> None:
    """Recipe and forecast on stdout: YAML whose comments are the forecast, or one JSON document. Writes no file."""
    config = configs[0]
    data = load_dataset(config.dataset, machine.data_dir, val_fraction=config.val_fraction, download=False)
    stages = stages_of(config, data, machine.device)
    seconds = len(configs) * sum(stage.seconds for stage in stages)
    expected = len(configs) * sum(stage.expected for stage in stages)
    if as_json:
        document = {
            "config": config.model_dump(mode="json"),
            "seeds": [config.seed for config in configs],
            "stages": [asdict(stage) for stage in stages],
            "seconds": seconds,
            "expected": expected,
        }
        print(json.dumps(document, indent=1))
        return
    sys.stdout.write(dump_config(config))
    print(f"# run {', '.join(config.run_id for config in configs)}")
    for stage in stages:
        print(f"# {stage.name}: {stage.passes:,} image passes ({stage.how}), about {clock(stage.seconds)}")
    in_all = f"about {clock(expected)}, at most {clock(seconds)}"
    print(f"# in all {in_all} on {machine.device}: a forecast from a few steps; fooled images cost less")


def stages_of(config: RunConfig, data: Dataset, device: torch.device) -> list[Stage]:
    """Training, validation and evaluation of one seed."""
    plan, state = pipeline.prepare(config, data, device)
    step = _time_step(plan, state)
    forward, gradient = _time_attack(plan, state)
    images = config.epochs * plan.batches_per_epoch * config.batch_size
    cost = plan.method.passes(plan.inner)
    seconds = config.epochs * plan.batches_per_epoch * step
    how = f"{config.epochs} epochs x {plan.batches_per_epoch} batches x {config.batch_size} images x {cost:g}"
    stages = [Stage("training", round(images * cost), seconds, seconds, how)]
    checked = config.epochs * (len(data.val) + max(len(data.val), 100))
    steps = plan.inner.steps
    how = f"{config.epochs} epochs x {checked // config.epochs} images x (1 + pgd-{steps})"
    seconds = checked * (forward + steps * gradient)
    stages.append(Stage("validation", checked * (1 + steps), seconds, seconds, how))
    evaluation = config.evaluation
    further = {"ema": config.ema > 0, "swa": config.swa_start is not None, "shifted": config.shifted}
    others = ("last", *(name for name, kept in further.items() if kept))
    for checkpoint, names in (("best", evaluation.attacks), *((name, evaluation.last_attacks) for name in others)):
        stages.append(_evaluation(checkpoint, names, config, data, forward, gradient))
    return stages


def _evaluation(
    checkpoint: str, names: Sequence[str], config: RunConfig, data: Dataset, forward: float, gradient: float
) -> Stage:
    n = min(config.evaluation.n or len(data.test), len(data.test))
    passes, seconds, expected = n, n * forward, n * forward
    for members in (make_attack(name).members(config.threat.norm) for name in names):
        for member in members:
            images = n * member.passes(data.num_classes) * member.runs
            cost = images * (forward if member.gradient_free else gradient)
            passes += images
            seconds += cost
            expected += cost * (SURVIVORS if len(members) > 1 else 1)
    how = f"{n} test images x {', '.join(('clean', *names))}, at most"
    return Stage(f"evaluation of {checkpoint}", passes, seconds, expected, how)


def _time_step(plan: Plan, state: TrainState) -> float:
    """Seconds of one training step, on random images."""
    x_NCHW, y_N = _random_batch(plan, min(plan.config.batch_size, len(plan.data.train)))
    step = Step(plan, state, execution=Execution(compile="off"))  # compiling would take longer than the rest
    position = math.ceil(plan.config.eps_warmup * plan.batches_per_epoch)  # while eps grows no step is captured
    for _ in range(FREE_STEPS if plan.device.type == "cuda" else 0):
        step(x_NCHW, y_N, position, plan.peak_lr)
    return _seconds(lambda: step(x_NCHW, y_N, position, plan.peak_lr), plan.device)


def _time_attack(plan: Plan, state: TrainState) -> tuple[float, float]:
    """Seconds per image of a forward pass, and of one with its input gradient, of what attacks search on."""
    n = min(PROBE_IMAGES, plan.config.evaluation.batch_size or PROBE_IMAGES)
    x_NCHW, y_N = _random_batch(plan, n)
    model: torch.nn.Module = state.model.eval().requires_grad_(False)
    search = Search(plan.config.evaluation.precision)
    if plan.config.evaluation.engine == "fast":
        model = search.form(model, x_NCHW)

    def forward() -> None:
        with torch.no_grad():
            model(x_NCHW)

    def gradient() -> None:
        input_gradient(model, x_NCHW, y_N, cross_entropy)

    with strict_float32(), search.arithmetic():
        return _seconds(forward, plan.device) / n, _seconds(gradient, plan.device) / n


def _random_batch(plan: Plan, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_NCHW = torch.rand(n, *plan.data.image_shape, generator=generator).to(plan.device)
    y_N = torch.randint(plan.data.num_classes, (n,), generator=generator).to(plan.device)
    return x_NCHW.contiguous(memory_format=torch.channels_last), y_N


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """The fastest of a few repeats within about PROBE_SECONDS, after one to warm up."""
    work()
    times: list[float] = []
    while len(times) < 3 and sum(times) < PROBE_SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
