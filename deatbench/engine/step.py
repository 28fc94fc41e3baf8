"""One training step, made once for a run: attack, loss, update, average and statistics.

The attack asks a shadow of the network (shadow.py) that is renewed at the start of the step; the update runs on the
network itself, on CUDA under bfloat16 autocast with float32 weights. On CUDA both are compiled, and the whole step is
captured as one graph after a few free steps (capture.py). Whatever fails on the way falls back to the plain form of
the same step, with a note. Randomness is a function of (seed, position) in every form.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deatbench.attacks.borrow import mode
from deatbench.attacks.rng import BatchRng
from deatbench.engine.capture import CapturedStep, Draw, RecordingRng, capturable, stream_of_its_own
from deatbench.engine.execution import Execution, fast_kernels
from deatbench.engine.interruption import Interruption
from deatbench.engine.monitor import Monitor
from deatbench.engine.seeding import derive, seed_everything
from deatbench.engine.selfcheck import check_gradient
from deatbench.engine.shadow import TENSOR_CORE_CHANNELS, AttackForm, worth_a_shadow
from deatbench.engine.state import TrainState
from deatbench.errors import DeatbenchError
from deatbench.methods import Batch, Losses

if TYPE_CHECKING:
    from deatbench.engine.train import Plan

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
        self.plan, self.state, self.monitor = plan, state, monitor or Monitor()
        alone = plan.processes.world == 1  # else nobody may leave in the middle: the others wait for its share
        self.stop = stop if stop is not None and alone else Interruption()
        self.execution = execution or Execution.from_environment()
        self.cuda = plan.device.type == "cuda"
        self.half = plan.config.precision == "bf16"
        self.form: AttackForm | None = None
        self.network: nn.Module = state.model  # what the loss asks
        self.search: nn.Module | None = None  # what the attack asks; None: the network itself
        self.captured: CapturedStep | None = None
        self._inner = plan.inner
        self.preparation_seconds = 0.0
        self._graph = alone and self._wanted(self.execution.graph) and capturable(state.optimizer, self.cuda)
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
                self._prepare(self._batch(x_NCHW, y_N))
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
            rng = RecordingRng(self._generator)
            batch, self._draws = replace(batch, rng=rng), rng.draws
        if self._long and not self.cuda:  # many seconds on a CPU, for which a signal need not wait
            with self.state.all_or_nothing(), self.stop.at_once():
                self._work(batch)
        else:
            self._work(batch)

    def _work(self, batch: Batch) -> None:
        """The step itself, free of host syncs once the first one is done."""
        team = self.plan.processes
        for _ in range(self.plan.method.replays):
            if self.form is not None:
                self.form.refresh()
            x_adv_NCHW = self._perturb(self.search, batch)
            self.state.optimizer.zero_grad(set_to_none=True)
            with team.shared_batch_norm():
                losses = self.plan.method.descend(self.network, batch, x_adv_NCHW, self._inner, self._autocast)
            team.average([weight.grad for weight in self.state.model.parameters() if weight.grad is not None])
            self._update()
            self._average()
            self.state.totals += self._counts(losses, batch.y_N)

    def _perturb(self, search: nn.Module | None, batch: Batch) -> Tensor:
        plan, inner = self.plan, self._inner
        with nullcontext() if self._long else self.stop.at_once():  # an attack in eval mode changes nothing
            if search is not None:
                return plan.method.perturb(search, batch, inner).detach()
            train = inner.bn_mode == "train"
            with self._autocast(), mode(self.state.model, training=train), plan.processes.shared_batch_norm():
                return plan.method.perturb(self.state.model, batch, inner).detach()

    def _update(self) -> None:
        optimizer = self.state.optimizer
        try:
            optimizer.step()
        except RuntimeError as error:
            if self._done or not any(group.get("fused") for group in optimizer.param_groups):
                raise
            self._note("the fused optimizer update", error)
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

    def _prepare(self, batch: Batch) -> None:
        """Build the attack form, check its gradient, compile what is to be compiled; state and randomness stay."""
        started = time.perf_counter()
        self.state.model.train()
        plan = self.plan
        if plan.method.asks_network and self.execution.fold != "off" and plan.inner.bn_mode == "eval":
            self._attempt("the folded attack form", lambda: self._build_form(batch))
        if self._wanted(self.execution.compile):
            if self.form is not None:
                self._attempt("the compiled attack", lambda: self._compile_attack(batch))
            if self.execution.compile != "attack" and plan.processes.world == 1:
                self._attempt("the compiled training pass", lambda: self._compile_network(batch))
        if self.cuda:
            torch.cuda.synchronize(plan.device)
        self.preparation_seconds = time.perf_counter() - started
        self._ready = True
        if self.cuda:
            self.monitor.note(f"training step prepared in {self.preparation_seconds:.1f} s ({self.describe()})")

    def describe(self) -> str:
        """The form the step takes, in words."""
        attack = "unfolded" if self.form is None else "folded bf16" if self.half else "folded float32"
        forms = {"attack": self.search is not self.form, "update": self.network is not self.state.model}
        compiled = [part for part, is_compiled in forms.items() if is_compiled]
        graph = "graph captured" if self.captured else f"graph after {FREE_STEPS} steps" if self._graph else "no graph"
        return f"attack {attack}, compiled: {' and '.join(compiled) or 'nothing'}, {graph}"

    def _build_form(self, batch: Batch) -> None:
        model, dtype = self.state.model, torch.bfloat16 if self.half else torch.float32
        if not worth_a_shadow(model, dtype):
            return
        wide = TENSOR_CORE_CHANNELS if self.cuda and self.half else 0
        channels = wide if self.execution.channels == "auto" else int(self.execution.channels)
        form = AttackForm(model, dtype, channels)
        agreement = check_gradient(form, model, batch.x_NCHW, batch.y_N)
        if self.cuda:
            self.monitor.note(f"attack form's input gradient against float64: {agreement}")
        self.form = self.search = form

    def _compile_attack(self, batch: Batch) -> None:
        assert self.form is not None
        compiled = self._compiled(self.form)
        agreement = check_gradient(compiled, self.state.model, batch.x_NCHW, batch.y_N)
        self._perturb(compiled, batch)
        if self.cuda:
            self.monitor.note(f"compiled attack's input gradient against float64: {agreement}")
        self.search = compiled

    def _compile_network(self, batch: Batch) -> None:
        """Compile and try the training pass; statistics of batch norm are put back, gradients dropped."""
        before = [buffer.clone() for buffer in self.state.model.buffers()]
        compiled = self._compiled(self.state.model)
        try:
            with self._autocast():
                losses = self.plan.method.loss(compiled, batch, batch.x_NCHW)
            losses.loss.backward()
        finally:
            self.state.optimizer.zero_grad(set_to_none=True)
            for buffer, value in zip(self.state.model.buffers(), before, strict=True):
                buffer.copy_(value)
        self.network = compiled

    def _compiled(self, network: nn.Module) -> nn.Module:
        torch._dynamo.config.recompile_limit = max(
            torch._dynamo.config.recompile_limit, 64
        )  # several runs in a process
        compiled: nn.Module = torch.compile(network, dynamic=False, mode=self.execution.mode)  # type: ignore[assignment]
        return compiled

    def _capture(self, batch: Batch) -> None:
        self.state.optimizer.zero_grad(set_to_none=True)

        def capture() -> None:
            self.captured = CapturedStep(self._work, batch, self._draws, self._stream)
            if self.cuda:
                self.monitor.note(f"training step captured as one CUDA graph ({self.describe()})")

        self._attempt("the CUDA graph of the step", capture)
        self._graph = self.captured is not None

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # anybody's model, a compiler, a driver: none of them may stop a run
            self._note(what, error)
            self.state.optimizer.zero_grad(set_to_none=True)

    def _note(self, what: str, error: Exception) -> None:
        reason = error.message if isinstance(error, DeatbenchError) else (str(error).splitlines() or [""])[0]
        self.monitor.note(f"training without {what}: {type(error).__name__}: {reason[:300]}")

    def _wanted(self, switch: str) -> bool:
        return self.cuda if switch == "auto" else switch != "off"

    def _autocast(self) -> AbstractContextManager[object]:
        # The cache of cast weights would outlive the step that a graph captures.
        return torch.autocast(self.plan.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)
