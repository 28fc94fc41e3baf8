"""Your own images: one folder per class below train/ and test/ (or val/), as ImageNet and Imagenette lie on disk.

Images are decoded when they are asked for, so that the data set may be larger than memory.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from deatbench.data import DATASETS, DataLocation, Images, RawData
from deatbench.data.images import to_unit
from deatbench.data.reading import reason
from deatbench.errors import ConfigError, MissingError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")  # none that calls another program, as EPS does
CROP_RATIO = 224 / 256  # ImageNet's usual: shorter side to 256, then the middle 224
MAX_WORKERS = 8


class FolderImages:
    """A split whose images are files; decoded by worker processes.

    Args:
        root: the folder that `files` are relative to.
        files: with forward slashes.
        labels_N: class indices, int64.
        image_size: height and width of what is handed out.
        workers: decoding processes; None: up to 8, as many as this process may use. 0 decodes in this process.
    """

    def __init__(
        self, root: Path, files: Sequence[str], labels_N: torch.Tensor, image_size: int, workers: int | None = None
    ) -> None:
        self.root = root
        self.files = list(files)
        self.labels_N = labels_N
        self.image_size = image_size
        self.workers = _usable_cores() if workers is None else workers

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor | MissingError:
        """The image as uint8, C×H×W; an error is handed over, because a worker's exception loses its message."""
        try:
            return decode(self.root / self.files[index], self.image_size)
        except MissingError as error:
            return error

    def batches(
        self, index_batches: Iterable[torch.Tensor], device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each index tensor: (x_NCHW float32 in [0,1], y_N int64), both on `device`.

        Raises MissingError naming the file when an image cannot be decoded.
        """
        index_lists = [index_B.tolist() for index_B in index_batches]
        loader: DataLoader[list[torch.Tensor | MissingError]] = DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=index_lists,
            num_workers=min(self.workers, len(index_lists)),
            collate_fn=list,
            generator=torch.Generator(),  # else the loader draws from the global one
        )
        for index_list, images in zip(index_lists, loader, strict=True):
            for image in images:
                if isinstance(image, MissingError):
                    raise image
            x_NCHW = torch.stack(images)
            if device.type == "cuda":
                x_NCHW = x_NCHW.pin_memory()
            y_N = self.labels_N[index_list].to(device, non_blocking=True)
            yield to_unit(x_NCHW.to(device, non_blocking=True)), y_N

    def subset(self, indices: torch.Tensor) -> FolderImages:
        """The images at `indices`, in that order."""
        files = [self.files[index] for index in indices.tolist()]
        return FolderImages(self.root, files, self.labels_N[indices.cpu()], self.image_size, self.workers)

    def sha256(self) -> str:
        """Hex digest of the sorted (relative name, label, size in bytes); the pixels are not read."""
        rows = sorted(
            f"{file}\t{label}\t{(self.root / file).stat().st_size}\n"
            for file, label in zip(self.files, self.labels_N.tolist(), strict=True)
        )
        return hashlib.sha256("".join(rows).encode(errors="surrogateescape")).hexdigest()


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return min(MAX_WORKERS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def decode(path: Path, image_size: int) -> torch.Tensor:
    """An image file as uint8, 3×size×size: the middle square of 7/8 of its shorter side, resized.

    An image that already is size×size is taken as it is. Raises MissingError on a file that is no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                if picture.size == (image_size, image_size):
                    square = picture.convert("RGB")
                else:
                    side = max(1.0, min(picture.size) * CROP_RATIO)
                    left, top = (picture.size[0] - side) / 2, (picture.size[1] - side) / 2
                    square = picture.convert("RGB").resize(
                        (image_size, image_size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
                    )
                return torch.from_numpy(np.array(square).transpose(2, 0, 1).copy())
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise MissingError(f"{path} is not a readable image: {reason(error)}") from error


def list_images(root: Path, split: str, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Relative names and labels of every image of a split, classes in order, names sorted.

    Raises:
        MissingError: a folder that is no class of train/, or no images.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    for name in class_folders(root / split):
        if name not in label_of:
            raise MissingError(f"{root / split / name} has no counterpart below {root / 'train'}")
        inside = sorted(
            path.relative_to(root).as_posix()
            for path in (root / split / name).rglob("*")
            if path.suffix.lower() in SUFFIXES
        )
        files += inside
        labels += [label_of[name]] * len(inside)
    if not files:
        raise MissingError(f"no images in the class folders of {root / split}", f"known: {' '.join(SUFFIXES)}")
    return files, labels


def class_folders(folder: Path) -> list[str]:
    """The names of the folders inside, sorted; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


@DATASETS.register("folder-{image_size:int}")
@DATASETS.register("folder")
def folder(location: DataLocation, image_size: int = 224) -> RawData:
    """Your own images below --data-dir: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/); folder-64 for 64×64."""
    if not 8 <= image_size <= 1024:
        raise ConfigError(f"folder-{image_size}: the image size must be in 8..1024")
    if location.data_dir is None:
        raise MissingError("data set 'folder' needs --data-dir", "a folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    root = location.data_dir.expanduser()
    classes = tuple(class_folders(root / "train"))
    test_split = "test" if class_folders(root / "test") else "val"  # ImageNet's test/ has no labels
    if not classes or not class_folders(root / test_split):
        raise MissingError(f"{root} has no class folders below train/ and test/ (or val/)")

    def read() -> tuple[Images, Images]:
        train, test = (list_images(root, split, classes) for split in ("train", test_split))
        return (
            FolderImages(root, train[0], torch.tensor(train[1]), image_size),
            FolderImages(root, test[0], torch.tensor(test[1]), image_size),
        )

    return RawData(
        classes,
        (3, image_size, image_size),
        f"image folder {root.resolve().name} (train/, {test_split}/)",
        read,
        augment="crop-flip",
        mean=(0.485, 0.456, 0.406),  # ImageNet's, the custom for photographs
        std=(0.229, 0.224, 0.225),
    )
