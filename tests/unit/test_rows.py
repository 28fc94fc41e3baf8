"""Rows in windows are rows of the whole map, and go back through convolutions as autograd takes them."""

from __future__ import annotations

import itertools

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from deatbench.certificates.layers import Box, Conv, Unshuffle, on_blocks, outputs
from deatbench.certificates.rows import Rows, Windows


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int, int]) -> Windows:
    """Windows that a few convolutions from a grid on lead to, which may leave the map."""
    stride, size = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    grid = draw(st.integers(1, -(-shape[1] // stride))), draw(st.integers(1, -(-shape[2] // stride)))
    return Windows(grid, stride, draw(st.integers(0, size - 1)), size)


def rows_in(windows: Windows, channels: int, count: int = 5) -> Rows:
    places = windows.grid[0] * windows.grid[1]
    values = torch.randn(count, channels, windows.size, windows.size)
    return Rows(values, windows, torch.randint(0, places, (count,)), leaves_map=True)


def dense(rows: Rows, shape: tuple[int, int, int]) -> Tensor:
    """Rows with a coefficient for all of the map, pixel by pixel."""
    found = torch.zeros(len(rows), *shape)
    for row, place in enumerate(rows.place_R.tolist()):
        corner = [rows.windows.stride * at - rows.windows.offset for at in divmod(place, rows.windows.grid[1])]
        for i, j in itertools.product(range(rows.windows.size), repeat=2):
            y, x = corner[0] + i, corner[1] + j
            if 0 <= y < shape[1] and 0 <= x < shape[2]:
                found[row, :, y, x] = rows.values[row, :, i, j]
    return found


def zeros_outside(rows: Rows, whole: Tensor) -> None:
    """What is nowhere on the map adds nothing to the sums of coefficients."""
    sums = rows.values.flatten(1).square().sum(1)
    torch.testing.assert_close(sums, whole.flatten(1).square().sum(1), rtol=1e-4, atol=1e-4)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), shape=SHAPES)
def test_rows_in_windows_are_rows_of_the_whole_map(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    rows, map_CHW = rows_in(data.draw(windows(shape)), shape[0]), torch.randn(shape)
    expected = dense(rows, shape)
    assert torch.equal(rows.whole(shape).values, expected)
    assert torch.equal(rows.inside(shape).whole(shape).values, expected)
    at_map = (expected * map_CHW).flatten(1).sum(1)
    for same in (rows, rows.inside(shape), rows.whole(shape)):
        torch.testing.assert_close(same.dot(map_CHW), at_map, rtol=1e-4, atol=1e-4)
    zeros_outside(rows.inside(shape), expected)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), shape=SHAPES)
def test_sums_of_rows_in_any_windows(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    one = rows_in(data.draw(windows(shape)), shape[0])
    stride = data.draw(st.sampled_from([one.windows.stride, one.windows.stride + 1]))
    size = data.draw(st.integers(1, 7))
    other_windows = Windows(one.windows.grid, stride, data.draw(st.integers(0, size - 1)), size)
    other = Rows(torch.randn(5, shape[0], size, size), other_windows, one.place_R, leaves_map=True)
    other = other.inside(shape) if data.draw(st.booleans()) else other
    expected = dense(one, shape) + dense(other, shape)
    whole = Rows(dense(other, shape))
    for found in (one.plus(other, shape), other.plus(one, shape), one.plus(whole, shape), whole.plus(one, shape)):
        torch.testing.assert_close(found.whole(shape).values, expected)
        zeros_outside(found.inside(shape), expected)


def test_sums_stay_in_windows_where_one_holds_the_other() -> None:
    large, small = Windows((4, 4), 2, 2, 5), Windows((4, 4), 2, 1, 3)
    one = rows_in(large, 2)
    other = Rows(torch.randn(5, 2, 3, 3), small, one.place_R, leaves_map=True)
    assert one.plus(other, (2, 8, 8)).windows == large
    assert other.plus(one, (2, 8, 8)).windows == large


# Convolutions.


@st.composite
def convolutions(draw: st.DrawFn, multiple: bool = False) -> Conv:
    """Any convolution that is read; `multiple`: of a map whose edges are multiples of the stride."""
    torch.manual_seed(draw(st.integers(0, 99)))
    kernel, stride, padding = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    height, width = (stride * draw(st.integers(1, 4)) if multiple else draw(st.integers(1, 9)) for _ in range(2))
    assume(min(height, width) + 2 * padding >= kernel)
    after = [outputs(edge, kernel, stride, padding) for edge in (height, width)]
    weight = torch.randn(3, 2, kernel, kernel)
    return Conv(weight, torch.randn(3), stride, padding, (2, height, width), (3, *after))


def run(conv: Conv, map_CHW: Tensor) -> Tensor:
    return F.conv2d(map_CHW[None], conv.weight, conv.bias, conv.stride, conv.padding)[0]


def transposed(conv: Conv, values: Tensor) -> Tensor:
    """Whole rows behind a convolution in front of it, by autograd."""
    x = torch.zeros(conv.shape, requires_grad=True)
    y = run(conv, x)
    return torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in values])


@settings(deadline=None, max_examples=80)
@given(conv=convolutions(), data=st.data())
def test_rows_go_back_through_a_convolution(conv: Conv, data: st.DataObject) -> None:
    rows = rows_in(data.draw(windows(conv.out_shape)), 3)
    whole = Rows(dense(rows, conv.out_shape))
    expected = transposed(conv, whole.values)
    constant = whole.values.sum((2, 3)) @ conv.bias
    for given_rows in (rows, whole):
        (found,), constant_R = conv.back(given_rows)
        torch.testing.assert_close(found.whole(conv.shape).values, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(constant_R, constant, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(conv=convolutions(multiple=True))
def test_a_convolution_of_blocks_is_the_convolution_of_pixels(conv: Conv) -> None:
    x, unshuffle, blocks = (
        Box(torch.rand(conv.shape), torch.rand(conv.shape) + 1),
        Unshuffle(conv.stride),
        on_blocks(conv),
    )
    torch.testing.assert_close(blocks.forward(unshuffle.forward(x)).lower, conv.forward(x).lower, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.forward(Box(x.lower, x.lower)).upper, run(conv, x.lower), rtol=1e-4, atol=1e-4)
    rows = Rows(torch.randn(4, *conv.out_shape))
    (pixels,), (in_blocks,) = conv.back(rows).rows, blocks.back(rows).rows
    expected = F.pixel_unshuffle(pixels.values, conv.stride)
    torch.testing.assert_close(in_blocks.values, expected, rtol=1e-4, atol=1e-4)
