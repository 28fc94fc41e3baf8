"""The idx format of MNIST: two zero bytes, a type byte, the number of dimensions, each dimension, the data."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from deatbench.data import DataLocation, Images, RawData
from deatbench.data.download import Remote, download
from deatbench.data.reading import FETCH_AGAIN, check_labels, check_md5, reason
from deatbench.errors import MissingError

SHAPE = (1, 28, 28)
N_TRAIN, N_TEST = 60_000, 10_000
IMAGES = {"train": "train-images-idx3-ubyte", "t10k": "t10k-images-idx3-ubyte"}
LABELS = {"train": "train-labels-idx1-ubyte", "t10k": "t10k-labels-idx1-ubyte"}


def idx_data(
    location: DataLocation,
    name: str,
    title: str,
    classes: tuple[str, ...],
    folders: tuple[str, ...],
    md5s: dict[str, str],
    remotes: list[Remote],
    augment: str,
    statistics: tuple[float, float],
) -> RawData:
    """Finds MNIST or a twin of it (same names, same sizes), plain or gzipped, or downloads it into `folders[0]`.

    Args:
        md5s: of the four *unpacked* files: they tell the twins apart.
        statistics: mean and standard deviation of the [0,1] pixels.
    """
    folder = _find(location, folders)
    if folder is None:
        remedy = (
            f"`deatbench data get {name}` fetches it; or put its four idx files "
            f"into {folders[0]}/ below --data-dir or DEATBENCH_DATA"
        )
        download(location, name, remedy, folders[0], remotes)
        folder = _find(location, folders)
        if folder is None:
            raise location.missing(name, remedy)

    def read(folder: Path = folder) -> tuple[Images, Images]:
        return _read(folder, "train", N_TRAIN, md5s), _read(folder, "t10k", N_TEST, md5s)

    mean, std = statistics
    return RawData(classes, SHAPE, f"{title} idx files", read, augment, (mean,), (std,))


def _find(location: DataLocation, folders: tuple[str, ...]) -> Path | None:
    names = [*IMAGES.values(), *LABELS.values()]
    for folder in location.folders(*folders, "."):
        if all(_file(folder, name) is not None for name in names):
            return folder
    return None


def _file(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(folder: Path, split: str, n: int, md5s: dict[str, str]) -> Images:
    from deatbench.data.images import TensorImages

    def content(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return read_idx(_file(folder, name) or folder / name, shape, md5s[name])

    pixels_NCHW = content(IMAGES[split], (n, *SHAPE[1:])).reshape(n, *SHAPE)
    labels_N = check_labels(content(LABELS[split], (n,)), 10, folder / LABELS[split])
    return TensorImages.from_numpy(pixels_NCHW, labels_N)


def read_idx(path: Path, shape: tuple[int, ...], md5: str | None) -> np.ndarray:
    """The array (uint8) of one idx file, plain or gzipped, which must have this shape.

    Args:
        md5: of the unpacked file.

    Raises:
        MissingError: the file cannot be read, holds another shape, or is not the published one.
    """
    header = struct.pack(f">I{len(shape)}I", 0x0800 | len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(size + 1)  # never unpacks more than it should hold
    except (OSError, EOFError, zlib.error) as error:
        raise MissingError(f"cannot read {path}: {reason(error)}", FETCH_AGAIN) from error
    if len(content) != size:
        found = f"more than {size:,}" if len(content) > size else f"{len(content):,}"
        raise MissingError(f"{path} is damaged: expected {size:,} bytes of content, found {found}", FETCH_AGAIN)
    if not content.startswith(header):
        raise MissingError(f"{path} is not an idx file of {'×'.join(map(str, shape))} bytes", FETCH_AGAIN)
    if md5 is not None:
        check_md5(content, md5, path)
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape).copy()
