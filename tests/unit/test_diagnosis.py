"""What a diagnosis says about single images, against an independent computation; its curve, its gallery, its cost."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.attacks.rng import ExampleRng
from deatbench.data import Dataset
from deatbench.data.images import TensorImages
from deatbench.engine.monitor import Monitor
from deatbench.errors import ConfigError, InterruptedRun
from deatbench.models import LoadedModel
from deatbench.pipeline import Machine
from deatbench.pipeline.diagnosis import affordable_images, diagnose
from deatbench.pipeline.pictures import WIDEST, difference, png
from deatbench.records import Diagnostics
from deatbench.store import Home, read_record, write_record
from deatbench.threats import make_threat

CPU = torch.device("cpu")
N, EPS = 90, 0.2


def loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel(module, name="net", arch="cnn", source="./net.py:net")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(Home(tmp_path), CPU, command="deatbench diagnose ./net.py:net")


@pytest.fixture
def found(robust_net: nn.Module, digits: Dataset, machine: Machine) -> Diagnostics:
    return diagnose(loaded(robust_net), digits, make_threat("Linf", str(EPS)), machine, n=N, seed=3)


def images(data: Dataset, n: int = N) -> tuple[Tensor, Tensor]:
    return next(iter(data.test.batches([torch.arange(n)], CPU)))


def plain_pgd(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Twenty signed steps of eps/4 from a random point of the ball, as the paper says it."""
    noise = ExampleRng(3, torch.arange(len(x)), "pgd-20/0").uniform(x)
    x_adv = (x + eps * (2 * noise - 1)).clamp(0, 1)
    for _ in range(20):
        x_adv.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(x_adv), y, reduction="sum"), x_adv)
        x_adv = (x_adv.detach() + eps / 4 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return x_adv


def test_classes_are_those_of_a_plain_pgd_loop(found: Diagnostics, robust_net: nn.Module, digits: Dataset) -> None:
    x, y = images(digits)
    clean_N = robust_net(x).argmax(1).numpy()
    assert (found.labels_N() == y.numpy()).all()
    assert (found.clean_classes_N() == clean_N).all()
    attacked_N = robust_net(plain_pgd(robust_net, x, y, EPS)).argmax(1).numpy()
    expected_N = np.where(clean_N == y.numpy(), attacked_N, clean_N)
    assert (found.adversarial_classes_N() == expected_N).mean() >= 0.98  # rounding may tip an image
    assert 5 < (found.adversarial_classes_N() != found.clean_classes_N()).sum() < N - 5
    assert found.dataset.n == N
    assert found.class_names == digits.classes


def test_the_curve_follows_the_attack_and_never_rises(
    found: Diagnostics, robust_net: nn.Module, digits: Dataset
) -> None:
    x, y = images(digits)
    assert [point.eps_text for point in found.curve] == ["0", "0.05", "0.1", "0.2", "0.3", "0.4"]
    values = [point.accuracy.value for point in found.curve]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx((found.clean_classes_N() == found.labels_N()).mean())
    assert values[3] == pytest.approx((found.adversarial_classes_N() == found.labels_N()).mean())
    standing_N = robust_net(x).argmax(1) == y
    for point in found.curve[1:]:
        standing_N &= robust_net(plain_pgd(robust_net, x, y, point.eps)).argmax(1) == y
        assert point.accuracy.value == pytest.approx(standing_N.float().mean().item(), abs=0.05)


@pytest.mark.parametrize(
    ("eps", "texts"),
    [
        ("8/255", ["0", "2/255", "4/255", "8/255", "12/255", "16/255"]),
        ("1/255", ["0", "0.25/255", "0.5/255", "1/255", "1.5/255", "2/255"]),
        ("0.031", ["0", "0.00775", "0.0155", "0.031", "0.0465", "0.062"]),
        ("1e-2", ["0", "0.0025", "0.005", "1e-2", "0.015", "0.02"]),
    ],
)
def test_radii_are_written_exactly(
    robust_net: nn.Module, digits: Dataset, machine: Machine, eps: str, texts: list[str]
) -> None:
    found = diagnose(loaded(robust_net), digits, make_threat("Linf", eps), machine, n=10)
    assert [point.eps_text for point in found.curve] == texts
    own = make_threat("Linf", eps).eps
    assert [point.eps for point in found.curve] == pytest.approx([0, own / 4, own / 2, own, 1.5 * own, 2 * own])


def unpacked(text: str) -> Tensor:
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
    return torch.from_numpy(pixels).float().reshape(-1, *pixels.shape[:2]) / 255


def test_the_gallery_shows_the_first_broken_image_of_each_class(
    found: Diagnostics, robust_net: nn.Module, digits: Dataset
) -> None:
    x, _ = images(digits)
    labels_N, clean_N, attacked_N = found.labels_N(), found.clean_classes_N(), found.adversarial_classes_N()
    broken_N = (clean_N == labels_N) & (attacked_N != labels_N)
    first = [int(np.flatnonzero(broken_N & (labels_N == k))[0]) for k in sorted(set(labels_N[broken_N].tolist()))]
    shown = [exhibit.index for exhibit in found.gallery]
    assert len(shown) == 8
    assert shown[: len(first)] == first[:8]
    for exhibit in found.gallery:
        adversarial, clean = unpacked(exhibit.adversarial_png), x[exhibit.index]
        assert torch.equal(unpacked(exhibit.clean_png), clean)
        assert (adversarial - clean).abs().max() <= EPS + 1 / 255
        seen = unpacked(exhibit.difference_png)
        assert (seen - (0.5 + 10 * (adversarial - clean)).clamp(0, 1)).abs().max() <= 11 / 255
        classes = (exhibit.label, exhibit.clean_class, exhibit.adversarial_class)
        assert classes == tuple(int(each[exhibit.index]) for each in (labels_N, clean_N, attacked_N))
    right = sum(
        int(robust_net(unpacked(e.adversarial_png)[None]).argmax(1)) == e.adversarial_class for e in found.gallery
    )
    assert right >= 7  # rounding to 8 bits may cost a success


def test_survivors_fill_a_gallery_that_few_broken_images_leave(
    robust_net: nn.Module, digits: Dataset, machine: Machine
) -> None:
    found = diagnose(loaded(robust_net), digits, make_threat("Linf", "0.001"), machine, n=60)
    shown = [exhibit for exhibit in found.gallery if exhibit.adversarial_class == exhibit.label]
    assert len(found.gallery) == 8
    assert len(shown) >= 6
    assert len({exhibit.label for exhibit in shown}) == len(shown)
    x, _ = images(digits)
    last = unpacked(found.gallery[-1].adversarial_png)
    assert (last - x[found.gallery[-1].index]).abs().max() <= 1 / 255


def test_the_same_again_is_the_same(
    found: Diagnostics, robust_net: nn.Module, digits: Dataset, machine: Machine, tmp_path: Path
) -> None:
    again = diagnose(loaded(robust_net), digits, make_threat("Linf", str(EPS)), machine, n=N, seed=3)
    times = {"created", "seconds"}
    assert again.model_dump(exclude=times) == found.model_dump(exclude=times)
    write_record(tmp_path / "diagnostics.json", found)
    assert read_record(tmp_path / "diagnostics.json", Diagnostics) == found


def test_a_network_without_mistakes_and_one_without_a_right_answer(digits: Dataset, machine: Machine) -> None:
    class Constant(nn.Module):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.label = label

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(torch.full((len(x),), self.label), 10).float() + 0 * x.sum((1, 2, 3))[:, None]

    test = digits.test.subset(torch.nonzero(digits.test.labels_N[:100] == 4)[:, 0])
    fours = Dataset(**(vars(digits) | {"test": test}))
    never = diagnose(loaded(Constant(5)), fours, make_threat("Linf", "0.1"), machine)
    assert never.gallery == ()
    assert [point.accuracy.value for point in never.curve] == [0.0] * 6
    always = diagnose(loaded(Constant(4)), fours, make_threat("L2", "0.5"), machine)
    assert [point.accuracy.value for point in always.curve] == [1.0] * 6
    assert [exhibit.adversarial_class for exhibit in always.gallery] == [4]


def test_a_large_network_is_shown_fewer_images_on_a_cpu(digits: Dataset, robust_net: nn.Module) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 200_000), nn.Linear(200_000, 10))
    assert affordable_images(loaded(robust_net), digits, CPU) == 1000
    assert affordable_images(loaded(wide), digits, CPU) == 300
    assert affordable_images(loaded(wide), digits, torch.device("cuda")) == 1000


def test_class_names_are_taken_as_they_are(robust_net: nn.Module, digits: Dataset, machine: Machine) -> None:
    names = ("</script><script>alert(1)</script>", "=1+1", "‮", *map(str, range(7)))
    hostile = Dataset(**(vars(digits) | {"classes": names}))
    assert diagnose(loaded(robust_net), hostile, make_threat("Linf", "0.1"), machine, n=20).class_names == names


def test_a_network_of_other_classes_is_refused(robust_net: nn.Module, digits: Dataset, machine: Machine) -> None:
    fewer = Dataset(**(vars(digits) | {"classes": digits.classes[:9]}))
    with pytest.raises(ConfigError, match="10 classes"):
        diagnose(loaded(robust_net), fewer, make_threat("Linf", "0.1"), machine, n=20)


@pytest.mark.parametrize("titles", [["clean"], ["eps 0.3: pgd-20"]])
def test_stopped_it_says_so(robust_net: nn.Module, digits: Dataset, machine: Machine, titles: list[str]) -> None:
    class Stopping(Monitor):
        def start(self, title: str, total: float) -> None:
            if title in titles:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRun):
        diagnose(loaded(robust_net), digits, make_threat("Linf", "0.2"), machine, n=20, monitor=Stopping())


def test_pictures_of_colour_of_grey_and_too_large() -> None:
    colour, grey = torch.rand(3, 12, 9), torch.rand(1, 8, 8)
    for image in (colour, grey):
        picture = Image.open(io.BytesIO(base64.b64decode(png(image))))
        assert picture.mode == ("RGB" if len(image) == 3 else "L")
        assert np.allclose(np.array(picture).reshape(*image.shape[1:], -1), 255 * image.permute(1, 2, 0), atol=0.51)
    large = Image.open(io.BytesIO(base64.b64decode(png(torch.rand(3, 600, 300)))))
    assert large.size == (WIDEST // 2, WIDEST)
    assert torch.equal(difference(grey, grey), torch.full_like(grey, 0.5))
    assert difference(torch.zeros(1), torch.ones(1)) == 1


def test_images_are_taken_from_the_front(robust_net: nn.Module, digits: Dataset, machine: Machine) -> None:
    assert isinstance(digits.test, TensorImages)
    found = diagnose(loaded(robust_net), digits, make_threat("Linf", "0.1"), machine, n=10**6)
    assert found.dataset.n == len(digits.test)
