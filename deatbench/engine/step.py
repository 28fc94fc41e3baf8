"""One training step, made once for a run: attack, loss, update, average and statistics.

The attack asks a shadow of the network that is renewed at the start of the step; the update runs on the network itself,
on CUDA under bfloat16 autocast with float32 weights (forms.py). On CUDA the whole step is captured as one graph after a
few free steps (capture.py). Whatever fails on the way falls back to the plain form of the same step, with a note.
Randomness is a function of (seed, position) in every form.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from deatbench.archs.build import count_flops
from deatbench.attacks.borrow import mode
from deatbench.attacks.rng import BatchRng
from deatbench.engine.attack_threads import AttackThreads
from deatbench.engine.capture import (
    CapturedStep,
    Draw,
    RecordingRng,
    capturable,
    stream_of_its_own,
    waits_noticed,
)
from deatbench.engine.execution import Execution, fast_kernels
from deatbench.engine.forms import Forms
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.seeding import derive, seed_everything
from deatbench.engine.shadow import AttackForm
from deatbench.engine.state import TrainState
from deatbench.errors import DeatbenchError
from deatbench.methods import Batch, Losses

FREE_STEPS = 3  # before a capture: they create the optimizer's state, choose convolution algorithms, load kernels


class Step:
    """A callable that trains on one batch and changes `state` in place; it never waits for the device.

    Args:
        plan: what is trained and how.
        state: restored before the step is made; its tensors keep their addresses from then on.
        monitor: is told which form the step takes, and why if it is a slower one.
        execution: None: from the environment.
        stop: may end an attack at once, by raising Stopped out of the step.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        monitor: Monitor | None = None,
        execution: Execution | None = None,
        stop: Interruption | None = None,
    ) -> None:
        self.plan, self.state = plan, state
        alone = plan.processes.world == 1  # else nobody may leave in the middle: the others wait for its share
        self.stop = stop if stop is not None and alone else Interruption()
        self.execution = execution or Execution.from_environment()
        self.cuda = plan.device.type == "cuda"
        self.forms = Forms(plan, state.model, self.execution, monitor or Monitor())
        self.captured: CapturedStep | None = None
        self._inner = plan.inner
        graph = self.cuda if self.execution.graph == "auto" else self.execution.graph != "off"
        self._graph = alone and graph and capturable(state.optimizer, self.cuda)
        self._threads: AttackThreads | None = None
        self._long = plan.method.replays > 1 or (plan.method.adversarial and plan.inner.bn_mode == "train")
        self._generator = torch.Generator(device=plan.device)
        self._stream = torch.cuda.Stream(plan.device) if self.cuda else None
        self._lr = torch.zeros((), device=plan.device) if self.cuda else None
        self._done, self._ready = 0, False
        self._draws: list[Draw] = []

    def __call__(self, x_NCHW: Tensor, y_N: Tensor, position: int, lr: float) -> None:
        """Train on images in [0, 1] that are not yet augmented; `position` counts batches since the run began."""
        state, seed = self.state, self.plan.config.seed
        with stream_of_its_own(self._stream), fast_kernels(self.cuda, self.execution.algorithms == "all"):
            if not state.memory:
                state.memory = self.plan.method.memory(x_NCHW.contiguous(memory_format=torch.channels_last))
            if not self._ready:
                self.forms.prepare(self._batch(x_NCHW, y_N))
                if not self.cuda and not self._graph:
                    self._threads = AttackThreads(count_flops(state.model, (1, *x_NCHW.shape[1:])))
                self._ready = True
            rank = self.plan.processes.rank  # for what the network itself draws: other rows, other numbers
            seed_everything(seed, f"step/{rank}" if rank else "step", position)
            self._generator.manual_seed(derive(seed, "batch", position))
            batch = self._batch(*self._augmented(x_NCHW, y_N))
            self._inner, full_eps = self.plan.inner_at(position)
            self._set_lr(lr)
            state.model.train()
            if self._graph and self.captured is None and self._done >= FREE_STEPS and full_eps:
                self._capture(batch)
            if self.captured is not None and self.captured.fits(batch):
                self.captured.replay(batch, self._generator)
            else:
                self._run_freely(batch)
        self._done += 1

    def _augmented(self, x_NCHW: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        augmented = self.plan.augment(x_NCHW, y_N, self._generator)
        return augmented.x_NCHW, y_N, augmented.other_N, augmented.share_N

    def _batch(
        self, x_NCHW: Tensor, y_N: Tensor, other_N: Tensor | None = None, share_N: Tensor | None = None
    ) -> Batch:
        """This process's rows of the whole batch."""
        team, rows = self.plan.processes, self.plan.processes.rows(len(y_N))
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        return Batch(
            x_NCHW[rows],
            y_N[rows],
            BatchRng(self._generator, team.rank, team.world),
            None if other_N is None else other_N[rows],
            None if share_N is None else share_N[rows],
            self.plan.config.label_smoothing,
            {name: tensor[rows] for name, tensor in self.state.memory.items()},
            team.average,
        )

    def _run_freely(self, batch: Batch) -> None:
        if self._graph and self.captured is None:
            self._rehearse(batch)
        elif self._long and not self.cuda:  # many seconds on a CPU, for which a signal need not wait
            with self.state.all_or_nothing(), self.stop.at_once():
                self._work(batch)
        else:
            self._work(batch)

    def _rehearse(self, batch: Batch) -> None:
        """A free step before the capture: remembers what it draws, and whether a graph can hold it."""
        rng = RecordingRng(self._generator)
        with waits_noticed(self.cuda and self._done >= FREE_STEPS - 1) as waits:  # the first ones wait in any case
            self._work(replace(batch, rng=rng))
        self._draws = rng.draws
        if waits:
            self._graph = False
            self.forms.without("the CUDA graph of the step", DeatbenchError("it waits for the device in between"))

    def _work(self, batch: Batch) -> None:
        """The step itself, free of host syncs once the first one is done."""
        team = self.plan.processes
        for _ in range(self.plan.method.replays):
            self.forms.refresh()
            x_adv_NCHW = self._perturb(batch)
            self.state.optimizer.zero_grad(set_to_none=True)
            with team.shared_batch_norm():
                network, precision = self.forms.network, self.forms.autocast
                losses = self.plan.method.descend(network, batch, x_adv_NCHW, self._inner, precision)
            team.average([weight.grad for weight in self.state.model.parameters() if weight.grad is not None])
            self._update()
            self._average()
            self.state.totals += self._counts(losses, batch.y_N)

    def _perturb(self, batch: Batch) -> Tensor:
        plan, inner, search = self.plan, self._inner, self.forms.search
        with nullcontext() if self._long else self.stop.at_once():  # an attack in eval mode changes nothing
            if self._threads is not None and isinstance(search, AttackForm) and self._threads.divide(len(batch.y_N)):
                return self._threads.perturb(plan.method, search, batch, inner).detach()
            if search is not None:
                return plan.method.perturb(search, batch, inner).detach()
            train = inner.bn_mode == "train"
            with self.forms.autocast(), mode(self.state.model, training=train), plan.processes.shared_batch_norm():
                return plan.method.perturb(self.state.model, batch, inner).detach()

    def _update(self) -> None:
        optimizer = self.state.optimizer
        try:
            optimizer.step()
        except RuntimeError as error:
            if self._done or not any(group.get("fused") for group in optimizer.param_groups):
                raise
            self.forms.without("the fused optimizer update", error)
            self._graph = False
            for group in optimizer.param_groups:
                group["fused"], group["foreach"], group["lr"] = False, True, float(group["lr"])
            optimizer.step()

    def _average(self) -> None:
        """The weight average; after the first step without torch's look at its counter, which waits for the device."""
        ema = self.state.ema
        if ema is None:
            return
        if not self._done or ema.multi_avg_fn is None:
            ema.update_parameters(self.state.model)
            return
        with torch.no_grad():
            ema.multi_avg_fn(list(ema.module.parameters()), list(self.state.model.parameters()), ema.n_averaged)
            for ours, theirs in zip(ema.module.buffers(), self.state.model.buffers(), strict=True):
                ours.copy_(theirs)
            ema.n_averaged += 1

    def _counts(self, losses: Losses, y_N: Tensor) -> Tensor:
        """One batch's contribution to the epoch's sums, in the order of TOTALS."""
        n = torch.full((), float(len(y_N)), dtype=torch.float64, device=y_N.device)
        zero = torch.zeros_like(n)
        parts = [n, losses.loss.detach() * n]
        for logits_NK in (losses.clean_logits_NK, losses.adv_logits_NK):
            if logits_NK is None:
                parts += [zero, zero]
            else:
                parts += [(logits_NK.detach().argmax(1) == y_N).sum().double(), n]
        return torch.stack([part.double() for part in parts])

    def _set_lr(self, lr: float) -> None:
        """On CUDA into the tensor that a captured update reads, else as a number."""
        if self._lr is not None:
            self._lr.fill_(lr)
        for group in self.state.optimizer.param_groups:
            group["lr"] = lr if self._lr is None or group.get("fused") is False else self._lr

    def _capture(self, batch: Batch) -> None:
        self.state.optimizer.zero_grad(set_to_none=True)

        def capture() -> None:
            self.captured = CapturedStep(self._work, batch, self._draws, self._stream)
            if self.cuda:
                self.forms.monitor.note(f"training step captured as one CUDA graph ({self.forms.describe()})")

        self.forms.attempt("the CUDA graph of the step", capture)
        self._graph = self.captured is not None
