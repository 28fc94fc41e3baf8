"""Data sets: a file each. A new one is a function here that finds its files and says how to read them:

    @DATASETS.register("cifar10")
    def cifar10(location: DataLocation) -> RawData: ...

Finding is cheap (a few looks at the disk) and reading is put off, so that `found` can ask for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deatbench.data.dataset import Dataset, Images, RawData
from deatbench.data.locate import DataLocation, Progress, cache_dir
from deatbench.errors import MissingError
from deatbench.registry import Registry

__all__ = ["DATASETS", "DataLocation", "Dataset", "Images", "RawData", "found", "get", "load_dataset"]

DATASETS: Registry[Callable[..., RawData]] = Registry("dataset", "deatbench.data")


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    *,
    val_fraction: float = 0.1,
    download: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Finds, reads and splits a data set.

    Args:
        name: a registered name; `folder` (or `folder-64` for 64×64 images) reads your own images under `data_dir`.
        data_dir: searched first; then the environment variable DEATBENCH_DATA, then the user's cache folder.
        val_fraction: share of the training split that is held out for validation, the same images for every
            seed, stratified by class; 0 leaves `val` empty.
        download: whether a data set that is nowhere found may be fetched into the cache folder.
        progress: called as progress(file name, bytes done, bytes in all) while downloading.

    Raises:
        UnknownNameError: no such data set.
        MissingError: not found and not downloadable, or its files are damaged.
        ConfigError: a `val_fraction` outside [0, 1), or a folder that is named and not there.
    """
    from deatbench.data.images import channel_statistics
    from deatbench.data.split import stratified_split

    raw = _find(name, DataLocation(data_dir, cache_dir() if download else None, progress))
    train_and_val, test = raw.read()
    train_indices, val_indices = stratified_split(train_and_val.labels_N, val_fraction, salt=name)
    train, val = train_and_val.subset(train_indices), train_and_val.subset(val_indices)
    mean, std = (raw.mean, raw.std) if raw.mean and raw.std else channel_statistics(train)
    return Dataset(name, raw.classes, raw.image_shape, train, val, test, mean, std, raw.source, raw.augment)


def found(name: str, data_dir: Path | None = None) -> str | None:
    """Where `name` would be read from, in words; None if it is not on this machine. Reads no images.

    Raises ConfigError if `data_dir` or DEATBENCH_DATA names a folder that is not there.
    """
    if "{" in name:
        return None  # a template such as folder-{image_size:int}: nothing to find until its field is filled
    try:
        return _find(name, DataLocation(data_dir)).source
    except MissingError:
        return None


def get(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> str:
    """Makes sure that `name` is on this machine, downloading it into `data_dir` (or the cache folder) if need be.

    Returns where it is, in words. Raises MissingError if it cannot be had.
    """
    return _find(name, DataLocation(data_dir, data_dir or cache_dir(), progress)).source


def _find(name: str, location: DataLocation) -> RawData:
    entry = DATASETS.resolve(name)
    return entry.target(location, **entry.params)
