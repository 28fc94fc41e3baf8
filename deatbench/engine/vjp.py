"""The gradient of images through a network, layer by layer: autograd's result without its bookkeeping.

An attack asks a network for one thing, the product of a vector with the Jacobian of the logits by the image
(vector-Jacobian product, VJP). The network is a graph that never changes. So each layer goes forth and leaves behind
its *pull*, which takes a gradient of the layer's result back to its inputs; then all pulls run in the opposite order.
To autograd the whole network is one function. Where operations are short their bookkeeping counts: on networks for
8 × 8 images a gradient takes a seventh less time (benchmarks/NOTES-training.md).

Layers that are not known here are left to autograd, each for itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pull = Callable[[Tensor], tuple[Tensor, ...]]  # gradient of a result -> gradients of what it was made from
Vjp = Callable[..., tuple[Tensor, Pull]]  # inputs -> result and its pull

SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
RELUS = {F.relu, torch.relu, "relu", "relu_"}
IN_PLACE = {operator.iadd, "add_", "relu_"}
CALLS = {  # left to autograd; none of them writes over its input
    *(operator.mul, torch.mul, "mul", operator.getitem, torch.sigmoid, "sigmoid", "mean", torch.mean, torch.cat),
    *(torch.flatten, "flatten", F.pad, F.avg_pool2d, F.adaptive_avg_pool2d, F.max_pool2d),
}
threshold_backward = torch.ops.aten.threshold_backward.default


def differentiable(vjp: Vjp, x: Tensor) -> Tensor:
    """What `vjp` makes of x, for autograd one function, which can be differentiated once."""
    result: Tensor = _Once.apply(x, vjp) if torch.is_grad_enabled() and x.requires_grad else vjp(x)[0]
    return result


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, vjp: Vjp) -> Tensor:
        result, ctx.pull = vjp(x)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.pull(gradient)[0], None


class _Step(NamedTuple):
    """One layer: from which values, by their places, it makes the next one; whose last use that was."""

    vjp: Vjp
    sources: tuple[int, ...]
    spent: tuple[int, ...]


class GraphVjp:
    """A traced network of one input as a list of layers.

    Args:
        net: in eval mode; its layers may offer a `vjp` of their own.

    Raises NotImplementedError if the graph holds what is left to autograd as a whole.
    """

    def __init__(self, net: fx.GraphModule) -> None:
        *nodes, output = net.graph.nodes
        place = {node: k for k, node in enumerate(nodes)}
        last_use = {source: node for node in (*nodes, output) for source in node.all_input_nodes}
        self._logits = place[output.all_input_nodes[0]]
        self._steps: list[_Step] = []
        for node in nodes[1:]:
            vjp, sources = _vjp_of(net, node), node.all_input_nodes
            if vjp is None or not sources:
                raise NotImplementedError(str(node.target))
            spent = tuple(place[source] for source in sources if last_use[source] is node)
            self._steps.append(_Step(vjp, tuple(place[source] for source in sources), spent))

    def __call__(self, x_NCHW: Tensor) -> tuple[Tensor, Pull]:
        values: list[Any] = [x_NCHW]
        pulls = []
        for vjp, sources, spent in self._steps:
            value, pull = vjp(*[values[k] for k in sources])
            values.append(value)
            pulls.append(pull)
            for k in spent:
                values[k] = None
        return values[self._logits], lambda gradient: (self._back(gradient, pulls),)

    def _back(self, gradient: Tensor, pulls: list[Pull]) -> Tensor:
        gradients: list[Any] = [None] * (len(pulls) + 1)
        gradients[self._logits] = gradient
        for k in range(len(pulls), 0, -1):
            if gradients[k] is None:  # nobody used it
                continue
            for source, part in zip(self._steps[k - 1].sources, pulls[k - 1](gradients[k]), strict=True):
                before = gradients[source]
                gradients[source] = part if before is None else before + part
            gradients[k] = None
        image_gradient: Tensor = gradients[0]
        return image_gradient


def _vjp_of(net: fx.GraphModule, node: fx.Node) -> Vjp | None:
    """How a node is computed and pulled; None for what may be anything."""
    if writes_over_input(net, node) and len(node.all_input_nodes[0].users) > 1:  # others would see it
        return None
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        return _of_module(net.get_submodule(str(node.target)), _input_is_spare(net, node))
    if node.op not in ("call_function", "call_method"):
        return None
    if node.target in SUMS and len(node.all_input_nodes) == len(node.args) == 2 and not node.kwargs:
        return _sum
    if node.target in RELUS and len(node.args) == 1:
        return _relu(_input_is_spare(net, node))
    return _by_autograd(_bound(node)) if node.target in CALLS else None


def _of_module(module: nn.Module, spare: bool) -> Vjp | None:
    if hasattr(module, "vjp"):
        return cast("Vjp", module.vjp)
    if isinstance(module, nn.ReLU):
        return _relu(spare)
    if type(module) is nn.Linear:
        return _linear(module)
    if isinstance(module, nn.Identity | nn.Dropout):
        return lambda x: (x, lambda gradient: (gradient,))
    return None if getattr(module, "inplace", False) else _by_autograd(module)


def writes_over_input(net: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the network's own code would."""
    if node.op == "call_module":
        return bool(getattr(net.get_submodule(str(node.target)), "inplace", False))
    return node.target in IN_PLACE or bool(node.kwargs.get("inplace"))


def _input_is_spare(net: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node alone sees its input, and no pull does: what a layer with a `vjp` or a sum has made."""
    source = node.all_input_nodes[0]
    made_by = net.get_submodule(str(source.target)) if source.op == "call_module" else None
    return len(source.users) == 1 and (hasattr(made_by, "vjp") or source.target in SUMS)


def _relu(spare: bool) -> Vjp:
    def vjp(x: Tensor) -> tuple[Tensor, Pull]:
        y = x.relu_() if spare else x.relu()
        return y, lambda gradient: (threshold_backward(gradient, y, 0),)

    return vjp


def _linear(layer: nn.Linear) -> Vjp:
    return lambda x: (F.linear(x, layer.weight, layer.bias), lambda gradient: (gradient @ layer.weight,))


def _sum(x: Tensor, y: Tensor) -> tuple[Tensor, Pull]:
    if x.shape != y.shape:
        return _by_autograd(operator.add)(x, y)
    return x + y, lambda gradient: (gradient, gradient)


def _by_autograd(call: Callable[..., Tensor]) -> Vjp:
    def vjp(*inputs: Tensor) -> tuple[Tensor, Pull]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            y = call(*leaves)
        return y.detach(), lambda gradient: torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    return vjp


def _bound(node: fx.Node) -> Callable[..., Tensor]:
    """The node's call as a function of its inputs alone."""

    def call(*inputs: Tensor) -> Tensor:
        known: Mapping[fx.Node, Tensor] = dict(zip(node.all_input_nodes, inputs, strict=True))
        args: Any = fx.node.map_arg(node.args, known.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, known.__getitem__)
        function: Any = getattr(args[0], node.target) if isinstance(node.target, str) else node.target
        result: Tensor = function(*(args[1:] if isinstance(node.target, str) else args), **kwargs)
        return result

    return call
