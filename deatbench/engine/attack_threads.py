"""The attack of a training step by several threads of one CPU, each on its rows of the batch.

An attack in eval mode treats each image by itself. A thread that takes some images through the whole attack waits for
nobody; threads that part every tensor meet after every operation, and have the narrow products of winograd.py to part.
The draws are those of the whole batch, so that the result is too, up to rounding.

Small networks stay with the latter: their operations are so short that threads would wait for python's interpreter.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor, nn

from deatbench.engine.interruption import Stopped
from deatbench.methods import Batch, Method
from deatbench.methods.base import Inner

LEAST_FLOPS = 10**9  # of a thread's share of one forward pass: some 10 ms
FEWEST = 16  # images of a thread; with fewer, on many cores, each would fetch all weights for little


class AttackThreads:
    """As many threads as torch has now, for a network of so many FLOP for an image."""

    def __init__(self, flops: int) -> None:
        self.count, self.flops = torch.get_num_threads(), flops
        self._pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))

    def divide(self, images: int) -> bool:
        """Whether a batch of so many images is worth parting."""
        each, left = divmod(images, self.count)
        return self.count > 1 and not left and each >= FEWEST and each * self.flops >= LEAST_FLOPS

    def perturb(self, method: Method, search: nn.Module, batch: Batch, inner: Inner) -> Tensor:
        """As `method.perturb`, which may write into its rows of the batch's memory.

        What interrupts the wait interrupts the threads, too, at their next pass; so does what one of them raises.
        """
        heeding = _Heeding(search)
        shares = [batch.share(k, self.count) for k in range(self.count)]
        futures: list[Future[Tensor]] = []
        try:
            for share in shares:
                futures.append(self._pool.submit(method.perturb, heeding, share, inner))
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            heeding.stopping.set()
            wait(futures)
        for error in (future.exception() for future in futures):
            if error is not None and not isinstance(error, Stopped):  # what made the others stop
                raise error
        batch.rng.follow(shares[0].rng)
        return torch.cat([future.result() for future in futures])


class _Heeding(nn.Module):
    """A network that answers until it is told to stop."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.stopping = net, threading.Event()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.stopping.is_set():
            raise Stopped
        return self.net(x_NCHW)
