"""The layers of an attack form: what stands there in place of a network's own (shadow.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.archs.normalize import Normalize
from deatbench.engine.dense_conv import dense_conv
from deatbench.engine.dense_conv import pays as dense_pays
from deatbench.engine.first_conv import first_conv, pays
from deatbench.engine.winograd import pays as winograd_pays
from deatbench.engine.winograd import winograd_conv


class ShadowConv(nn.Module):
    """A convolution on weights that are written from outside; casts its input, and fills its channels up with zeros."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, bias: bool, channels: int) -> None:
        super().__init__()
        out, each, height, width = conv.weight.shape
        self.fill = max(0, channels - each) if conv.groups == 1 else 0
        weight = torch.zeros(out, each + self.fill, height, width, dtype=dtype, device=conv.weight.device)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", torch.zeros(out, dtype=dtype, device=weight.device) if bias else None)
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.own_gradient = gains(conv, dtype) and not self.fill
        self.dense = None if self.fill else dense_conv(conv, dtype)
        self.winograd = None if self.fill else winograd_conv(conv, dtype)

    @property
    def filled(self) -> Tensor:
        """The part of the weight that is not constantly zero."""
        return self.weight[:, : self.weight.shape[1] - self.fill]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = x_NCHW.to(self.weight.dtype)
        if self.fill:
            x_NCHW = F.pad(x_NCHW, (0, 0, 0, 0, 0, self.fill))
        if self.dense is not None and dense_pays(x_NCHW, self.weight):
            return self.dense(x_NCHW, self.weight, self.bias)
        if self.winograd is not None and winograd_pays(x_NCHW, self.winograd.padding):
            return self.winograd(x_NCHW, self.weight, self.bias)
        if self.own_gradient:
            assert not isinstance(self.padding, str)
            return first_conv(x_NCHW, self.weight, self.bias, self.stride, self.padding)
        return F.conv2d(x_NCHW, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ShadowNorm(nn.Module):
    """Batch norm in eval mode as one multiply-add per pixel, its two constants written from outside."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        constants_1C11 = torch.zeros_like(there(norm.running_mean))[None, :, None, None]
        self.register_buffer("scale", constants_1C11.clone())
        self.register_buffer("shift", constants_1C11.clone())

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x_NCHW, self.scale)


class ShadowNormalize(nn.Module):
    """What is left of the normalisation of pixels where the convolution behind it divides by their deviation."""

    mean: Tensor

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.register_buffer("mean", normalize.mean)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW - self.mean


def gains(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether it is asked for its input gradient by first_conv.py."""
    return pays(conv) and dtype == torch.float32 and conv.weight.device.type == "cpu"


def there(tensor: Tensor | None) -> Tensor:
    """A tensor that is known to be there."""
    assert tensor is not None
    return tensor
