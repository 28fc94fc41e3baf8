"""`timm:NAME`: a pretrained model of timm with its own resolution, classes, mean and std.

Wightman, "PyTorch Image Models", 2019, https://github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

from typing import Any

from deatbench.archs.build import build_arch
from deatbench.errors import MissingError, UnknownNameError
from deatbench.models.loaded import LoadedModel, identifier
from deatbench.models.request import ModelRequest

PREFIX = "timm:"


def reading(request: ModelRequest) -> str | None:
    """Whatever begins with `timm:`."""
    return request.text if request.text.startswith(PREFIX) else None


def load(request: ModelRequest) -> LoadedModel:
    """Raises UnknownNameError with near matches, MissingError if the weights cannot be had."""
    name = request.text.removeprefix(PREFIX)
    config = _pretrained_config(name)
    channels, height, _ = config.input_size
    network = build_arch(
        f"timm/{name}",
        num_classes=config.num_classes,
        in_channels=channels,
        image_size=height,
        mean=config.mean,
        std=config.std,
        pretrained=True,
    )
    return LoadedModel(network, identifier(f"timm-{name}"), arch=f"timm/{name}", source=request.text)


def _pretrained_config(name: str) -> Any:
    import timm  # seconds to import: only when a timm model is asked for

    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models(), "`timm.list_models()` lists all")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None or not config.has_weights:
        raise MissingError(f"timm has no pretrained weights for {name!r}", "timm.list_pretrained() lists those it has")
    return config
