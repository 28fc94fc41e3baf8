"""AutoAttack driven by the engine gives the verdicts of pyautoattack called directly: same seed, same batches."""

from __future__ import annotations

import random
import sys
from types import FrameType

import numpy as np
import pyautoattack
import pytest
import torch
from small_nets import PublishedNet
from torch import nn

from deatbench.attacks import make_attack
from deatbench.attacks.autoattack import STANDARD
from deatbench.data import Dataset, Images
from deatbench.engine.evaluate import Evaluation, Settings, evaluate
from deatbench.errors import ConfigError
from deatbench.threats import ThreatModel, make_threat

CPU = torch.device("cpu")


def direct(model: nn.Module, images: Images, threat: ThreatModel, seed: int, batch_size: int) -> np.ndarray:
    """Verdicts of the published suite, by its own loop."""
    (batch,) = images.batches([torch.arange(len(images))], CPU)
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[]):
        suite = pyautoattack.AutoAttack(model, norm=threat.norm, eps=threat.eps, seed=seed, version="standard")
        x_adv_NCHW, y_adv_N = suite.run_standard_evaluation(batch[0], batch[1], batch_size=batch_size)
    sys.settrace(tracer)  # its check for dynamic models switches the tracer off
    with torch.no_grad():
        assert torch.equal(model(x_adv_NCHW).argmax(1), y_adv_N)
    return (y_adv_N == batch[1]).numpy()


def driven(model: nn.Module, images: Images, threat: ThreatModel, seed: int, batch_size: int) -> Evaluation:
    attack = make_attack("autoattack").by("reference")
    return evaluate(model, images, threat, [attack], Settings(seed=seed, batch_size=batch_size))


@pytest.mark.parametrize(
    ("norm", "eps", "n", "batch_size"),
    [("Linf", "0.2", 6, 4), pytest.param("L2", "0.7", 12, 8, marks=pytest.mark.slow)],
)
def test_verdicts_are_those_of_pyautoattack(
    robust_net: nn.Module, digits: Dataset, norm: str, eps: str, n: int, batch_size: int
) -> None:
    threat, images = make_threat(norm, eps), digits.test.subset(torch.arange(6, 6 + n))
    done = driven(robust_net, images, threat, seed=3, batch_size=batch_size)
    assert done.robust["autoattack"].tolist() == direct(robust_net, images, threat, 3, batch_size).tolist()
    assert 0 < done.robust["autoattack"].sum() < done.clean_N.sum()  # both outcomes occur, so that this can fail
    assert tuple(result.name for result in done.attacks) == tuple(f"autoattack/{member}" for member in STANDARD)


def test_three_classes_too_few_is_one_clear_error(digits: Dataset) -> None:
    images = digits.test.subset(torch.nonzero(digits.test.labels_N < 3)[:12, 0])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert evaluate(model, images, make_threat("Linf", "0.1"), []).clean_N.any()
    with pytest.raises(ConfigError, match="at least 4 classes"):
        driven(model, images, make_threat("Linf", "0.1"), seed=0, batch_size=4)


def test_five_classes_cap_the_targets(digits: Dataset) -> None:
    """The published code ends in an IndexError below ten classes; here every class is a target."""
    images = digits.test.subset(torch.nonzero(digits.test.labels_N < 5)[:3, 0])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    done = driven(model, images, make_threat("Linf", "0.3"), seed=0, batch_size=4)
    assert done.attacks[-1].name == "autoattack/square"


def test_global_state_is_left_alone(standard_net: nn.Module, digits: Dataset) -> None:
    def tracer(frame: FrameType, event: str, argument: object) -> None:
        return None

    images, before = digits.test.subset(torch.arange(4)), sys.gettrace()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    x_before = next(iter(images.batches([torch.arange(4)], CPU)))[0].clone()
    sys.settrace(tracer)
    try:
        driven(standard_net, images, make_threat("Linf", "0.2"), seed=0, batch_size=2)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[union-attr]
    assert torch.equal(next(iter(images.batches([torch.arange(4)], CPU)))[0], x_before)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n", "batch_size"), [("abc_resnet2b", 32, 32), ("kw_scaled_cifar_small_8px", 32, 20)])
def test_verdicts_on_published_networks(
    published_nets: dict[str, PublishedNet], cifar10_test: Images, name: str, n: int, batch_size: int
) -> None:
    published, images = published_nets[name], cifar10_test.subset(torch.arange(n))
    threat = make_threat("Linf", published.eps)
    done = driven(published.module, images, threat, seed=0, batch_size=batch_size)
    assert done.robust["autoattack"].tolist() == direct(published.module, images, threat, 0, batch_size).tolist()


@pytest.mark.slow
def test_published_numbers_on_256_images(published_nets: dict[str, PublishedNet], cifar10_test: Images) -> None:
    """abc_resnet2b at 2/255, seed 0, one batch: 55.08 % after APGD-CE, 53.52 % after each further member."""
    published, images = published_nets["abc_resnet2b"], cifar10_test.subset(torch.arange(256))
    done = driven(published.module, images, make_threat("Linf", published.eps), seed=0, batch_size=256)
    assert [round(100 * result.robust_after, 2) for result in done.attacks] == [55.08, 53.52, 53.52, 53.52]
