"""SVHN (Netzer et al., NIPS workshop 2011): house numbers cut out digit by digit, 32×32, colour; MATLAB files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from deatbench.data import DATASETS, DataLocation, Images, RawData
from deatbench.data.download import Remote, download
from deatbench.data.reading import check_labels, check_md5, read_bytes, reason
from deatbench.errors import MissingError

_SITE = "http://ufldl.stanford.edu/housenumbers/"
TRAIN = Remote(f"{_SITE}train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373")
TEST = Remote(f"{_SITE}test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3")


@DATASETS.register("svhn")
def svhn(location: DataLocation) -> RawData:
    """SVHN: house-number digits, 32×32, colour, 10 classes; 246 MB to download."""
    folder = _find(location)
    if folder is None:
        remedy = (
            "`deatbench data get svhn` fetches it; or put train_32x32.mat and test_32x32.mat "
            "into svhn/ below --data-dir or DEATBENCH_DATA"
        )
        download(location, "svhn", remedy, "svhn", [TRAIN, TEST])
        folder = _find(location)
        if folder is None:
            raise location.missing("svhn", remedy)

    def read(folder: Path = folder) -> tuple[Images, Images]:
        return _read(folder, TRAIN), _read(folder, TEST)

    classes = tuple(str(digit) for digit in range(10))
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    return RawData(classes, (3, 32, 32), "SVHN cropped digits, .mat files", read, "crop", mean, std)


def _find(location: DataLocation) -> Path | None:
    for folder in location.folders("svhn", "SVHN", "."):
        if all((folder / remote.file_name).is_file() for remote in (TRAIN, TEST)):
            return folder
    return None


def _read(folder: Path, remote: Remote) -> Images:
    from deatbench.data.images import TensorImages

    path = folder / remote.file_name
    content = read_bytes(path)
    check_md5(content, remote.md5, path)
    return TensorImages.from_numpy(*parse_mat(content, path))


def parse_mat(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (uint8, N×3×32×32) and labels (int64, N; the file's class 10 is the digit 0) of one .mat file.

    Raises:
        MissingError: it does not hold X (32×32×3×N, uint8) and y (N labels in 1..10).
    """
    from scipy.io import loadmat

    try:
        matrices = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        pixels_HWCN, labels_N = matrices["X"], matrices["y"].reshape(-1)
        if pixels_HWCN.dtype != np.uint8 or pixels_HWCN.shape != (32, 32, 3, len(labels_N)):
            raise ValueError(f"X is {pixels_HWCN.dtype} {pixels_HWCN.shape} for {len(labels_N)} labels")
    except Exception as error:  # a broken .mat file can raise anything
        raise MissingError(f"{path} is not an SVHN file: {reason(error)}") from error
    labels_N = check_labels(labels_N.astype(np.int64) - 1, 10, path) + 1
    return np.ascontiguousarray(pixels_HWCN.transpose(3, 2, 0, 1)), labels_N % 10
