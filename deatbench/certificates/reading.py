"""Reading a network off an nn.Module: known layers however they are spelled, everything else is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deatbench.archs.normalize import Normalize
from deatbench.certificates.layers import (
    Box,
    Conv,
    Dense,
    Entrance,
    Flatten,
    Layer,
    ReLU,
    Scale,
    Sum,
    Unshuffle,
    on_blocks,
    outputs,
)
from deatbench.certificates.network import Network, NotCertifiable, Step

NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in eval mode
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS = (F.relu, torch.relu, "relu", "relu_")
IN_PLACE = (operator.iadd, "add_", "relu_")
FLATTENS = (torch.flatten, "flatten", "view", "reshape")
SIZES = ("size", getattr, operator.getitem, len)
SAME = 1e-4  # of the largest logit: is it the same function?
PROBE = 32  # images that suffice to see that


def read(model: nn.Module, x_NCHW: Tensor) -> Network:
    """The layers of `model`, which is in eval mode; `x_NCHW` are images on which both must agree.

    Known are convolutions, dense layers, batch norm, ReLU, sums, flattening and `Normalize`. Raises NotCertifiable for
    everything else.
    """
    if any(part.training for part in model.modules()):
        raise NotCertifiable("the network is in train mode")
    try:
        network = _Reader(model, tuple(x_NCHW.shape[1:])).network()
        with torch.no_grad():
            expected_NK, found_NK = model(x_NCHW), torch.stack([network.logits(x_CHW) for x_CHW in x_NCHW])
    except NotCertifiable:
        raise
    except Exception as error:  # anybody's code, traced: whatever it raises, it cannot be read
        raise NotCertifiable(f"the network cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    if not isinstance(expected_NK, Tensor) or found_NK.ndim != 2:
        raise NotCertifiable("the network does not end with its logits")
    if (
        expected_NK.shape != found_NK.shape
        or not (expected_NK - found_NK).abs().max() <= SAME * expected_NK.abs().max()
    ):
        raise NotCertifiable("the network is not the function that was read")
    return network


class _Proxy(fx.Proxy):
    """Sees `+=` as what it is; fx takes it for a sum."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalize) or super().is_leaf_module(m, module_qualified_name)


class _Reader:
    """Goes through a traced network once."""

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...]) -> None:
        _refuse_additions(model)
        self.model = model
        self.graph = _Tracer().trace(model)
        self.steps: list[Step] = []
        self.at: dict[fx.Node, int] = {}  # the step that makes a node's value; −1 is the image
        self.other_names: dict[fx.Node, fx.Node] = {}  # whose memory a node shares
        self.image_shape = image_shape

    def network(self) -> Network:
        for node in self.graph.nodes:
            if node.op == "output":
                if not self.steps or [self.at.get(source) for source in node.all_input_nodes] != [len(self.steps) - 1]:
                    raise NotCertifiable("the network does not end with its logits")
            elif node.op == "placeholder":
                if self.at:
                    raise NotCertifiable("the network takes more than an image")
                self.at[node] = -1
            elif not (node.target in SIZES and node.op in ("call_function", "call_method")):
                self._step(node)
        return _with_entrance(self.steps, self.image_shape)

    def _step(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.at]
        layer = self._layer_of(node, sources)
        if layer is None or isinstance(layer, Flatten):
            self.other_names[node] = sources[0]
        if layer is None:
            self.at[node] = self.at[sources[0]]
            return
        inputs = tuple(self.at[source] for source in sources) * (
            2 if isinstance(layer, Sum) and len(sources) == 1 else 1
        )
        self.steps.append(Step(layer, inputs, self._shape_after(layer, self._shape(inputs[0]))))
        self.at[node] = len(self.steps) - 1

    def _refuse_readers(self, node: fx.Node) -> None:
        """What a layer writes over may have been read by it alone, under whatever name."""
        while len(node.users) == 1 and node in self.other_names:
            node = self.other_names[node]
        if len(node.users) > 1:
            raise NotCertifiable("the network writes over a map that it uses again")

    def _shape(self, step: int) -> tuple[int, ...]:
        return self.image_shape if step < 0 else self.steps[step].shape

    def _shape_after(self, layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
        zeros = torch.zeros(shape)
        return tuple(layer.forward(*[Box(zeros, zeros)] * (2 if isinstance(layer, Sum) else 1)).lower.shape)

    def _layer_of(self, node: fx.Node, sources: list[fx.Node]) -> Layer | None:
        """The layer of a node; None for one that changes nothing. Raises NotCertifiable."""
        if not sources:
            raise NotCertifiable(f"the network computes {node.target} of something that is not the image")
        shape = self._shape(self.at[sources[0]])
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            if getattr(module, "inplace", False) and not isinstance(module, NOTHING):
                self._refuse_readers(sources[0])
            return _layer_of_module(module, shape)
        if node.op not in ("call_function", "call_method"):
            raise NotCertifiable(f"the network uses {node.target}")
        if node.target in IN_PLACE or node.kwargs.get("inplace"):
            self._refuse_readers(sources[0])
        if node.target in SUMS and len(node.args) == 2 and all(arg in self.at for arg in node.args) and not node.kwargs:
            if len({self._shape(self.at[source]) for source in sources}) > 1:
                raise NotCertifiable("the network adds maps of different shapes")
            return Sum()
        if node.target in RELUS:
            return ReLU()
        if node.target in FLATTENS and len(sources) == 1:
            return Flatten(shape)  # whether to [N, D] shows when logits are compared
        raise NotCertifiable(f"the network uses {getattr(node.target, '__name__', node.target)}")


def _layer_of_module(module: nn.Module, shape: tuple[int, ...]) -> Layer | None:
    known = READERS.get(type(module))
    if known is not None:
        return known(module, shape)
    if type(module) in NOTHING:
        return None
    raise NotCertifiable(f"the network uses {type(module).__name__}")


def _conv(module: nn.Conv2d, shape: tuple[int, ...]) -> Layer:
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not plain or isinstance(padding, str) or any(len(set(edge)) > 1 for edge in (kernel, stride, padding)):
        raise NotCertifiable("the network uses convolutions that are grouped, dilated or not square")
    sizes = [outputs(length, kernel[0], stride[0], int(padding[0])) for length in shape[1:]]
    bias = torch.zeros(module.out_channels) if module.bias is None else module.bias.detach()
    return Conv(module.weight.detach(), bias, stride[0], int(padding[0]), shape, (module.out_channels, *sizes))


def _dense(module: nn.Linear, shape: tuple[int, ...]) -> Layer:
    if len(shape) != 1:
        raise NotCertifiable("the network uses a dense layer on a map")
    bias = torch.zeros(module.out_features) if module.bias is None else module.bias.detach()
    return Dense(module.weight.detach(), bias)


def _batch_norm(module: nn.BatchNorm2d | nn.BatchNorm1d, shape: tuple[int, ...]) -> Layer:
    if module.running_mean is None or module.running_var is None:
        raise NotCertifiable("the network's batch norm has no running statistics")
    factor_C = (module.running_var.double() + module.eps).rsqrt()
    if module.weight is not None:
        factor_C = factor_C * module.weight.detach().double()
    shift_C = -module.running_mean.double() * factor_C
    if module.bias is not None:
        shift_C = shift_C + module.bias.detach().double()
    ends = (-1, *[1] * (len(shape) - 1))
    return Scale(factor_C.float().view(ends), shift_C.float().view(ends), shape)


def _normalize(module: Normalize, shape: tuple[int, ...]) -> Layer:
    return Scale(1 / module.std[0], -module.mean[0] / module.std[0], shape)


READERS: dict[type[nn.Module], Callable[[Any, tuple[int, ...]], Layer]] = {
    nn.Conv2d: _conv,
    nn.Linear: _dense,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    Normalize: _normalize,
    nn.ReLU: lambda module, shape: ReLU(),
    nn.Flatten: lambda module, shape: Flatten(shape),
}


def _refuse_additions(model: nn.Module) -> None:
    """Hooks and replaced methods are run by the network and seen by no trace."""
    for path, part in model.named_modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks)
        if any(hooks) or "forward" in vars(part) or "__call__" in vars(part):
            raise NotCertifiable(f"the network has hooks of its own ({path or 'at its root'})")


def _with_entrance(steps: list[Step], shape: tuple[int, ...]) -> Network:
    """What happens to pixels one by one, in front of the network; a strided first convolution sees blocks of them."""
    entrance: list[Entrance] = []
    while steps and isinstance(steps[0].layer, Scale) and sum(-1 in step.inputs for step in steps) == 1:
        entrance.append(steps[0].layer)
        steps = [_moved(step) for step in steps[1:]]
    first = steps[0].layer if steps else None
    alone = sum(-1 in step.inputs for step in steps) == 1
    if isinstance(first, Conv) and alone and first.stride > 1 and not any(size % first.stride for size in shape[1:]):
        entrance.append(Unshuffle(first.stride))
        steps = [Step(on_blocks(first), (-1,), steps[0].shape), *steps[1:]]
        shape = (shape[0] * first.stride**2, shape[1] // first.stride, shape[2] // first.stride)
    return Network(tuple(entrance), shape, tuple(steps))


def _moved(step: Step) -> Step:
    """A step whose predecessors are one fewer, the first of them the image now."""
    return Step(step.layer, tuple(source - 1 for source in step.inputs), step.shape)
