"""A long search that is interrupted goes on from the place that it kept, bit by bit as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from deatbench.attacks import Attack
from deatbench.attacks.apgd import APGDCE, APGDDLR, APGDT
from deatbench.attacks.fab import FABT
from deatbench.attacks.fab_untargeted import FABUntargeted
from deatbench.attacks.journal import Journal, Place
from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square import Square
from deatbench.attacks.square_search import BLOCK
from deatbench.data import Dataset
from deatbench.threats import THREATS, ThreatModel, make_threat

EPS = {"Linf": "0.2", "L2": "0.8", "L1": "2.5"}
EVERY = 3  # iterations from one kept place to the next
SEARCHES: dict[str, tuple[Attack, tuple[int, ...]]] = {  # and the iterations at whose end they are killed
    "apgd-ce": (APGDCE(steps=20), (2, 9, 17)),
    "apgd-dlr": (APGDDLR(steps=20), (4, 16)),
    "apgd-t": (APGDT(steps=20, targets=4), (1, 8, 19)),
    "apgd-ce-eot": (APGDCE(steps=12, eot=2), (5, 10)),
    "fab-t": (FABT(steps=20, targets=4), (2, 9, 17)),
    "fab": (FABUntargeted(steps=15), (7, 13)),
}
SQUARE = {"Linf": (9, 33, 40), "L2": (12, 51, 56, 62), "L1": (20, 68, 74, 90)}  # before and behind a new block of draws
IN_L1 = {
    "apgd-ce-large-reps": (APGDCE(steps=20, large_reps=True), (3, 6, 7, 12, 18)),
    "apgd-t-large-reps": (APGDT(steps=20, targets=3, large_reps=True), (5, 12, 14)),
}
CASES = [
    pytest.param(attack, kills, norm, id=f"{name}-{norm}")
    for norm in THREATS.names()
    for name, (attack, kills) in (SEARCHES | (IN_L1 if norm == "L1" else {})).items()
] + [pytest.param(Square(BLOCK + 150), kills, norm, id=f"square-{norm}") for norm, kills in SQUARE.items()]


class Killed(Exception):
    """The process ends here."""


class Diary(Journal):
    """Writes every third place, as bytes, and dies at the end of the iteration that it is told to."""

    def __init__(self) -> None:
        self.iteration = 0
        self.dies_at: int | None = None
        self.written: tuple[int, bytes] | None = None

    def recall(self) -> Place | None:
        if self.written is None:
            return None
        self.iteration = self.written[0]
        return safetensors.torch.load(self.written[1])

    def keep(self, place: Callable[[], Place]) -> None:
        self.iteration += 1
        if self.iteration % EVERY == 0:
            parts = {name: value.detach().contiguous().clone() for name, value in place().items()}
            self.written = self.iteration, safetensors.torch.save(parts)
        if self.iteration == self.dies_at:
            raise Killed


def standing(model: nn.Module, digits: Dataset, n: int) -> tuple[Tensor, Tensor]:
    ((x_NCHW, y_N),) = digits.test.batches([torch.arange(n)], torch.device("cpu"))
    with torch.no_grad():
        right_N = model(x_NCHW).argmax(1) == y_N
    return x_NCHW[right_N], y_N[right_N]


def killed_and_continued(run: Callable[[Journal], Tensor], kills: tuple[int, ...]) -> tuple[Tensor, Diary]:
    diary = Diary()
    for diary.dies_at in kills:
        with pytest.raises(Killed):
            run(diary)
        if diary.written is None:
            diary.iteration = 0
    diary.dies_at = None
    return run(diary), diary


@pytest.mark.parametrize(("attack", "kills", "norm"), CASES)
def test_killed_and_continued_is_never_stopped(
    robust_net: nn.Module, digits: Dataset, attack: Attack, kills: tuple[int, ...], norm: str
) -> None:
    threat: ThreatModel = make_threat(norm, EPS[norm])
    x_NCHW, y_N = standing(robust_net, digits, 24)

    def run(journal: Journal) -> Tensor:
        rng = ExampleRng(5, torch.arange(len(x_NCHW)), f"{attack.name}/0")
        return attack(robust_net, x_NCHW, y_N, threat, rng, journal)

    straight = run(Journal())
    continued, diary = killed_and_continued(run, kills)
    assert torch.equal(continued, straight)
    assert diary.iteration >= max(kills)
    fooled_N = robust_net(straight).argmax(1) != y_N
    assert 0 < int(fooled_N.sum()) < len(y_N)  # some rows left the search, some stayed to its end
