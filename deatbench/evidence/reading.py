"""Reading an archive of a stranger: every size is checked before anything is unpacked, nothing is ever executed."""

from __future__ import annotations

import lzma
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from deatbench.errors import ConfigError, MismatchError, MissingError
from deatbench.evidence.archive import MAGIC, ArchiveHeader, Section
from deatbench.evidence.images import MAX_PART_BYTES, StoredImages, unpacked_bytes
from deatbench.store import parse_json

MAX_HEADER_BYTES = 4 * 2**20
DECODER_BYTES = 64 * 2**20  # what xz may claim for its dictionary; our preset needs 9 MiB


class Archive:
    """An archive whose header and sizes hold; its sections are unpacked one at a time.

    Raises MissingError if there is no such file, MismatchError if it is not whole or claims absurd sizes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                start = file.read(len(MAGIC) + 4 + MAX_HEADER_BYTES)
            size = path.stat().st_size
        except OSError as error:
            raise MissingError(f"cannot read {path}: {error.strerror}") from error
        self._start = len(MAGIC) + 4 + int.from_bytes(start[len(MAGIC) : len(MAGIC) + 4], "little")
        if not start.startswith(MAGIC) or len(start) < self._start:
            raise MismatchError(f"{path} is no archive of adversarial images, or a truncated one")
        self.header = _parse_header(start[len(MAGIC) + 4 : self._start], path)
        described = self._start + sum(section.packed_bytes for section in self.header.sections)
        if size != described:
            raise MismatchError(f"{path} has {size:,} bytes, its header describes {described:,}")

    def counts(self) -> dict[str, int]:
        """How many images it claims to hold of each attack."""
        counts: Counter[str] = Counter()
        for section in self.header.sections:
            counts[section.attack] += section.images
        return dict(counts)

    def sections(self) -> Iterator[StoredImages]:
        """The images, part by part: within an attack indices ascend and are below n. Raises MismatchError."""
        last: dict[str, int] = {}
        with self.path.open("rb") as file:
            file.seek(self._start)
            for section in self.header.sections:
                stored = self._parse(section, self._unpack(section, file.read(section.packed_bytes)))
                if len(stored):
                    if (np.diff(stored.indices_M, prepend=last.get(section.attack, -1)) <= 0).any():
                        raise MismatchError(f"{self.path}: an index of {section.attack} comes twice or out of order")
                    last[section.attack] = int(stored.indices_M[-1])
                    if last[section.attack] >= self.header.n:
                        raise MismatchError(f"{self.path}: index {last[section.attack]} of {self.header.n} images")
                    yield stored

    def _unpack(self, section: Section, packed: bytes) -> bytes:
        expected = unpacked_bytes(section.images, section.off_grid, self.header.image_shape)
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, DECODER_BYTES)
        try:
            raw = decoder.decompress(packed, expected + 1)  # a bomb gets one byte more than it claimed, no further
        except lzma.LZMAError as error:
            raise MismatchError(f"{self.path}: a section is damaged: {error}") from error
        if len(raw) != expected or not decoder.eof or decoder.unused_data:
            raise MismatchError(f"{self.path}: a section does not hold the {expected:,} bytes that it claims")
        return raw

    def _parse(self, section: Section, raw: bytes) -> StoredImages:
        m, e, shape = section.images, section.off_grid, self.header.image_shape
        cuts = np.cumsum([4 * m, (m + 7) // 8, m * math.prod(shape)])
        indices, bits, steps, planes = np.split(np.frombuffer(raw, np.uint8), cuts)
        off_grid_M = np.unpackbits(bits, count=m).astype(bool)
        if off_grid_M.sum() != e:
            raise MismatchError(f"{self.path}: {off_grid_M.sum()} images are off the grid, the header claims {e}")
        ulps_ECHW4 = np.ascontiguousarray(np.moveaxis(planes.reshape(4, e, *shape), 0, -1))
        return StoredImages(
            attack=section.attack,
            indices_M=indices.view("<u4").astype(np.int64),
            off_grid_M=off_grid_M,
            steps_MCHW=steps.reshape(m, *shape),
            ulps_ECHW=ulps_ECHW4.view("<u4")[..., 0],
        )


def _parse_header(data: bytes, path: Path) -> ArchiveHeader:
    """Raises MismatchError unless it is a header whose sections have room in memory and among the images."""
    try:
        text = data.decode("utf-8")
        parse_json(text, f"the header of {path}")
        header = ArchiveHeader.model_validate_json(text, strict=True)
    except UnicodeDecodeError as error:
        raise MismatchError(f"the header of {path} is not UTF-8 text") from error
    except ConfigError as error:
        raise MismatchError(error.message) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MismatchError(f"the header of {path}: {place}: {first['msg']}") from error
    for section in header.sections:
        unpacked = unpacked_bytes(section.images, section.off_grid, header.image_shape)
        if max(unpacked, section.packed_bytes) > MAX_PART_BYTES:
            raise MismatchError(f"{path}: a section claims {unpacked:,} bytes, more than {MAX_PART_BYTES >> 20} MiB")
        if not section.off_grid <= section.images <= header.n:
            raise MismatchError(f"{path}: a section claims {section.images:,} of {header.n:,} images")
    return header
