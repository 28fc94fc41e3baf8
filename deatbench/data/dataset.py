"""What a data set is to the rest of the house: three splits of images with labels, and what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from deatbench.records import ModelSpec

if TYPE_CHECKING:
    import torch


class Images(Protocol):
    """One split: images that are handed out in batches, and their labels."""

    @property
    def labels_N(self) -> torch.Tensor:
        """Class indices, int64, on the CPU."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, index_batches: Iterable[torch.Tensor], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each index tensor: (x_NCHW float32 in [0,1], y_N int64), both on `device`."""
        ...

    def subset(self, indices: torch.Tensor) -> Images:
        """The images at `indices`, in that order; the first n are `subset(torch.arange(n))`."""
        ...

    def sha256(self) -> str:
        """Hex digest of what the split holds: the same images and labels in the same order give the same one."""
        ...


@dataclass(frozen=True)
class RawData:
    """A data set that was found on disk: described here, read only when `read` is called.

    Attributes:
        classes: class names, in label order.
        image_shape: C, H, W.
        source: where it was found, in words without machine paths.
        read: returns (train, test), the published splits. Raises MissingError on damaged files.
        augment: the name of the augmentation it is usually trained with (`deatbench.data.augment`).
        mean: per channel, of [0,1] pixels; None: compute it from the training images.
        std: likewise.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    source: str
    read: Callable[[], tuple[Images, Images]]
    augment: str = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set ready for use: `val` is held out from the published training split, `test` is for the end.

    Attributes:
        name: as registered ("cifar10").
        classes: class names, in label order.
        image_shape: C, H, W.
        mean: per channel, of [0,1] pixels.
        std: likewise.
        source: where it was found, in words without machine paths.
        augment: the name of the augmentation it is usually trained with.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Images
    val: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    augment: str = "none"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def model_spec(self, arch: str, params: Mapping[str, Any]) -> ModelSpec:
        """How a network for these images is built; `params` are all of the architecture's own."""
        channels, height, _ = self.image_shape
        return ModelSpec(
            arch=arch,
            params=dict(params),
            num_classes=self.num_classes,
            in_channels=channels,
            image_size=height,
            mean=self.mean,
            std=self.std,
        )
