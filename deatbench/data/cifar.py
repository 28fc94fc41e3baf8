"""CIFAR's three layouts: the binary version, the python version, and the hub's parquet files.

A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. 50,000 training and 10,000 test images of
3×32×32; the layouts hold the same images in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deatbench.data import DataLocation, Images, RawData
from deatbench.data.cifar_binary import read_binary
from deatbench.data.cifar_python import read_python
from deatbench.data.download import Remote, download
from deatbench.data.parquet import parquet_shards, read_parquet
from deatbench.errors import MissingError

SHAPE = (3, 32, 32)
N_TRAIN, N_TEST = 50_000, 10_000


@dataclass(frozen=True)
class CifarFiles:
    """Where one of the two data sets keeps its files and what they must be.

    Attributes:
        title: for people: "CIFAR-10".
        binary_folder, binary_train, binary_test: the binary version's files.
        label_offset, label_bytes: of the binary version's records: which of the leading label bytes counts.
        python_folder, python_train, python_test: the python version's files, each with its published MD5.
        python_key: the key of the labels in the python version.
        parquet_columns: names that the hub's repositories give the label column.
        archive: the binary version on its authors' site.
        sha256: of train and test as they are read, where known; the binary version comes without checksums.
    """

    title: str
    classes: tuple[str, ...]
    binary_folder: str
    binary_train: tuple[str, ...]
    binary_test: str
    label_offset: int
    label_bytes: int
    python_folder: str
    python_train: dict[str, str]
    python_test: dict[str, str]
    python_key: str
    parquet_columns: tuple[str, ...]
    archive: Remote
    sha256: tuple[str, str] | None = None


def cifar(
    files: CifarFiles, name: str, location: DataLocation, mean: tuple[float, ...], std: tuple[float, ...]
) -> RawData:
    """Finds the data set in any layout, or downloads the binary version (which needs no unpickling)."""
    found = _find(files, name, location)
    if found is None:
        remedy = (
            f"`deatbench data get {name}` fetches it; or unpack {files.archive.url} "
            f"and point --data-dir or DEATBENCH_DATA at the folder that holds {files.binary_folder}/"
        )
        download(location, name, remedy, files.binary_folder, [files.archive])
        found = _find(files, name, location)
        if found is None:
            raise location.missing(name, remedy)
    layout, read = found
    return RawData(files.classes, SHAPE, f"{files.title} {layout}", read, "crop-flip", mean, std)


_Read = Callable[[], tuple[Images, Images]]


def _find(files: CifarFiles, name: str, location: DataLocation) -> tuple[str, _Read] | None:
    for folder in location.folders(files.binary_folder, "."):
        if _holds(folder, (*files.binary_train, files.binary_test)):
            return "binary version", lambda folder=folder: _read_binary(files, folder)
    for folder in location.folders(files.python_folder, "."):
        if _holds(folder, (*files.python_train, *files.python_test)):
            return "python version", lambda folder=folder: _read_python(files, folder)
    hub_folders = (f"{name}/plain_text", f"{name}/{name}", f"{name}/data", name, "plain_text", "data", ".")
    for folder in location.folders(*hub_folders):
        train, test = parquet_shards(folder, "train"), parquet_shards(folder, "test")
        if train and test:
            return "hub parquet", lambda train=train, test=test: _read_parquet(files, train, test)
    return None


def _holds(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _read_binary(files: CifarFiles, folder: Path) -> tuple[Images, Images]:
    def read(names: tuple[str, ...], n: int, sha256: str | None) -> Images:
        parts = [
            read_binary(folder / part, n // len(names), len(files.classes), files.label_offset, files.label_bytes)
            for part in names
        ]
        images = _joined(parts)
        if sha256 is not None and images.sha256() != sha256:
            held = f"{folder / names[0]}{' and those beside it hold' if names[1:] else ' holds'}"
            raise MissingError(f"{held} other images or labels than {files.title}", "fetch the files again")
        return images

    train, test = files.sha256 or (None, None)
    return read(files.binary_train, N_TRAIN, train), read((files.binary_test,), N_TEST, test)


def _read_python(files: CifarFiles, folder: Path) -> tuple[Images, Images]:
    def read(md5s: dict[str, str]) -> Images:
        return _joined(
            [read_python(folder / part, md5, files.python_key, len(files.classes)) for part, md5 in md5s.items()]
        )

    return read(files.python_train), read(files.python_test)


def _read_parquet(files: CifarFiles, train: list[Path], test: list[Path]) -> tuple[Images, Images]:
    def read(shards: list[Path], n: int) -> Images:
        return _joined([read_parquet(shards, n, SHAPE, files.parquet_columns, len(files.classes))])

    return read(train, N_TRAIN), read(test, N_TEST)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> Images:
    from deatbench.data.images import TensorImages

    return TensorImages.from_numpy(
        np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])
    )
