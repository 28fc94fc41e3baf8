"""Options of all methods: averages of weights, a radius that warms up, learning-rate scaling; and honest selection."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import run
from torch import Tensor

from deatbench.config import RunConfig
from deatbench.data import Dataset, load_dataset
from deatbench.engine import train as engine_train
from deatbench.engine.plan import Plan
from deatbench.engine.seeding import derive
from deatbench.engine.state import TrainState
from deatbench.engine.validation import chosen
from deatbench.errors import ConfigError, MissingError
from deatbench.methods import METHODS
from deatbench.models.runs import trained_model
from deatbench.pipeline import Machine, configure, prepare
from deatbench.pipeline import run as run_and_publish
from deatbench.records import Accuracies, EvaluationRecord, ModelCard, TrainingRecord
from deatbench.store import Home, RunFolder, read_record

CPU = torch.device("cpu")


def config(*overrides: str, method: str = "pgd-at") -> RunConfig:
    return configure(arch="resnet8", method=method, dataset="digits", recipe="digits", overrides=overrides, device=CPU)


def plan_of(*overrides: str) -> Plan:
    return prepare(config(*overrides), load_dataset("digits", val_fraction=0.1), CPU)[0]


# -- averages of weights, the shifted point


def test_the_shifted_point_is_kept_measured_and_evaluated(tmp_path: Path) -> None:
    folder = run(tmp_path, "deat-ema", more=["shifted=true", "schedule.name=constant"])  # at rate 0 there is no shift
    last, shifted = load_file(folder.weights("last")), load_file(folder.weights("shifted"))
    assert any(not torch.equal(last[key], shifted[key]) for key in last if key.endswith("weight"))
    record = read_record(folder.training, TrainingRecord)
    assert record.weights.keys() == record.validation.keys() == {"best", "last", "ema", "shifted"}
    assert record.chosen != "shifted"
    assert record.validation["shifted"].clean_acc > 0.2  # with statistics of its own it is a network like the others


def test_only_deat_has_a_shifted_point() -> None:
    with pytest.raises(ConfigError, match="sgd has no shifted point"):
        config("shifted=true")
    assert config("shifted=true", method="deat").digest != config(method="deat").digest


def test_swa_is_the_mean_over_epochs_with_statistics_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[dict[str, Tensor]] = []
    close = engine_train._close_epoch

    def watching(state: TrainState, *rest: Any) -> None:
        after.append({key: value.clone() for key, value in state.model.state_dict().items()})
        close(state, *rest)

    monkeypatch.setattr(engine_train, "_close_epoch", watching)
    folder = run(tmp_path, "deat-swa")  # three epochs, from a quarter of them on
    swa, last = load_file(folder.weights("swa")), load_file(folder.weights("last"))
    weights = [key for key in swa if "running" not in key and "num_batches" not in key]
    for key in weights:
        mean = torch.stack([state[key].double() for state in after]).mean(0)
        torch.testing.assert_close(swa[key].double(), mean, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(swa[key], last[key]) for key in weights)

    record = read_record(folder.training, TrainingRecord)
    module = trained_model(folder, "swa", CPU).module
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    data = load_dataset("digits", val_fraction=record.config["val_fraction"])
    inputs: list[Tensor] = []
    norms[0].register_forward_pre_hook(lambda part, given: inputs.append(given[0]))
    for x_NCHW, _ in data.train.batches(torch.arange(len(data.train)).split(500), CPU):
        module(x_NCHW)
    seen = torch.cat(inputs).transpose(0, 1).flatten(1)  # the first norm sees what does not depend on statistics
    torch.testing.assert_close(norms[0].running_mean, seen.mean(1), rtol=0.02, atol=0.01)
    torch.testing.assert_close(norms[0].running_var, seen.var(1), rtol=0.05, atol=0.01)


def test_ema_follows_its_formula() -> None:
    plan, state = prepare(config("ema=0.75", "batch_size=32"), load_dataset("digits", val_fraction=0.1), CPU)
    step = engine_train.Step(plan, state)
    assert state.ema is not None
    expected: list[Tensor] = []
    for position, (x_NCHW, y_N) in enumerate(plan.data.train.batches(torch.arange(96).split(32), CPU)):
        step(x_NCHW, y_N, position, 0.1)
        now = [weight.detach().clone() for weight in state.model.parameters()]
        expected = now if position == 0 else [0.75 * e + 0.25 * w for e, w in zip(expected, now, strict=True)]
    for average, by_hand in zip(state.ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(average.detach(), by_hand, rtol=1e-5, atol=1e-7)


# -- selection


def of(clean: float, robust: float) -> Accuracies:
    return Accuracies(clean_acc=clean, robust_acc=robust)


def test_validation_chooses_what_is_published() -> None:
    adversarial, standard = METHODS["pgd-at"](), METHODS["standard"]()
    measured: dict[Any, Accuracies] = {"best": of(0.9, 0.5), "last": of(0.9, 0.9), "ema": of(0.8, 0.6)}
    assert chosen(adversarial, measured) == "ema"
    assert chosen(standard, measured) == "best"
    assert chosen(adversarial, {"best": of(0.9, 0.5), "last": of(0.9, 0.4), "swa": of(0.9, 0.5)}) == "best"
    assert chosen(adversarial, {}) == "best"


def test_every_kept_set_of_weights_is_evaluated_and_the_chosen_one_published(tmp_path: Path) -> None:
    plan = ["evaluation.n=40", "evaluation.attacks=[pgd-5]", "evaluation.last_attacks=[pgd-2]"]
    short = ["epochs=2", "batch_size=128", "attack.steps=2", "arch.width=0.125", "ema=0.9", "swa_start=0"]
    done = run_and_publish(config(*plan, *short), Machine(Home(tmp_path), CPU))
    by_name = {record.training.checkpoint: record for record in done.evaluations if record.training}
    assert by_name.keys() == done.training.weights.keys() == done.training.validation.keys()
    assert by_name.keys() == {"best", "last", "ema", "swa"}
    for name, record in by_name.items():
        wanted = "pgd-5" if name == done.training.chosen else "pgd-2"
        assert [attack.name for attack in record.attacks] == [wanted]
        gap = record.generalisation
        assert gap is not None
        assert (gap.attack, gap.n) == ("pgd-2", 360)
        assert gap.robust_gap == gap.train_robust_acc - gap.test_robust_acc
    card = read_record(done.zoo_entry / "card.json", ModelCard)
    assert card.checkpoint == done.training.chosen
    assert card.weights_sha256 == done.training.weights[done.training.chosen]
    throughput = done.training.throughput
    assert throughput is not None
    assert throughput.forwards_per_second == pytest.approx(7 * throughput.images_per_second, rel=1e-3)
    assert 50 < throughput.peak_memory_mb < 100_000
    stored = [read_record(path, EvaluationRecord) for path in (done.zoo_entry / "evaluations").glob("*.json")]
    assert {record.id for record in stored} == {record.id for record in done.evaluations}


def test_weights_that_were_not_kept(tmp_path: Path) -> None:
    folder = run(tmp_path, "deat-ema")
    with pytest.raises(MissingError, match="no swa weights"):
        trained_model(RunFolder(folder.path), "swa", CPU)


# -- the inner attack and the learning rate


def test_the_radius_grows_over_the_warm_up() -> None:
    plan = plan_of("eps_warmup=2", "batch_size=128")
    count = plan.batches_per_epoch
    radii = [plan.inner_at(position)[0].threat.eps for position in range(3 * count)]
    assert radii[0] == pytest.approx(0.2 / (2 * count))
    assert radii[: 2 * count] == pytest.approx([0.2 * (i + 1) / (2 * count) for i in range(2 * count)])
    assert set(radii[2 * count - 1 :]) == {0.2}
    assert [plan.inner_at(position)[1] for position in (0, 2 * count - 1)] == [False, True]
    assert plan_of().inner_at(0) == (plan_of().inner, True)


def test_linear_scaling_of_the_learning_rate() -> None:
    assert plan_of("optimizer.lr=0.1", "batch_size=64").peak_lr == 0.1
    assert plan_of("optimizer.lr=0.1", "batch_size=64", "lr_batch=128").peak_lr == pytest.approx(0.05)


def test_an_option_at_its_default_leaves_the_run_its_name() -> None:
    """Runs that were published before these options existed keep their names."""
    assert config().run_id == config("label_smoothing=0", "eps_warmup=0", "guard=flag").run_id
    different = {config(setting).digest for setting in ("label_smoothing=0.1", "swa_start=0.5", "guard=stop")}
    assert len(different | {config().digest}) == 4


def test_published_runs_keep_their_names() -> None:
    cards = sorted((Path(__file__).resolve().parents[2] / "model_zoo").glob("*/*/*/card.json"))
    assert cards
    for path in cards:
        training = read_record(path, ModelCard).training
        assert RunConfig.model_validate(training.config).run_id == training.id


@pytest.mark.parametrize(("smoothing", "images"), [(0.0, "none"), (0.3, "none"), (0.0, "cutmix"), (0.3, "cutmix")])
def test_label_smoothing_and_mixed_labels_reach_the_loss(smoothing: float, images: str, digits: Dataset) -> None:
    """The first loss of a run is the formula's, on the images and labels that its augmentation draws."""
    asked = config("batch_size=32", f"label_smoothing={smoothing}", f"augment={images}", method="standard")
    plan, state = prepare(asked, digits, CPU)
    ((x_NCHW, y_N),) = plan.data.train.batches([torch.arange(32)], CPU)
    generator = torch.Generator().manual_seed(derive(asked.seed, "batch", 0))
    seen = plan.augment(x_NCHW, y_N, generator)
    with torch.no_grad():
        log_shares_NK = copy.deepcopy(state.model).train()(seen.x_NCHW).log_softmax(1)

    def smooth(labels_N: Tensor) -> Tensor:
        right_N = log_shares_NK[torch.arange(32), labels_N]
        return -(1 - smoothing) * right_N - smoothing * log_shares_NK.mean(1)

    expected_N = smooth(y_N)
    if seen.other_N is not None and seen.share_N is not None:
        expected_N = seen.share_N * expected_N + (1 - seen.share_N) * smooth(seen.other_N)
    assert (seen.other_N is None) == (images == "none")
    engine_train.Step(plan, state)(x_NCHW, y_N, 0, 0.1)
    assert float(state.totals[1] / state.totals[0]) == pytest.approx(float(expected_N.mean()), rel=1e-4)
