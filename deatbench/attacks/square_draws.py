"""The random numbers of the Square attack's queries (Andriushchenko et al. 2020, arXiv 1912.00049)."""

from __future__ import annotations

from torch import Tensor

from deatbench.attacks.rng import ExampleRng
from deatbench.attacks.square_l2 import L2Squares
from deatbench.attacks.square_linf import LinfSquares

BLOCK = 250  # queries whose random numbers are drawn at once


class Draws:
    """Where in [0, 1) each query puts its windows, and its signs in {-1, 1}.

    With per-image randomness they come in blocks, a row for each image of the batch; in the published order one by one.
    """

    def __init__(self, rng: ExampleRng, x_NCHW: Tensor, squares: LinfSquares | L2Squares) -> None:
        self.rng, self.x, self.squares = rng, x_NCHW, squares
        self.block = -1  # which block of queries the numbers at hand are for
        self.before_block = 0  # draws that were made before this block's
        self.numbers = x_NCHW[:0]

    def at(self, queries_AK: Tensor, images_A: Tensor) -> tuple[Tensor, Tensor]:
        """(u [A, K, places], sign [A, K, C]) of queries of one block."""
        places, channels = self.squares.places, self.x.shape[1]
        if not self.rng.per_image:  # one image's serve all, or signs are drawn for each of them
            u = self.rng.uniform(self.x.new_empty(1, places))
            count = len(images_A) if self.squares.signs_per_image else 1
            sign = (self.rng.uniform(self.x.new_empty(count, channels)) * 2 - 1).sign()
            shape = (*queries_AK.shape, -1)
            return u[:, None].expand(shape), sign[:, None].expand(shape)
        block = int(queries_AK[0, 0]) // BLOCK
        if block != self.block:
            self.block, self.before_block = block, self.rng.draws
            self._draw()
        u = self.numbers[images_A[:, None], queries_AK.to(images_A.device) % BLOCK]
        return u[..., :places], (u[..., places:] * 2 - 1).sign()

    def go_on(self, block: int, before_block: int) -> None:
        """Stand where a search stood that had drawn this block."""
        self.rng.draws = self.before_block = before_block
        self.block = block
        if block >= 0:
            self._draw()

    def _draw(self) -> None:
        count = self.squares.places + self.x.shape[1]
        self.numbers = self.rng.uniform(self.x.new_empty(len(self.x), BLOCK, count))
