"""The network that the attack inside training asks: the same function in eval mode, cheaper, no weight gradients.

Batch norm behind a convolution is folded into its weights, elsewhere it is one multiply-add (in bfloat16: torch's own,
which keeps its constants in float32); weights and activations may be bfloat16 throughout. `refresh` writes the current
weights into the same memory, so that a captured CUDA graph stays valid; what needs neither folding nor another type
shares its memory with the network and is never stale. On a CPU in float32 the convolution that sees the image has an
input gradient of its own (first_conv.py), and the division by the pixels' deviation is folded into its weights too;
convolutions on the smallest maps are matrix products (dense_conv.py), wide ones of 3 × 3 taps are transformed so that
they need a quarter of the products (winograd.py).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from deatbench.archs.normalize import Normalize
from deatbench.engine.first_conv import first_conv
from deatbench.engine.shadow_layers import ShadowConv, ShadowNorm, ShadowNormalize, there

TENSOR_CORE_CHANNELS = 8  # half-precision convolutions on images of 3 channels are slow; zeros fill them up


class _Tracer(fx.Tracer):
    """Looks into everything but torch's own layers and the normalisation of pixels.

    It refuses what a trace would lose: autograd functions run their forward, and only that is seen, without gradients.
    """

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        with torch.enable_grad():
            return super().trace(*args, **kwargs)

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        if not torch.is_grad_enabled():
            raise TraceError("part of the network has a gradient of its own, or none")
        return super().create_proxy(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalize) or super().is_leaf_module(m, module_qualified_name)


class _Folded:
    """A batch norm of the network, the convolution in front of it if they are one, and their shadow."""

    def __init__(self, norm: nn.BatchNorm2d, conv: nn.Conv2d | None, shadow: ShadowConv | ShadowNorm) -> None:
        self.norm, self.conv, self.shadow = norm, conv, shadow
        self.mean_C, self.var_C = there(norm.running_mean), there(norm.running_var)
        zeros_C = torch.zeros_like(self.mean_C)
        self.gamma_C = torch.ones_like(zeros_C) if norm.weight is None else norm.weight.detach()
        self.beta_C = zeros_C if norm.bias is None else norm.bias.detach()
        self.bias_C = zeros_C if conv is None or conv.bias is None else conv.bias.detach()

    def write(self, scale_C: Tensor, shift_C: Tensor) -> None:
        """x ↦ scale · (convolution without bias) + shift, into the shadow."""
        if isinstance(self.shadow, ShadowNorm):
            self.shadow.scale.copy_(scale_C[None, :, None, None])
            self.shadow.shift.copy_(shift_C[None, :, None, None])
        elif self.conv is not None:
            there(self.shadow.bias).copy_(shift_C)
            torch.mul(self.conv.weight.detach(), scale_C[:, None, None, None], out=self.shadow.filled)


class AttackForm(nn.Module):
    """`model` in eval mode: float [0, 1] images [N, C, H, W] → float32 logits [N, K], no weight gradients.

    Args:
        model: batch norm over channels, any layers that torch.fx can trace; its mode is left alone.
        dtype: of weights and activations; pixels are normalised in float32 whatever it is.
        channels: images of fewer channels are filled up with zeros before the first convolution.

    Raises whatever torch.fx raises when it cannot trace the model.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32, channels: int = 0) -> None:
        super().__init__()
        root = copy.deepcopy(model).eval().requires_grad_(False)
        graph = _Tracer().trace(root)
        self._folded: list[_Folded] = []
        self._copies: list[tuple[Tensor, Tensor]] = []  # (ours, the network's)
        _replace_convolutions(root, graph, model, dtype, channels, self._folded, self._copies)
        self._divided = _replace_normalize(root, graph, model)  # (weight, pixels' deviation)
        if dtype == torch.float32:
            _replace_norms(root, graph, model, self._folded)
        _share_or_copy(root, model, dtype, self._copies)
        self.net = fx.GraphModule(root, graph)
        self._convs = [part for part in self.net.modules() if isinstance(part, ShadowConv)]
        self.eval()
        self.refresh()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.net(x_NCHW).float()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's present weights and running statistics, in place."""
        if self._copies:
            torch._foreach_copy_([ours for ours, _ in self._copies], [theirs for _, theirs in self._copies])
        if self._folded:
            self._fold()
        for weight, deviation_1C11 in self._divided:
            weight.div_(deviation_1C11)
        for conv in self._convs:
            conv.renew()

    def _fold(self) -> None:
        parts = self._folded
        scales = torch._foreach_add([part.var_C for part in parts], [part.norm.eps for part in parts])
        torch._foreach_sqrt_(scales)
        scales = torch._foreach_div([part.gamma_C for part in parts], scales)
        shifts = torch._foreach_sub([part.bias_C for part in parts], [part.mean_C for part in parts])
        torch._foreach_mul_(shifts, scales)
        torch._foreach_add_(shifts, [part.beta_C for part in parts])
        for part, scale_C, shift_C in zip(parts, scales, shifts, strict=True):
            part.write(scale_C, shift_C)


def worth_a_shadow(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether there is anything to gain: batch norm to fold, another type, a faster gradient of the image."""
    return dtype != torch.float32 or any(
        isinstance(part, nn.BatchNorm2d) or (type(part) is nn.Conv2d and first_conv(part, dtype) is not None)
        for part in model.modules()
    )


def _replace_convolutions(
    root: nn.Module,
    graph: fx.Graph,
    model: nn.Module,
    dtype: torch.dtype,
    channels: int,
    folded: list[_Folded],
    copies: list[tuple[Tensor, Tensor]],
) -> None:
    """Every convolution that is called once becomes a ShadowConv, with its batch norm where nobody else sees it."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times: dict[str, int] = {}
    for node in calls:
        times[str(node.target)] = times.get(str(node.target), 0) + 1
    for node in calls:
        conv = model.get_submodule(str(node.target))
        if type(conv) is not nn.Conv2d or times[str(node.target)] > 1 or conv.padding_mode != "zeros":
            continue
        behind = _norm_behind(node, model, times)
        shadow = ShadowConv(conv, dtype, behind is not None or conv.bias is not None, channels)
        root.set_submodule(str(node.target), shadow)
        if behind is None:
            copies.append((shadow.filled, conv.weight.detach()))
            if conv.bias is not None:
                copies.append((there(shadow.bias), conv.bias.detach()))
            continue
        norm = model.get_submodule(str(behind.target))
        assert isinstance(norm, nn.BatchNorm2d)
        folded.append(_Folded(norm, conv, shadow))
        behind.replace_all_uses_with(node)
        graph.erase_node(behind)


def _replace_normalize(root: nn.Module, graph: fx.Graph, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Normalisation of pixels that only a convolution sees leaves the division to its weights: returns the two."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    divided = []
    for node in calls:
        normalize, users = model.get_submodule(str(node.target)), list(node.users)
        if not isinstance(normalize, Normalize) or targets.count(node.target) > 1 or len(users) != 1:
            continue
        shadow = root.get_submodule(str(users[0].target)) if users[0].op == "call_module" else None
        if isinstance(shadow, ShadowConv) and shadow.sees_image:
            root.set_submodule(str(node.target), ShadowNormalize(normalize))
            divided.append((shadow.weight, normalize.std))
    return divided


def _replace_norms(root: nn.Module, graph: fx.Graph, model: nn.Module, folded: list[_Folded]) -> None:
    """What batch norm is left becomes a multiply-add; twice as fast on CPUs."""
    targets = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for target in targets:
        norm = model.get_submodule(target)
        if type(norm) is nn.BatchNorm2d and norm.track_running_stats and targets.count(target) == 1:
            shadow = ShadowNorm(norm)
            root.set_submodule(target, shadow)
            folded.append(_Folded(norm, None, shadow))


def _norm_behind(node: fx.Node, model: nn.Module, times: dict[str, int]) -> fx.Node | None:
    """The batch norm that alone uses the result of `node`, and nothing else."""
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module" or times[str(users[0].target)] > 1:
        return None
    user = users[0]
    norm = model.get_submodule(str(user.target))
    return user if type(norm) is nn.BatchNorm2d and norm.track_running_stats else None


def _share_or_copy(root: nn.Module, model: nn.Module, dtype: torch.dtype, copies: list[tuple[Tensor, Tensor]]) -> None:
    """All other weights: the network's own memory where the type agrees, else a copy that `refresh` renews."""
    for path, part in root.named_modules():
        if isinstance(part, ShadowConv | ShadowNorm | ShadowNormalize):
            continue
        source = model.get_submodule(path)
        exact = isinstance(part, Normalize | nn.modules.batchnorm._BatchNorm)
        for name, theirs in (*source.named_parameters(recurse=False), *source.named_buffers(recurse=False)):
            theirs = theirs.detach()
            if not exact and theirs.is_floating_point() and theirs.dtype != dtype:
                ours = theirs.to(dtype, copy=True)
                copies.append((ours, theirs))
            else:
                ours = theirs
            if name in part._parameters:
                part._parameters[name] = nn.Parameter(ours, requires_grad=False)
            else:
                part._buffers[name] = ours
