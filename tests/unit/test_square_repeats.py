"""What Square does not ask again changes nothing in its walk."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deatbench.attacks.journal import Journal, Place
from deatbench.attacks.rng import ExampleRng, PublishedRng
from deatbench.attacks.square import Square
from deatbench.attacks.square_draws import Draws
from deatbench.attacks.square_linf import LinfSquares
from deatbench.threats import ThreatModel, make_threat

SHAPES = [(2, 1, 5, 5), (2, 1, 4, 7), (2, 3, 4, 4), (2, 2, 6, 3)]


class Asked(nn.Module):
    """Logits in float64, whose rounding is far below what Square compares, of a network that is not linear."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, classes: int = 4) -> None:
        super().__init__()
        generator, pixels = torch.Generator().manual_seed(seed), torch.Size(shape[1:]).numel()
        self.hidden, self.out = (
            torch.randn(*size, dtype=torch.float64, generator=generator) for size in ((pixels, 12), (12, classes))
        )
        self.rows = 0

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.rows += len(x_NCHW)
        return ((x_NCHW.flatten(1).double() - 0.5) @ self.hidden).tanh() @ self.out


def images(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """Some pixels black or white, which eps moves one way only."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2).clamp(0, 1)


def walked(net: Asked, x_NCHW: Tensor, threat: ThreatModel, queries: int, journal: Journal | None = None) -> Tensor:
    rng = ExampleRng(3, torch.arange(len(x_NCHW)), "square/0")
    return Square(queries=queries)(net, x_NCHW, net(x_NCHW).argmax(1), threat, rng, journal or Journal())


def ask_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deatbench.attacks.square_search.MOST_VARIETY", 0)


def every_square(shape: tuple[int, ...], side: int) -> tuple[Tensor, Tensor]:
    """(u [V, 2], sign [V, C]) of all the squares that can be drawn."""
    rows, columns = (max(1, edge - side) for edge in shape[2:])
    found = [
        (row / rows + 1e-3, column / columns + 1e-3, *signs)
        for row, column, *signs in product(range(rows), range(columns), *[(-1.0, 1.0)] * shape[1])
    ]
    return torch.tensor(found).split((2, shape[1]), dim=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_squares_are_numbered_one_by_one(shape: tuple[int, ...], side: int) -> None:
    u, sign = every_square(shape, side)
    squares = LinfSquares()
    numbers = squares.number(u, sign, side, torch.Size(shape))
    assert numbers.tolist() == list(range(squares.variety(torch.Size(shape), side)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_idle_squares_are_those_whose_proposal_is_the_image_itself(shape: tuple[int, ...], side: int) -> None:
    squares, threat, x = LinfSquares(), make_threat("Linf", "0.1"), images(shape)
    u, sign = every_square(shape, side)
    z = squares.start(x, threat, ExampleRng(0, torch.arange(2), "start"))
    rng = torch.Generator().manual_seed(2)
    for _ in range(12):  # as a search would leave it
        drawn = torch.randint(len(u), (2,), generator=rng)
        z = squares.propose(z, x, torch.arange(2), u[drawn], sign[drawn], side, threat).images()
    for image in (0, 1):
        of = torch.full((len(u),), image)
        changed = (squares.propose(z, x, of, u, sign, side, threat).images() - z[image]).abs().amax((1, 2, 3))
        idle = squares.idle(z, x, side, threat)[image]
        assert idle.tolist() == (changed <= 1e-6).tolist()
        assert idle.any()
        assert not idle.all()


@pytest.mark.parametrize("shape", [(8, 1, 6, 6), (8, 1, 5, 9), (8, 2, 6, 6), (8, 3, 5, 5)])
def test_the_walk_is_that_of_all_queries_for_a_part_of_them(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, threat, found = images(shape), make_threat("Linf", "0.04"), []
    for everything in (False, True):
        if everything:
            ask_everything(monkeypatch)
        net = Asked(shape)
        found.append((walked(net, x, threat, 1500), net.rows))
    (ours, fewer), (all_of_them, rows) = found
    torch.testing.assert_close(ours, all_of_them, rtol=0, atol=1e-6)
    broken = Asked(shape)(ours).argmax(1) != Asked(shape)(x).argmax(1)
    assert 0 < int(broken.sum()) < len(x)
    assert fewer < 0.5 * rows


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.just(4), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7)),
    eps=st.sampled_from(["0.01", "0.05", "0.2"]),
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 700),
)
def test_no_walk_depends_on_what_is_left_out(shape: tuple[int, ...], eps: str, seed: int, queries: int) -> None:
    x, threat, net = images(shape, seed), make_threat("Linf", eps), Asked(shape, seed)
    ours = walked(net, x, threat, queries)
    with pytest.MonkeyPatch.context() as patched:
        ask_everything(patched)
        torch.testing.assert_close(ours, walked(net, x, threat, queries), rtol=0, atol=1e-6)


class Unmoved(Asked):
    """Always the same answer."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.rows += len(x_NCHW)
        return torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(x_NCHW), 2)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 1, 4, 6), (1, 2, 4, 4)])
def test_every_square_that_changes_an_image_is_asked_once(shape: tuple[int, ...]) -> None:
    net, x, threat, square = Unmoved(shape), images(shape), make_threat("Linf", "0.1"), Square(queries=2000)
    z = walked(net, x, threat, square.queries)
    squares, rng = LinfSquares(), ExampleRng(3, torch.arange(1), "square/0")
    assert torch.equal(z, squares.start(x, threat, rng))
    draws, different = Draws(rng, x, squares), set()
    for query in range(square.queries):
        u, sign = draws.at(torch.tensor([[query]]), torch.arange(1))
        side = square.side(query, x.shape, False)
        tried = squares.propose(z, x, torch.zeros(1, dtype=torch.long), u[0], sign[0], side, threat)
        if (tried.images() - z).abs().max() > 1e-6:
            different.add((side, int(tried.top_P), int(tried.left_P), *sign[0, 0].tolist()))
    assert len(different) < 200
    assert net.rows == 2 + len(different)  # the label, the start


class Dying(Journal):
    """Keeps every place in memory; ends the search after some of them, once."""

    def __init__(self, after: int) -> None:
        self.left, self.place = after, None  # type: int, Place | None

    def recall(self) -> Place | None:
        return self.place

    def keep(self, place: Any) -> None:
        self.place = {name: value.clone() for name, value in place().items()}
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 12, 40, 60])
def test_what_was_rejected_is_still_known_after_a_kill(after: int) -> None:
    shape = (6, 1, 6, 6)
    x, threat, straight, stopped = images(shape), make_threat("Linf", "0.04"), Asked(shape), Asked(shape)
    expected = walked(straight, x, threat, 900)
    journal = Dying(after)
    with pytest.raises(KeyboardInterrupt):
        walked(stopped, x, threat, 900, journal)
    assert torch.equal(walked(stopped, x, threat, 900, journal), expected)
    assert stopped.rows == straight.rows + len(x)  # the labels were asked once more


def test_the_published_order_asks_all_its_queries() -> None:
    shape = (6, 1, 6, 6)
    net, x, threat = Asked(shape), images(shape), make_threat("Linf", "0.001")
    x_adv = Square(queries=300)(net, x, net(x).argmax(1), threat, PublishedRng(0))
    assert (net(x_adv).argmax(1) == net(x).argmax(1)).all()
    assert net.rows == len(x) * (1 + 301 + 2)
