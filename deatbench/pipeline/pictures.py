"""Tensors as small PNG files in base64, for pages that show images without asking anybody for them."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

WIDEST = 256  # pixels; larger pictures are shrunk to it
MOST_PIXELS = 2**17  # of all pictures of a kind together, as large as eight of 128 x 128
GREY, GAIN = 0.5, 10.0


def difference(x_CHW: Tensor, x_adv_CHW: Tensor) -> Tensor:
    """Mid-grey plus ten times the change, cut to [0, 1]: what a viewer can see of a small perturbation."""
    return (GREY + GAIN * (x_adv_CHW - x_CHW)).clamp(0, 1)


def png(x_CHW: Tensor) -> str:
    """An image in [0, 1] of 1 or 3 channels as PNG in base64, rounded to 8 bits; the same image, the same text."""
    pixels_HWC = (x_CHW.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)
    picture.thumbnail((WIDEST, WIDEST), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
