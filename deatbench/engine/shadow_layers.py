"""The layers of an attack form: what stands there in place of a network's own (shadow.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deatbench.archs.normalize import Normalize
from deatbench.engine.dense_conv import DenseConv, dense_conv
from deatbench.engine.first_conv import FirstConv, first_conv
from deatbench.engine.vjp import differentiable
from deatbench.engine.winograd import WinogradConv, winograd_conv


class ShadowConv(nn.Module):
    """A convolution on weights that are written from outside; casts its input, and fills its channels up with zeros."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, bias: bool, channels: int) -> None:
        super().__init__()
        out, each, height, width = conv.weight.shape
        self.fill = max(0, channels - each) if conv.groups == 1 else 0
        weight = torch.empty(  # one channel lies in memory both ways: only its strides say which is meant
            (out, each + self.fill, height, width),
            dtype=dtype,
            device=conv.weight.device,
            memory_format=torch.channels_last,
        )
        self.register_buffer("weight", weight.zero_())
        self.register_buffer("bias", torch.zeros(out, dtype=dtype, device=weight.device) if bias else None)
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        makers = () if self.fill else (dense_conv, winograd_conv, first_conv)
        self.other_forms = [form for maker in makers if (form := maker(conv, dtype)) is not None]

    @property
    def filled(self) -> Tensor:
        """The part of the weight that is not constantly zero."""
        return self.weight[:, : self.weight.shape[1] - self.fill]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = x_NCHW.to(self.weight.dtype)
        if self.fill:
            x_NCHW = F.pad(x_NCHW, (0, 0, 0, 0, 0, self.fill))
        form = self._form(x_NCHW)
        if form is None:
            return F.conv2d(x_NCHW, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return differentiable(lambda x_NCHW: form.vjp(x_NCHW, self.weight, self.bias), x_NCHW)

    def renew(self) -> None:
        """What the other forms have made of the weights is written anew, where it lies."""
        for form in self.other_forms:
            if isinstance(form, DenseConv):
                form.renew(self.weight, self.bias)
            elif isinstance(form, WinogradConv):
                form.renew(self.weight)

    @property
    def sees_image(self) -> bool:
        """Whether it has few enough channels for an input gradient of its own (first_conv.py)."""
        return any(isinstance(form, FirstConv) for form in self.other_forms)

    def _form(self, x_NCHW: Tensor) -> DenseConv | WinogradConv | FirstConv | None:
        """By what other means this input is convolved; a compiler has its own."""
        if torch.compiler.is_compiling():
            return None
        for form in self.other_forms:
            if form.pays(x_NCHW, self.weight):
                return form
        return None


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


def there(tensor: Tensor | None) -> Tensor:
    """A tensor that is known to be there."""
    assert tensor is not None
    return tensor
