"""The archive `<record id>.adv` beside a record, and how it is written.

The name does not end in .json, so that no glob takes it for a record, nor in .npz, so that nobody loads it with
something that unpickles. The layout, little-endian:

    b"DEATADV1" | length of the header, u32 | header, JSON (`ArchiveHeader`) | sections, each one xz stream

A section holds M images of one attack, ascending in index, E of them off the grid of whole pixels:

    index u32 [M] | off the grid? packed bits [M] | steps u8 [M, C, H, W] | ulps u32 [E, C, H, W] as 4 planes of bytes
"""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from deatbench.evidence.images import AdversarialImages, StoredImages
from deatbench.records import AdversarialArchive, EvaluationRecord, Identifier, Record, Sha256, Threat
from deatbench.store import atomic_write_bytes, write_record

SUFFIX = ".adv"
MAGIC = b"DEATADV1"

Count = Annotated[int, Field(ge=0, lt=2**31)]
Side = Annotated[int, Field(ge=1, le=2**16)]


class Section(Record):
    """One xz stream: how many images of `attack`, how many of them off the grid, its length in the file."""

    attack: str
    images: Count
    off_grid: Count
    packed_bytes: Count


class ArchiveHeader(Record):
    """What the archive belongs to, and what follows in it."""

    format: Literal[1] = 1
    record: Identifier
    model_sha256: Sha256
    dataset_sha256: Sha256
    threat: Threat
    n: Annotated[int, Field(gt=0, lt=2**31)]
    image_shape: tuple[Side, Side, Side]
    sections: tuple[Section, ...]

    def belongs_to(self, record: EvaluationRecord) -> bool:
        """Whether it was made by the evaluation that `record` tells of."""
        mine = (self.record, self.model_sha256, self.dataset_sha256, self.threat, self.n)
        return mine == (record.id, record.model.sha256, record.dataset.sha256, record.threat, record.dataset.n)


def with_evidence(record: EvaluationRecord, book: AdversarialImages) -> tuple[EvaluationRecord, bytes]:
    """The record that names its archive, and the archive. Raises ValueError where an image of the book is amiss."""
    sections, streams, shape = [], [], (1, 1, 1)
    for part in book.parts():
        streams.append(lzma.compress(_raw(part), lzma.FORMAT_XZ))
        shape = part.steps_MCHW.shape[1:]
        off_grid = int(part.off_grid_M.sum())
        sections.append(Section(attack=part.attack, images=len(part), off_grid=off_grid, packed_bytes=len(streams[-1])))
    header = ArchiveHeader(
        record=record.id,
        model_sha256=record.model.sha256,
        dataset_sha256=record.dataset.sha256,
        threat=record.threat,
        n=record.dataset.n,
        image_shape=shape,
        sections=tuple(sections),
    )
    text = header.model_dump_json().encode()
    archive = b"".join([MAGIC, len(text).to_bytes(4, "little"), text, *streams])
    images = {name: sum(part.images for part in sections if part.attack == name) for name in record.samples.robust}
    named = AdversarialArchive(file=record.id + SUFFIX, sha256=hashlib.sha256(archive).hexdigest(), images=images)
    return record.model_copy(update={"adversarials": named}), archive


def write_evaluation(folder: Path, record: EvaluationRecord, archive: bytes | None = None) -> Path:
    """Write the archive, then the record that names it; returns the record's path."""
    if archive is not None and record.adversarials is not None:
        atomic_write_bytes(folder / record.adversarials.file, archive)
    path = folder / f"{record.id}.json"
    write_record(path, record)
    return path


def _raw(part: StoredImages) -> bytes:
    planes = np.moveaxis(part.ulps_ECHW.astype("<u4")[..., None].view(np.uint8), -1, 0)
    bits = np.packbits(part.off_grid_M)
    return b"".join(
        [part.indices_M.astype("<u4").tobytes(), bits.tobytes(), part.steps_MCHW.tobytes(), planes.tobytes()]
    )
