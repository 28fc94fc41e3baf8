"""The attack form of a small network as two TorchScript programs, one forth to the logits and one back to the images.

On images of 8 × 8 pixels an operation takes some microseconds, and python and autograd need as many to ask for it. So
one gradient is written down operation by operation as it happens (make_fx), the convolutions of first_conv.py,
dense_conv.py and winograd.py included. What comes before the logits is the one program, what follows the other; between
them stands any loss. TorchScript's interpreter runs them without python and autograd: the same operations on the same
numbers, and so the same bits.

Weights are read where they lie, so that the programs see what AttackForm.refresh writes. The operations are those for
one shape of batch and one number of threads; other batches go to the form itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from deatbench.engine.vjp import Pull, differentiable

MOST_FLOPS = 10**9  # of a forward pass of the whole batch, some 10 ms; with more, the calls hardly count


class ScriptedForm(nn.Module):
    """`form` for batches like `x_NCHW`: [0, 1] images → float32 logits [N, K], differentiable once.

    Args:
        form: takes the same way for all images of a shape; weights ask for no gradient and are written in place.
        x_NCHW: a batch; its pixels do not matter.

    Raises whatever make_fx or TorchScript raise at an operation that they do not know.
    """

    def __init__(self, form: nn.Module, x_NCHW: Tensor) -> None:
        super().__init__()
        self.form, self._kind = form, _kind(x_NCHW)
        self._forth, self._back = _programs(form, x_NCHW)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return differentiable(self._vjp, x_NCHW) if _kind(x_NCHW) == self._kind else self.form(x_NCHW)

    def _vjp(self, x_NCHW: Tensor) -> tuple[Tensor, Pull]:
        logits_NK, *kept = _run(self._forth, x_NCHW)
        return logits_NK, lambda gradient: _run(self._back, gradient.contiguous(), *kept)


def _run(program: torch.jit.ScriptModule, *inputs: Tensor) -> Any:
    """As written. TorchScript would change a program after its first calls, which a resumed run makes anew."""
    with torch.jit.optimized_execution(False):
        return program(*inputs)


def _kind(x_NCHW: Tensor) -> tuple[object, ...]:
    """What decides which operations a form makes."""
    return x_NCHW.shape, x_NCHW.stride(), x_NCHW.dtype, torch.get_num_threads()


def _programs(form: nn.Module, x_NCHW: Tensor) -> tuple[torch.jit.ScriptModule, torch.jit.ScriptModule]:
    """x → [logits, *kept], and gradient of the logits, *kept → gradient of x."""

    def both(x_NCHW: Tensor, gradient_NK: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x_NCHW.detach().requires_grad_(True)
            logits_NK = form(x)
            (found_NCHW,) = torch.autograd.grad(logits_NK, x, gradient_NK)
        return logits_NK, found_NCHW

    with torch.no_grad():
        gradient_NK = torch.ones_like(form(x_NCHW))
    both(x_NCHW, gradient_NK)  # makes what layers keep of their weights, which else each gradient would make anew
    traced = make_fx(both)(x_NCHW, gradient_NK)
    x, gradient, *nodes, output = traced.graph.nodes
    logits, found = output.args[0]
    end = nodes.index(logits) + 1
    forth, back = nodes[:end], nodes[end:]
    kept = [node for node in (x, *forth) if not set(node.users).isdisjoint(back)]
    return _program(traced, [x], forth, [logits, *kept]), _program(traced, [gradient, *kept], back, found)


def _program(
    traced: fx.GraphModule, inputs: Sequence[fx.Node], nodes: Sequence[fx.Node], results: fx.Node | list[fx.Node]
) -> torch.jit.ScriptModule:
    """Part of a graph by itself, in TorchScript, with the graph's own constants."""
    graph, ours = fx.Graph(), {}  # type: fx.Graph, dict[fx.Node, fx.Node]
    for node in inputs:
        ours[node] = graph.placeholder(node.name)
    for node in nodes:
        ours[node] = copied = graph.node_copy(node, ours.__getitem__)
        if isinstance(node.target, torch._ops.OpOverload):  # TorchScript chooses among overloads by itself
            copied.target = node.target.overloadpacket
        if "device" in node.kwargs:
            copied.kwargs = {**copied.kwargs, "device": str(node.kwargs["device"])}
    graph.output(fx.map_arg(results, ours.__getitem__))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        return torch.jit.script(fx.GraphModule(traced, graph))
