"""The hub's parquet layout: shards named train-00000-of-00001.parquet, images as encoded files in a struct column."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deatbench.data.reading import FETCH_AGAIN, check_labels, reason
from deatbench.errors import MissingError

IMAGE_COLUMNS = ("img", "image")


def parquet_shards(folder: Path, split: str) -> list[Path]:
    """The split's files in a folder, in order."""
    return sorted(folder.glob(f"{split}-*.parquet"))


def read_parquet(
    shards: Sequence[Path], n: int, shape: tuple[int, int, int], label_columns: Sequence[str], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (uint8, N×C×H×W) and labels (int64, N) of one split.

    Args:
        n: how many images the shards must hold together.
        shape: C, H, W that every image must have.
        label_columns: names of the label column, the first present one counts.

    Raises:
        MissingError: pyarrow is not installed, or the files are damaged or another data set's.
    """
    pq = _parquet_module(shards[0])
    pixels_NCHW = np.empty((n, *shape), dtype=np.uint8)
    labels_N = np.empty(n, dtype=np.int64)
    done = 0
    try:
        tables = [pq.ParquetFile(shard) for shard in shards]
        rows = sum(table.metadata.num_rows for table in tables)
        if rows != n:
            raise MissingError(f"{shards[0].parent} is not the data set: expected {n:,} images, found {rows:,}")
        for shard, table in zip(shards, tables, strict=True):
            columns = [_column(table, IMAGE_COLUMNS, shard), _column(table, label_columns, shard)]
            for batch in table.iter_batches(batch_size=1000, columns=columns):
                images, labels = (batch.column(column) for column in columns)
                here = slice(done, done + batch.num_rows)
                pixels_NCHW[here] = [_decode(image, shape, shard) for image in images.to_pylist()]
                labels_N[here] = check_labels(labels.to_numpy(zero_copy_only=False), num_classes, shard)
                done += batch.num_rows
    except (ValueError, KeyError, OSError) as error:  # what pyarrow's errors derive from
        raise MissingError(f"{shards[0].parent} is damaged: {reason(error)}", FETCH_AGAIN) from error
    return pixels_NCHW, labels_N


def _parquet_module(shard: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        remedy = "pip install 'deatbench[hf]', or use the data set's own format"
        raise MissingError(f"reading {shard} needs pyarrow", remedy) from error
    return pyarrow.parquet


def _column(table: Any, names: Sequence[str], shard: Path) -> str:
    present = table.schema_arrow.names
    for name in names:
        if name in present:
            return name
    raise MissingError(f"{shard} has no column {' or '.join(names)}: it is another data set's")


def _decode(image: Any, shape: tuple[int, int, int], shard: Path) -> np.ndarray:
    """A struct {"bytes": png} as C×H×W. The size is read from the header before anything is decoded."""
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(image["bytes"]), formats=("PNG", "JPEG")) as picture:
            if picture.size != (width, height):
                raise ValueError(f"size {picture.size[0]}×{picture.size[1]}, expected {width}×{height}")
            pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise MissingError(f"{shard} is damaged: an image cannot be decoded ({reason(error)})", FETCH_AGAIN) from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
