"""What a model owes whoever evaluates it: finite logits [N, K] for images of the data set's shape, K its classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deatbench.attacks.borrow import mode
from deatbench.data import Images
from deatbench.errors import ConfigError, DeatbenchError


class NonFiniteLogits(DeatbenchError):
    """A network whose answers are no numbers: there is nothing to evaluate."""


def check_fit(model: nn.Module, images: Images, device: torch.device) -> int:
    """The number of classes K, from a forward pass of two images. Raises ConfigError if model and images do not fit."""
    x_NCHW, _ = next(iter(images.batches([torch.arange(min(2, len(images)))], device)))
    try:
        with torch.no_grad(), mode(model, training=False):
            logits_NK = model(x_NCHW)
    except Exception as error:  # the model may be anybody's code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the model does not take images of shape {tuple(x_NCHW.shape[1:])}: {reason}",
            "choose the data set it was trained for with --dataset",
        ) from error
    if not isinstance(logits_NK, Tensor) or logits_NK.ndim != 2 or len(logits_NK) != len(x_NCHW):
        found = tuple(logits_NK.shape) if isinstance(logits_NK, Tensor) else type(logits_NK).__name__
        raise ConfigError(f"the model returned {found} for {len(x_NCHW)} images", "it must return logits [N, K]")
    if not logits_NK.is_floating_point():
        raise ConfigError(f"the model returned {logits_NK.dtype} for {len(x_NCHW)} images", "logits are float32")
    num_classes, smallest, largest = logits_NK.shape[1], int(images.labels_N.min()), int(images.labels_N.max())
    if smallest < 0:
        raise ConfigError(f"a label is {smallest}: labels count classes from 0", "repair the data set")
    if largest >= num_classes:
        raise ConfigError(
            f"the model has {num_classes} classes, the data set has labels up to {largest}",
            "choose the data set it was trained for with --dataset",
        )
    return num_classes
