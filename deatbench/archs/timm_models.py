"""Every model of timm. Wightman, "PyTorch Image Models", 2019, https://github.com/huggingface/pytorch-image-models.

Adapted to small images where timm allows it: models of a fixed resolution (ViT, Swin, …) are built for `image_size`;
others, up to 64×64 pixels, lose the stride of their first convolution (7×7 becomes 3×3) and the max-pool of the stem.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deatbench.archs import ARCHS
from deatbench.errors import ConfigError, MissingError, UnknownNameError

_SMALL = 64
_STEM_POOLS = ("maxpool", "stem.pool", "features.pool0")


@ARCHS.register("timm/{name}")
def timm_model(
    num_classes: int,
    name: str,
    in_channels: int = 3,
    image_size: int = 32,
    patch_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Any model of timm by its name, as in timm/resnet18; without pretrained weights unless asked.

    Args:
        num_classes: length of the logits.
        name: timm's name, with or without the tag of its weights ("resnet18.a1_in1k").
        in_channels: channels of the image.
        image_size: height and width of the images, pixels.
        patch_size: of models that cut the image into patches, pixels; None keeps timm's.
        pretrained: load timm's weights, with the stem they were trained with.

    Raises:
        UnknownNameError: timm has no such model; names the nearest.
        ConfigError: timm cannot build the model for these images or parameters.
        MissingError: the pretrained weights do not exist or cannot be fetched.
    """
    if not isinstance(pretrained, bool):
        raise ConfigError(f"timm/{name}: pretrained must be true or false, not {pretrained!r}")
    _check_known(name, pretrained)
    model, sized = _create(name, num_classes, in_channels, image_size, patch_size, pretrained)
    if image_size <= _SMALL and not sized and not pretrained:
        _shrink_stem(model)
    _probe(model, name, num_classes, in_channels, image_size)
    return model


def _check_known(name: str, pretrained: bool) -> None:
    import timm  # seconds to import: only when a timm model is asked for

    # Before create_model sees the name: it would take "hf-hub:…" and paths as well.
    if not timm.is_model(name):
        raise UnknownNameError(
            "timm model", name.partition(".")[0], timm.list_models(), "`timm.list_models()` lists all"
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(name.partition(".")[0] + ".*")
        raise UnknownNameError("timm model", name, tags, "the part behind the dot names pretrained weights") from None
    if pretrained and (config is None or not config.has_weights):
        raise MissingError(f"timm has no pretrained weights for {name!r}", "leave pretrained off, or add a tag")


def _create(
    name: str, num_classes: int, in_channels: int, image_size: int, patch_size: int | None, pretrained: bool
) -> tuple[nn.Module, bool]:
    """The model, and whether timm built it for this very image size."""
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "patch_size": patch_size}
    try:
        return _call_timm(name, pretrained, options | {"img_size": image_size}), True
    except TypeError as error:
        # timm does not tell beforehand who takes img_size; any other TypeError would come again below.
        if "img_size" not in str(error):
            raise _cannot_build(name, error) from error
    try:
        return _call_timm(name, pretrained, options), False
    except TypeError as error:
        raise _cannot_build(name, error) from error


def _call_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError:
        raise
    except Exception as error:  # whatever one of timm's thousand constructors or its download raises
        if pretrained:
            hint = "it needs a network the first time; or leave pretrained off"
            raise MissingError(
                f"pretrained weights of timm/{name} could not be loaded: {_first_line(error)}", hint
            ) from error
        raise _cannot_build(name, error) from error
    return model


def _shrink_stem(model: nn.Module) -> None:
    """Keep the resolution in the stem, for images too small to halve twice at once."""
    modules = dict(model.named_modules())
    config: Any = model.pretrained_cfg
    first_conv = str(config.get("first_conv"))  # RepVGG's is a tuple, which names no module
    conv = modules.get(first_conv)
    if not isinstance(conv, nn.Conv2d) or conv.stride != (2, 2):
        return
    if type(conv) is nn.Conv2d and conv.kernel_size > (3, 3):
        small = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(first_conv, small)
    else:
        conv.stride = (1, 1)
    for pool in _STEM_POOLS:
        if isinstance(modules.get(pool), nn.MaxPool2d):
            model.set_submodule(pool, nn.Identity())


def _probe(model: nn.Module, name: str, num_classes: int, in_channels: int, image_size: int) -> None:
    """One image through the model: timm itself does not check that an image survives all the strides."""
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            logits_NK = model(torch.zeros(1, in_channels, image_size, image_size, device=device))
    except Exception as error:  # layers of all kinds fail in all ways
        message = f"timm/{name} cannot take {image_size}×{image_size} images: {_first_line(error)}"
        raise ConfigError(message, "larger images or, where the model cuts patches, a smaller patch_size") from error
    if not isinstance(logits_NK, torch.Tensor) or logits_NK.shape != (1, num_classes):
        raise ConfigError(f"timm/{name} is no classifier: it does not return {num_classes} logits per image")
    model.train()


def _cannot_build(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"timm cannot build {name!r} with these parameters: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
