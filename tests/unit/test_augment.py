"""Augmentations, pixel by pixel against loops over images that make the same draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deatbench.data.augment import AUGMENTS, Alteration, augment, crop, crop_flip
from deatbench.data.cutmix import cutmix, symmetric_beta
from deatbench.data.cutout import cutout
from deatbench.errors import ConfigError, UnknownNameError

NAMES = [*AUGMENTS, "crop-flip+cutout", "crop-flip+cutmix", "crop+cutout+cutmix"]
SEEDS = st.integers(0, 2**31)
SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 11), st.integers(1, 11))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator(1))


def drawn(high: int, n: int, source: torch.Generator) -> list[int]:
    return torch.randint(high, (n, 1), generator=source).flatten().tolist()


def clipped(centre: int, size: int, length: int) -> range:
    """Places of a stretch of `size` around `centre`, written with bounds."""
    return range(max(0, centre - size // 2), min(length, centre - size // 2 + size))


# crop and flip


def windows(image_CHW: Tensor, padding: int, mirrored: bool) -> list[Tensor]:
    """Every image that a random crop (and flip) may give."""
    _, height, width = image_CHW.shape
    framed = torch.nn.functional.pad(image_CHW, (padding,) * 4)
    places = range(2 * padding + 1)
    cuts = [framed[:, top : top + height, left : left + width] for top in places for left in places]
    return cuts + [cut.flip(-1) for cut in cuts] * mirrored


@given(seed=SEEDS, shape=SHAPES, padding=st.sampled_from([None, 0, 1, 2]), flip=st.booleans())
@settings(max_examples=40, deadline=None)
def test_crops_are_the_windows_drawn_row_column_mirror(
    seed: int, shape: tuple[int, int, int, int], padding: int | None, flip: bool
) -> None:
    n, _, height, width = shape
    x_NCHW, source = images(*shape), generator(seed)
    frame = height // 8 if padding is None else padding
    tops, lefts = drawn(2 * frame + 1, n, source), drawn(2 * frame + 1, n, source)
    mirrors = drawn(2, n, source) if flip else [0] * n
    y_NCHW = (crop_flip if flip else crop)(x_NCHW, generator(seed), padding)
    assert y_NCHW.dtype == x_NCHW.dtype
    for x_CHW, y_CHW, top, left, mirror in zip(x_NCHW, y_NCHW, tops, lefts, mirrors, strict=True):
        framed = torch.nn.functional.pad(x_CHW, (frame,) * 4)
        window = framed[:, top : top + height, left : left + width]
        assert torch.equal(y_CHW, window.flip(-1) if mirror else window)


def test_every_window_comes_equally_often() -> None:
    x_NCHW = images(1, 1, 8, 8).expand(3600, 1, 8, 8)
    y_NCHW = crop_flip(x_NCHW, generator(3))
    counts = [(y_NCHW == window).flatten(1).all(1).sum().item() for window in windows(x_NCHW[0], 1, True)]
    assert sum(counts) == 3600
    assert all(130 < count < 270 for count in counts), counts  # 18 windows, 200 each, five standard deviations


def test_default_padding_is_the_customary_one() -> None:
    for size, padding in ((8, 1), (32, 4)):
        x_NCHW = images(4, 1, size, size)
        assert torch.equal(crop(x_NCHW, generator(1)), crop(x_NCHW, generator(1), padding))


# cutout


@given(seed=SEEDS, shape=SHAPES, size=st.sampled_from([None, 0, 1, 2, 3, 8, 30]), fill=st.sampled_from([0.0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_cutout_paints_over_a_clipped_square(
    seed: int, shape: tuple[int, int, int, int], size: int | None, fill: float
) -> None:
    n, _, height, width = shape
    x_NCHW, source = images(*shape), generator(seed)
    side = height // 2 if size is None else size
    expected_NCHW = x_NCHW.clone()
    for image, (row, column) in enumerate(zip(drawn(height, n, source), drawn(width, n, source), strict=True)):
        for i in clipped(row, side, height):
            for j in clipped(column, side, width):
                expected_NCHW[image, :, i, j] = fill
    assert torch.equal(cutout(x_NCHW, generator(seed), size, fill), expected_NCHW)


def test_cutout_hides_sixteen_of_thirty_two_pixels_and_less_at_the_border() -> None:
    hidden_NCHW = cutout(torch.ones(4000, 3, 32, 32), generator(0)) == 0
    heights_N = hidden_NCHW[:, 0].any(2).sum(1)
    assert heights_N.max() == 16
    assert heights_N.min() == 8  # centred on the first row: half of it remains
    assert torch.equal(heights_N * hidden_NCHW[:, 0].any(1).sum(1) * 3, hidden_NCHW.sum((1, 2, 3)))


def test_cutout_is_centred_on_every_pixel_equally_often() -> None:
    counts_HW = (cutout(torch.ones(6400, 1, 8, 8), generator(2), 1) == 0).sum((0, 1))
    assert counts_HW.sum() == 6400
    assert counts_HW.min() > 50  # 100 each, five standard deviations
    assert counts_HW.max() < 150


# cutmix


@given(seed=SEEDS, shape=SHAPES, alpha=st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_cutmix_shows_a_clipped_box_of_the_partner(seed: int, shape: tuple[int, int, int, int], alpha: float) -> None:
    n, _, height, width = shape
    x_NCHW, y_N, source = images(*shape), torch.arange(n) + 7, generator(seed)
    partners = torch.randperm(n, generator=source).tolist()
    areas_N = symmetric_beta(n, alpha, source)
    rows, columns = drawn(height, n, source), drawn(width, n, source)
    mixed_NCHW, other_N, share_N = cutmix(x_NCHW, y_N, generator(seed), alpha)
    assert other_N.tolist() == [partner + 7 for partner in partners]
    assert share_N.dtype == torch.float32
    for image, partner in enumerate(partners):
        tall, wide = (int(length * areas_N[image].sqrt()) for length in (height, width))
        box_rows, box_columns = clipped(rows[image], tall, height), clipped(columns[image], wide, width)
        expected_CHW = x_NCHW[image].clone()
        for i in box_rows:
            for j in box_columns:
                expected_CHW[:, i, j] = x_NCHW[partner, :, i, j]
        assert torch.equal(mixed_NCHW[image], expected_CHW)
        assert share_N[image] == torch.tensor(1 - len(box_rows) * len(box_columns) / (height * width))


def test_cutmix_boxes_cover_the_image_evenly_but_for_the_border() -> None:
    n = 4000
    x_NCHW = torch.arange(n, dtype=torch.float64)[:, None, None, None].expand(n, 1, 16, 16)
    mixed_NCHW, other_N, share_N = cutmix(x_NCHW, torch.arange(n), generator(5))
    strange_NHW = (mixed_NCHW != x_NCHW)[:, 0]
    covered_HW = strange_NHW.double().mean(0)
    for turned_HW in (covered_HW.flip(0), covered_HW.flip(1), covered_HW.T):  # one pixel's deviation is below 0.008
        assert (covered_HW - turned_HW).abs().max() < 0.055
    assert covered_HW[8, 8] > 1.5 * covered_HW[0, 0]  # what is clipped is missing at the border
    apart_N = other_N != torch.arange(n)
    assert apart_N.float().mean() > 0.99
    assert torch.equal(share_N[apart_N], (1 - strange_NHW.double().mean((1, 2))).float()[apart_N])


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    x_N = symmetric_beta(20_000, alpha, generator(11)).double()
    assert x_N.min() >= 0
    assert x_N.max() <= 1
    exact = torch.distributions.Beta(torch.tensor(alpha).double(), torch.tensor(alpha).double())
    grid_G = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    mass_G = exact.log_prob(grid_G).exp() / 200_000
    inner_G = mass_G.cumsum(0)  # the two outermost cells hold what is missing, half each
    cumulative_G = inner_G + (1 - inner_G[-1]) / 2
    empirical_G = torch.searchsorted(x_N.sort().values, grid_G, right=True) / len(x_N)
    assert (empirical_G - cumulative_G).abs().max() < 1.95 / math.sqrt(len(x_N))  # Kolmogorov-Smirnov, p = 0.001


@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_extreme_alpha_stays_in_range(alpha: float) -> None:
    x_N = symmetric_beta(10_000, alpha, generator(0))
    near_N = (x_N - 0.5).abs() < 0.01 if alpha > 1 else (x_N < 0.01) | (x_N > 0.99)
    assert near_N.all()
    assert x_N.min() >= 0
    assert x_N.max() <= 1


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha > 0"):
        cutmix(images(2, 1, 8, 8), torch.arange(2), generator(0), alpha)


# all by name


def test_parts_work_from_left_to_right_with_one_generator() -> None:
    x_NCHW, y_N = images(6, 3, 8, 8), torch.arange(6)
    source = generator(4)
    expected = cutmix(cutout(crop_flip(x_NCHW, source), source), y_N, source)
    for ours, theirs in zip(augment("crop-flip+cutout+cutmix")(x_NCHW, y_N, generator(4)), expected, strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs)
    by_hand: dict[str, Alteration] = {"crop": crop, "crop-flip": crop_flip, "cutout": cutout}
    for name, alter in by_hand.items():
        altered = augment(name)(x_NCHW, y_N, generator(4))
        assert torch.equal(altered.x_NCHW, alter(x_NCHW, generator(4)))
        assert altered.other_N is altered.share_N is None
    assert augment("none")(x_NCHW, y_N, generator(0)).x_NCHW is x_NCHW


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_is_determined_and_leaves_everything_else_alone(name: str) -> None:
    x_NCHW, y_N = images(4, 3, 8, 8), torch.arange(4)
    x_before, y_before, state = x_NCHW.clone(), y_N.clone(), torch.get_rng_state()
    first, again = (augment(name)(x_NCHW, y_N, generator(9)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)
    assert first.x_NCHW.shape == x_NCHW.shape
    assert first.x_NCHW.dtype == x_NCHW.dtype
    assert first.x_NCHW.min() >= 0
    assert first.x_NCHW.max() <= 1
    assert torch.equal(x_NCHW, x_before)
    assert torch.equal(y_N, y_before)
    assert torch.equal(torch.get_rng_state(), state)
    if name != "none":
        assert not torch.equal(first.x_NCHW, augment(name)(x_NCHW, y_N, generator(10)).x_NCHW)


@pytest.mark.parametrize(
    ("name", "part", "guess"),
    [
        ("crop-flp", "'crop-flp'", "crop-flip"),
        ("crop-flip+cutot", "'cutot'", "cutout"),
        ("crop+", "''", "known: none, crop"),
        ("", "''", "known: none, crop"),
    ],
)
def test_unknown_part(name: str, part: str, guess: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        augment(name)
    assert part in caught.value.message
    assert guess in caught.value.hint


@pytest.mark.parametrize("name", ["cutmix+crop", "crop+cutmix+cutmix", "cutmix+none"])
def test_cutmix_comes_once_and_last(name: str) -> None:
    with pytest.raises(ConfigError, match="once, at the end"):
        augment(name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_cpus_draws_give_the_same_batch_on_every_device(name: str) -> None:
    x_NCHW, y_N = images(16, 3, 32, 32), torch.arange(16)
    here = augment(name)(x_NCHW, y_N, generator(1))
    there = augment(name)(x_NCHW.cuda(), y_N.cuda(), generator(1))
    for ours, theirs in zip(here, there, strict=True):
        if ours is not None:
            assert theirs is not None
            assert theirs.is_cuda
            assert torch.equal(ours, theirs.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_devices_own_draws_never_wait_for_it(name: str) -> None:
    x_NCHW, y_N = images(16, 3, 32, 32).cuda(), torch.arange(16).cuda()
    source = torch.Generator("cuda").manual_seed(1)
    apply = augment(name)
    apply(x_NCHW, y_N, source)
    torch.cuda.set_sync_debug_mode("error")
    try:
        apply(x_NCHW, y_N, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
