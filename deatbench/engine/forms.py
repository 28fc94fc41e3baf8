"""The forms that a network takes in a training step, built and checked once, on the first batch.

Its attack asks a shadow of the network (shadow.py), its loss the network itself; on CUDA both are compiled, on a CPU a
small network's shadow is scripted (scripted.py). What fails on the way is left out, with a note.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from deatbench.archs.build import count_flops
from deatbench.engine.execution import Execution, compiled
from deatbench.engine.monitor import Monitor
from deatbench.engine.plan import Plan
from deatbench.engine.scripted import MOST_FLOPS, ScriptedForm
from deatbench.engine.search import strict_float32
from deatbench.engine.selfcheck import check_gradient
from deatbench.engine.shadow import TENSOR_CORE_CHANNELS, AttackForm, worth_a_shadow
from deatbench.errors import DeatbenchError
from deatbench.methods import Batch


class Forms:
    """What a step's attack and its loss ask.

    Attributes:
        network: what the loss asks: the model, perhaps compiled.
        search: what the attack asks, the shadow, perhaps compiled or scripted; None: the model itself.
    """

    def __init__(self, plan: Plan, model: nn.Module, execution: Execution, monitor: Monitor) -> None:
        self.plan, self.model, self.execution, self.monitor = plan, model, execution, monitor
        self.cuda, self.half = plan.device.type == "cuda", plan.config.precision == "bf16"
        self.network = model
        self.search: nn.Module | None = None
        self._shadow: AttackForm | None = None
        self._compiled: list[str] = []

    def prepare(self, batch: Batch) -> None:
        """Build the shadow, check its gradient, compile what is to be compiled; state and randomness stay."""
        started, plan = time.perf_counter(), self.plan
        self.model.train()
        if plan.method.asks_network and self.execution.fold != "off" and plan.inner.bn_mode == "eval":
            self.attempt("the folded attack form", lambda: self._build_shadow(batch))
        if self.cuda if self.execution.compile == "auto" else self.execution.compile != "off":
            if self._shadow is not None:
                self.attempt("the compiled attack", lambda: self._compile_attack(batch))
            if self.execution.compile != "attack" and plan.processes.world == 1:
                self.attempt("the compiled training pass", lambda: self._compile_network(batch))
        elif self._shadow is not None and not self.cuda and self.execution.script != "off":
            self.attempt("the scripted attack", lambda: self._script_attack(batch))
        if self.cuda:
            torch.cuda.synchronize(plan.device)
            self.monitor.note(f"training step prepared in {time.perf_counter() - started:.1f} s ({self.describe()})")

    def refresh(self) -> None:
        """Take over the model's present weights."""
        if self._shadow is not None:
            self._shadow.refresh()

    def autocast(self) -> AbstractContextManager[object]:
        """The training pass's precision; the cache of cast weights would outlive the step that a graph captures."""
        return torch.autocast(self.plan.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)

    def describe(self) -> str:
        """The forms in words."""
        attack = "unfolded" if self._shadow is None else "folded bf16" if self.half else "folded float32"
        return f"attack {attack}, compiled: {' and '.join(self._compiled) or 'nothing'}"

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do without what fails, and say so."""
        try:
            work()
        except Exception as error:  # anybody's model, a compiler, a driver: none of them may stop a run
            self.without(what, error)
            self.model.zero_grad(set_to_none=True)

    def without(self, what: str, error: Exception) -> None:
        """Say what the step does without, and why."""
        reason = error.message if isinstance(error, DeatbenchError) else (str(error).splitlines() or [""])[0]
        self.monitor.note(f"training without {what}: {type(error).__name__}: {reason[:300]}")

    def _build_shadow(self, batch: Batch) -> None:
        dtype = torch.bfloat16 if self.half else torch.float32
        if not worth_a_shadow(self.model, dtype):
            return
        wide = TENSOR_CORE_CHANNELS if self.cuda and self.half else 0
        channels = wide if self.execution.channels == "auto" else int(self.execution.channels)
        shadow = AttackForm(self.model, dtype, channels)
        with strict_float32():  # is it the same function? TF32, in which it may compute, is too coarse to tell
            agreement = check_gradient(shadow, self.model, batch.x_NCHW, batch.y_N)
        if self.cuda:
            self.monitor.note(f"attack form's input gradient against float64: {agreement}")
        self._shadow = self.search = shadow

    def _compile_attack(self, batch: Batch) -> None:
        assert self._shadow is not None
        search = compiled(self._shadow, self.execution.mode)
        agreement = check_gradient(search, self.model, batch.x_NCHW, batch.y_N, tf32=self.cuda)
        self.plan.method.perturb(search, batch, self.plan.inner)
        if self.cuda:
            self.monitor.note(f"compiled attack's input gradient against float64: {agreement}")
        self.search = search
        self._compiled.append("attack")

    def _script_attack(self, batch: Batch) -> None:
        """For networks so small that calls cost as much as what they compute."""
        assert self._shadow is not None
        if count_flops(self.model, batch.x_NCHW.shape) > MOST_FLOPS:
            return
        search = ScriptedForm(self._shadow, batch.x_NCHW)
        check_gradient(search, self.model, batch.x_NCHW, batch.y_N)
        self.search = search

    def _compile_network(self, batch: Batch) -> None:
        """Compile and try the training pass; statistics of batch norm are put back, gradients dropped."""
        before = [buffer.clone() for buffer in self.model.buffers()]
        network = compiled(self.model, self.execution.mode)
        try:
            with self.autocast():
                losses = self.plan.method.loss(network, batch, batch.x_NCHW)
            losses.loss.backward()
        finally:
            self.model.zero_grad(set_to_none=True)
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
        self.network = network
        self._compiled.append("update")
