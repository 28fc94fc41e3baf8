"""Images that fit into memory: uint8 pixels, kept on the device that asks for them, made float batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from deatbench.data.dataset import Images

# The share of a GPU's free memory that a resident split may take; the rest is for the network.
_RESIDENT_SHARE = 0.25


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as float32 in [0,1], on their device.

    Divides by a tensor: dividing by a Python number becomes a multiplication by 1/255 on GPUs, whose last bit
    differs from the CPU's quotient.
    """
    return pixels.to(torch.float32).div_(torch.full((), 255.0, device=pixels.device))


class TensorImages:
    """A split held in memory.

    Args:
        pixels_NCHW: uint8, on the CPU.
        labels_N: class indices, int64, on the CPU.
    """

    def __init__(self, pixels_NCHW: torch.Tensor, labels_N: torch.Tensor) -> None:
        if pixels_NCHW.dtype != torch.uint8 or labels_N.dtype != torch.int64 or len(pixels_NCHW) != len(labels_N):
            raise ValueError("TensorImages takes uint8 pixels and as many int64 labels")
        self.pixels_NCHW = pixels_NCHW
        self.labels_N = labels_N
        self._resident: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def from_numpy(cls, pixels_NCHW: np.ndarray, labels_N: np.ndarray) -> TensorImages:
        """From arrays; copies only what is not contiguous."""
        return cls(
            torch.from_numpy(np.ascontiguousarray(pixels_NCHW)), torch.from_numpy(labels_N.astype(np.int64, copy=False))
        )

    def __len__(self) -> int:
        return len(self.labels_N)

    def batches(
        self, index_batches: Iterable[torch.Tensor], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each index tensor: (x_NCHW float32 in [0,1], y_N int64), both on `device`."""
        pixels_NCHW, labels_N = self.resident(device)
        for index_B in index_batches:
            index_B = index_B.to(pixels_NCHW.device, non_blocking=True)
            x_NCHW = pixels_NCHW.index_select(0, index_B).to(device, non_blocking=True)
            yield to_unit(x_NCHW), labels_N.index_select(0, index_B).to(device, non_blocking=True)

    def resident(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels and labels on `device`, copied there once; those on the CPU where they would not fit."""
        if device.type == "cpu":
            return self.pixels_NCHW, self.labels_N
        if device not in self._resident:
            home = device if _fits(self.pixels_NCHW.nbytes, device) else torch.device("cpu")
            self._resident[device] = (self.pixels_NCHW.to(home), self.labels_N.to(home))
        return self._resident[device]

    def subset(self, indices: torch.Tensor) -> TensorImages:
        """The images at `indices`, in that order (a copy)."""
        indices = indices.cpu()
        return TensorImages(self.pixels_NCHW[indices], self.labels_N[indices])

    def sha256(self) -> str:
        """Hex digest of the pixels (uint8, NCHW) followed by the labels (little-endian int64)."""
        digest = hashlib.sha256(self.pixels_NCHW.contiguous().numpy().data)
        digest.update(self.labels_N.contiguous().numpy().astype("<i8", copy=False).data)
        return digest.hexdigest()


def _fits(nbytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return nbytes <= _RESIDENT_SHARE * free


def channel_statistics(images: Images, batch_size: int = 512) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and (population) standard deviation of the [0,1] pixels, from one pass over the images."""
    total, squares, pixels = torch.zeros(()), torch.zeros(()), 0
    for x_NCHW, _ in images.batches(torch.arange(len(images)).split(batch_size), torch.device("cpu")):
        x_NCHW = x_NCHW.double()
        total = total + x_NCHW.sum(dim=(0, 2, 3))
        squares = squares + x_NCHW.square().sum(dim=(0, 2, 3))
        pixels += x_NCHW.numel() // x_NCHW.shape[1]
    mean_C = total / pixels
    std_C = (squares / pixels - mean_C.square()).clamp_min(0).sqrt()
    return tuple(mean_C.tolist()), tuple(std_C.tolist())
