"""CIFAR's binary version: per image its label byte(s), then 3,072 bytes: red, green, blue plane, each row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deatbench.data.reading import check_labels, read_bytes

PIXEL_BYTES = 3 * 32 * 32


def read_binary(
    path: Path, n: int, num_classes: int, label_offset: int = 0, label_bytes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (uint8, N×3×32×32) and labels (int64, N) of one file.

    Args:
        n: how many images the file must hold.
        label_offset: which of the label bytes is the label (CIFAR-100: 0 coarse, 1 fine).
        label_bytes: how many label bytes lead each record (CIFAR-10: 1, CIFAR-100: 2).

    Raises:
        MissingError: the file cannot be read, has another size, or a label out of range.
    """
    record_bytes = label_bytes + PIXEL_BYTES
    content = np.frombuffer(read_bytes(path, n * record_bytes), dtype=np.uint8)
    records = content.reshape(n, record_bytes)
    labels_N = check_labels(records[:, label_offset], num_classes, path)
    return records[:, label_bytes:].reshape(n, 3, 32, 32).copy(), labels_N
