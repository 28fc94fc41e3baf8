"""From an architecture's name to a network that takes [0, 1] NCHW and returns logits."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deatbench.archs import ARCHS
from deatbench.archs.normalize import Normalize
from deatbench.errors import ConfigError, UnknownNameError
from deatbench.registry import Resolved

_FROM_DATASET = ("num_classes", "in_channels", "image_size")
_MIN_IMAGE_SIZE = 8


def build_arch(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    **params: Any,
) -> nn.Module:
    """The network `name`, with normalisation inside; freshly initialised from torch's global generator.

    Args:
        name: a registered architecture ("vgg16") or timm's ("timm/resnet18").
        num_classes: length of the logits, ≥ 2.
        in_channels: 1 or 3.
        image_size: height and width of the square images, ≥ 8 pixels.
        mean: of each channel, in units of [0, 1] pixels.
        std: likewise, > 0.
        params: of the architecture, such as `width` > 0.

    Returns:
        A Sequential of `normalize` and `net`: [0, 1] NCHW float → logits NK.

    Raises:
        UnknownNameError: no such architecture or parameter; names the nearest.
        ConfigError: a value out of its range.
    """
    resolved = ARCHS.resolve(name)
    _check_params(resolved, params)
    _check_images(name, num_classes, in_channels, image_size)
    _check_statistics(in_channels, mean, std)
    net = resolved.target(
        num_classes=num_classes, in_channels=in_channels, image_size=image_size, **resolved.params, **params
    )
    return nn.Sequential(OrderedDict[str, nn.Module](normalize=Normalize(mean, std), net=net))


def count_params(module: nn.Module) -> int:
    """Number of parameters, frozen ones included; buffers are none."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: nn.Module, input_shape: Sequence[int]) -> int:
    """FLOP of one forward pass in eval mode, 2 per multiply-add of convolutions and matrix products.

    Runs on the module's own device; a module on the meta device costs no time. Modes are left as they were.

    Args:
        module: any network that takes one tensor.
        input_shape: (N, C, H, W).
    """
    modes = [(part, part.training) for part in module.modules()]
    first = next(module.parameters(), torch.empty(0))
    x_NCHW = torch.zeros(*input_shape, device=first.device, dtype=first.dtype)
    module.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x_NCHW)
    finally:
        for part, training in modes:
            part.training = training
    return int(counter.get_total_flops())


def _check_params(resolved: Resolved[Any], params: dict[str, Any]) -> None:
    given_elsewhere = {*_FROM_DATASET, *resolved.params}
    known = [key for key in inspect.signature(resolved.target).parameters if key not in given_elsewhere]
    for key in params:
        if key not in known:
            listing = f"{resolved.name} takes {', '.join(known)}" if known else f"{resolved.name} takes no parameter"
            raise UnknownNameError(f"parameter of arch {resolved.name!r}:", key, known, listing)
    width = params.get("width", 1.0)
    if not _is_number(width) or width <= 0:
        raise ConfigError(f"arch {resolved.name!r}: width must be a number > 0, not {width!r}")


def _check_images(name: str, num_classes: int, in_channels: int, image_size: int) -> None:
    if not _is_int(num_classes) or num_classes < 2:
        raise ConfigError(f"arch {name!r}: num_classes must be a whole number ≥ 2, not {num_classes!r}")
    if not _is_int(in_channels) or in_channels not in (1, 3):
        raise ConfigError(f"arch {name!r}: images must have 1 channel (grey) or 3 (RGB), not {in_channels!r}")
    if not _is_int(image_size) or image_size < _MIN_IMAGE_SIZE:
        raise ConfigError(f"arch {name!r}: images must be at least 8×8 pixels, not {image_size!r}")


def _check_statistics(in_channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    for label, values in (("mean", mean), ("std", std)):
        if len(values) != in_channels or not all(_is_number(value) for value in values):
            expected = f"{in_channels} finite number{'s' if in_channels > 1 else ''}, one per channel"
            raise ConfigError(f"normalisation {label} must be {expected}, not {list(values)!r}")
    if min(std) <= 0:
        raise ConfigError(f"normalisation std must be > 0 in every channel, not {list(std)!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
