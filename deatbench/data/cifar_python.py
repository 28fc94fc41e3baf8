"""CIFAR's python version: pickles. A pickle is a program, so it is opened only if it is the published file byte for
byte, and even then by an unpickler that can build arrays and nothing else."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from deatbench.data.reading import check_labels, check_md5, read_bytes, reason
from deatbench.errors import MissingError

_reconstruct = np.empty(0).__reduce__()[0]  # numpy's own, whose module has moved between versions

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings, numbers and numpy arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls {module}.{name}") from None


def read_python(path: Path, md5: str, label_key: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (uint8, N×3×32×32) and labels (int64, N) of one batch file whose published MD5 is `md5`.

    Raises:
        MissingError: the file cannot be read or is not the published one.
    """
    content = read_bytes(path)
    check_md5(content, md5, path)
    return parse_batch(content, label_key, num_classes, path)


def parse_batch(content: bytes, label_key: str, num_classes: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a pickled batch: a dictionary with b"data" (uint8, N×3,072) and a list of labels.

    Raises:
        MissingError: it is no such dictionary, or it wants to call anything.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels_N = np.asarray(batch[b"data"]), np.asarray(batch[label_key.encode()])
        if pixels.dtype != np.uint8 or labels_N.dtype.kind not in "iu" or len(pixels) != len(labels_N):
            raise ValueError("it does not hold uint8 images and as many whole-number labels")
        pixels_NCHW = pixels.reshape(len(labels_N), 3, 32, 32)
    except Exception as error:  # a broken pickle can raise anything
        lack = "it has no " if isinstance(error, KeyError) else ""
        raise MissingError(f"{path} is not a CIFAR batch: {lack}{reason(error)}") from error
    return pixels_NCHW, check_labels(labels_N, num_classes, path)
