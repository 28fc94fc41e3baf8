"""Several processes at one piece of work: `torchrun --nproc-per-node N -m deatbench train …` (or `run`, or `eval`).

In training each process takes an equal share of every batch. All draw what one process would draw, and whatever
depends on the whole batch (gradients, batch norm's statistics, sums) is put together: the result is that of one
process up to rounding. Gradients are averaged in one go after the backward pass: of a step's 23 passes (PGD-10) only
the last two could hide it, and a single place serves gradients that are taken by hand as well (awp).
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from deatbench.engine.batch_norm import SharedBatchNorm
from deatbench.engine.interruption import Stopped
from deatbench.errors import ConfigError, DeatbenchError

T = TypeVar("T")
MEETING = timedelta(minutes=5)  # for all processes to start
PATIENCE = timedelta(days=7)  # the others may be at a long unit, or wait for the first to validate
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what it tells each of its processes


class Processes:
    """One process: every row of a batch is its own, and there is nobody to wait for.

    Attributes:
        rank: 0 is the process that writes files and speaks.
        world: how many there are.
    """

    rank = 0
    world = 1

    def rows(self, n: int) -> slice:
        """Which of a batch's n images are this process's; n is a multiple of `world`."""
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def shared_batch_norm(self) -> AbstractContextManager[object]:
        """Inside, batch norm in training mode takes its statistics over the rows of all processes."""
        return nullcontext()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""

    def collect(self, sums: Tensor) -> None:
        """Add up over the processes, in place: the first is left with the sum, the others with zeros."""

    def complete(self, whole: Tensor) -> None:
        """Fill in the rows that belong to the others, in place; only one's own were up to date."""

    def most(self, *numbers: int) -> tuple[int, ...]:
        """The largest that any process says, for each of the numbers."""
        return numbers

    def first(self, work: Callable[[], T]) -> T:
        """What the first process makes of `work`, which the others wait for; what it raises of ours, all raise."""
        return work()

    def once(self, key: str) -> bool:
        """Whether no process has asked this before: for what needs to be said by one of them."""
        return True


class Team(Processes):
    """The processes that torchrun started: NCCL between their GPUs where each has its own, else gloo."""

    def __init__(self, device: torch.device) -> None:
        # Optimizers import it sooner or later. While a group exists it would keep hold of it, so that gloo's threads
        # outlive the group, and one that is still dropping a tensor when python ends aborts the process.
        importlib.import_module("torch._dynamo")
        self.store, self.rank, self.world = next(dist.rendezvous("env://", timeout=MEETING))
        self._queues = 0
        backend = "cpu:gloo,cuda:nccl" if self._on_gpus_of_their_own(device) else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.store.set_timeout(PATIENCE)
        store = dist.PrefixStore("group", self.store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=PATIENCE)

    def shared_batch_norm(self) -> AbstractContextManager[object]:
        return SharedBatchNorm()

    def average(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            parts = flat.div_(self.world).split([tensor.numel() for tensor in tensors])
            views = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
            torch._foreach_copy_(list(tensors), views)

    def collect(self, sums: Tensor) -> None:
        dist.all_reduce(sums)
        if self.rank:
            sums.zero_()

    def complete(self, whole: Tensor) -> None:
        mine = self.rows(len(whole))
        whole[: mine.start] = 0
        whole[mine.stop :] = 0
        dist.all_reduce(whole)

    def most(self, *numbers: int) -> tuple[int, ...]:
        said = torch.tensor(numbers)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return tuple(said.tolist())

    def first(self, work: Callable[[], T]) -> T:
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = work()
            except (DeatbenchError, Stopped) as error:
                dist.broadcast_object_list([None, (type(error), vars(error))])
                raise
        dist.broadcast_object_list(told)
        value, failure = told
        if failure is not None:
            raise _again(*failure)
        return value

    def once(self, key: str) -> bool:
        try:
            return self.store.add(f"once/{key}", 1) == 1
        except RuntimeError:  # the store has gone with the first process, which has said what there was to say
            return False

    def queue(self) -> dist.PrefixStore:
        """A store of counters that start from 0; all processes get the same one."""
        self._queues += 1
        return dist.PrefixStore(f"queue/{self._queues}", self.store)

    def _on_gpus_of_their_own(self, device: torch.device) -> bool:
        """Two processes on one GPU cannot use NCCL."""
        of_its_own = device.type == "cuda"  # a cluster may show every process its GPU as cuda:0
        name = f"cuda {torch.cuda.get_device_properties(device).uuid}" if of_its_own else f"cpu of {platform.node()}"
        self.store.set(f"device/{self.rank}", name)
        devices = {self.store.get(f"device/{rank}").decode() for rank in range(self.world)}
        return len(devices) == self.world and all(name.startswith("cuda") for name in devices)


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The processes that work together, those of torchrun, else this one alone; they part at the end of the block.

    Raises ConfigError if they do not meet, DeatbenchError when one of them is lost. A cluster may set some of
    torchrun's variables on its own: that makes no team.
    """
    if not all(os.environ.get(name) for name in TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
        yield Processes()
        return
    team = _met(device)
    try:
        yield team
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise DeatbenchError("another process of torchrun was lost", "the same command continues") from error
        raise
    finally:
        dist.destroy_process_group()


def share_equally(images: int, world: int) -> None:
    """Raises ConfigError unless `world` processes can take equal parts of every batch of so many images."""
    if images % world:
        raise ConfigError(
            f"{world} processes cannot share batches of {images} images equally",
            f"set batch_size to a multiple of {world}, or start another number",
        )


def _met(device: torch.device) -> Team:
    try:
        return Team(device)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ConfigError(f"the processes of torchrun do not meet: {reason}", f"see {', '.join(TORCHRUN)}") from error


def _again(kind: type[BaseException], attributes: dict[str, Any]) -> BaseException:
    """An error as the first process raised it, whatever its constructor asks for."""
    error = kind.__new__(kind)
    error.args = (attributes.get("message", ""),)
    vars(error).update(attributes)
    return error
