"""Checks on what is read from disk: a failure is one line with the file, what was expected and what is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from deatbench.errors import MissingError

FETCH_AGAIN = "delete it and fetch the data set again: deatbench data get NAME"


def reason(error: BaseException) -> str:
    """What a library's exception says, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return next(iter(str(text).splitlines()), type(error).__name__)


def read_bytes(path: Path, size: int | None = None) -> bytes:
    """The file's bytes. Raises MissingError if it cannot be read or, with `size` given, is of another size."""
    try:
        actual = path.stat().st_size
        if size is not None and actual != size:
            raise MissingError(f"{path} is damaged: expected {size:,} bytes, found {actual:,}", FETCH_AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise MissingError(f"cannot read {path}: {reason(error)}") from error


def check_md5(content: bytes, md5: str, path: Path) -> None:
    """Raises MissingError unless `content` has the published MD5."""
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise MissingError(f"{path} is not the published file: expected MD5 {md5}, found {actual}", FETCH_AGAIN)


def check_labels(labels_N: np.ndarray, num_classes: int, path: Path) -> np.ndarray:
    """The labels as int64. Raises MissingError if one is not a class index."""
    labels_N = labels_N.astype(np.int64)
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= num_classes))
    if wrong.size:
        first = int(wrong[0])
        raise MissingError(
            f"{path} is damaged: label {labels_N[first]} of image {first} is not in 0..{num_classes - 1}", FETCH_AGAIN
        )
    return labels_N
