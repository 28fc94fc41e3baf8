"""The archive of adversarial images: bit for bit, compact, and safe to read from a stranger."""

from __future__ import annotations

import lzma
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from records_factory import evaluation

from deatbench.errors import MismatchError, MissingError
from deatbench.evidence import AdversarialImages, Archive, ArchiveHeader, StoredImages, with_evidence, write_evaluation
from deatbench.evidence import images as images_module
from deatbench.evidence.archive import MAGIC
from deatbench.records import EvaluationRecord
from deatbench.store import read_record

SHAPE = (1, 3, 4)
RECORD = evaluation(n=100, clean=0.9, robust={"pgd-20": 0.6, "autoattack": 0.5})


def unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(255)


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint32)


def clean_images(n: int = 100, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return unit(np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8))


def written(folder: Path, book: AdversarialImages) -> Archive:
    record, data = with_evidence(RECORD, book)
    write_evaluation(folder, record, data)
    return Archive(folder / f"{record.id}.adv")


def contents(archive: Archive, x_NCHW: np.ndarray) -> dict[str, dict[int, bytes]]:
    """attack → index → the bytes of the adversarial image."""
    found: dict[str, dict[int, bytes]] = {}
    for part in archive.sections():
        x_adv = part.images(x_NCHW[part.indices_M])
        assert x_adv.dtype == np.float32
        images = {int(i): image.tobytes() for i, image in zip(part.indices_M, x_adv, strict=True)}
        found.setdefault(part.attack, {}).update(images)
    return found


pixels = arrays.arrays(np.uint8, (4, *SHAPE))
any_bits = arrays.arrays(np.uint32, (4, *SHAPE), elements=st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(clean=pixels, near=pixels, foreign=any_bits, on_grid=st.lists(st.booleans(), min_size=4, max_size=4))
def test_every_bit_pattern_comes_back(
    clean: np.ndarray, near: np.ndarray, foreign: np.ndarray, on_grid: list[bool], tmp_path_factory: Any
) -> None:
    """NaN, infinity, -0.0 and denormals too: whether they count is not for the archive to say."""
    mask = np.array(on_grid)[:, None, None, None]
    x_adv = np.where(mask, bits(unit(near)), foreign).view(np.float32)
    book = AdversarialImages()
    book.add("pgd-20", np.array([7, 3, 99, 0]), x_adv, unit(clean))
    part = next(book.parts())
    archive = written(tmp_path_factory.mktemp("a"), book)
    (read,) = archive.sections()
    order = np.argsort([7, 3, 99, 0])
    assert read.indices_M.tolist() == part.indices_M.tolist() == [0, 3, 7, 99]
    assert np.array_equal(bits(read.images(unit(clean)[order])), bits(x_adv[order]))
    assert not read.off_grid_M[np.array(on_grid)[order]].any()


def test_neither_order_nor_batches_change_the_archive(tmp_path: Path) -> None:
    x = clean_images()
    x_adv = np.clip(x + np.float32(0.1), 0, 1)
    one, many = AdversarialImages(), AdversarialImages()
    one.add("pgd-20", np.arange(60, 90), x_adv[60:90], x[60:90])
    one.add("autoattack", np.arange(50, 90), x_adv[50:90], x[50:90])
    many.add("autoattack", np.arange(89, 49, -1), x_adv[89:49:-1], x[89:49:-1])
    for indices in (np.arange(80, 90), np.empty(0, np.int64), np.arange(60, 80)):
        many.add("pgd-20", indices, x_adv[indices], x[indices])
    assert with_evidence(RECORD, one) == with_evidence(RECORD, many)
    record, _ = with_evidence(RECORD, one)
    assert record.adversarials is not None
    assert record.adversarials.images == {"pgd-20": 30, "autoattack": 40}
    assert record.adversarials.file == f"{RECORD.id}.adv"
    archive = written(tmp_path, one)
    assert archive.header.belongs_to(record)
    assert not archive.header.belongs_to(evaluation("another"))
    assert contents(archive, x)["pgd-20"] == {i: x_adv[i].tobytes() for i in range(60, 90)}


def test_large_attacks_are_cut_into_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MAX_PART_BYTES", 500)  # seven images
    x = clean_images(40)
    x_adv = x.copy()
    x_adv[::2] += np.float32(1e-3)
    book = AdversarialImages()
    book.add("pgd-20", np.arange(40), x_adv, x)
    archive = written(tmp_path, book)
    assert [section.images for section in archive.header.sections] == [7, 7, 7, 7, 7, 5]
    assert contents(archive, x)["pgd-20"] == {i: x_adv[i].tobytes() for i in range(40)}


def test_whole_pixels_cost_little(tmp_path: Path) -> None:
    """±8 of 255 on 40 CIFAR-sized images: 1 or 2 bits a pixel, not 32."""
    x = clean_images(40, (3, 32, 32))
    signs = np.random.default_rng(1).choice([-8, 8], x.shape)
    x_adv = unit(np.clip(np.rint(x * 255) + signs, 0, 255).astype(np.uint8))
    sizes = []
    for images in (x_adv, np.nextafter(x_adv, np.float32(0.5))):
        book = AdversarialImages()
        book.add("pgd-20", np.arange(40), images, x)
        sizes.append(written(tmp_path, book).path.stat().st_size / 40)
        assert contents(Archive(tmp_path / f"{RECORD.id}.adv"), x)["pgd-20"][3] == images[3].tobytes()
    assert sizes[0] < 0.3 * 3072
    assert sizes[0] < sizes[1] < 2 * 3072


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, a, x: (i, a.astype(np.float64), x), "float32"),
        (lambda i, a, x: (i, a, x + np.float32(1e-4)), "whole pixels"),
        (lambda i, a, x: (i[:2], a, x), "as many"),
        (lambda i, a, x: (i, a, x[:, :, :2]), "as many"),
        (lambda i, a, x: (i * 0, a, x), "twice"),
        (lambda i, a, x: (i - 1, a, x), "negative"),
    ],
)
def test_what_the_engine_must_not_hand_over(change: Callable[..., tuple[np.ndarray, ...]], words: str) -> None:
    x = clean_images(3)

    def hand_over() -> None:
        book = AdversarialImages()
        book.add("pgd-20", *change(np.arange(3), x.copy(), x))
        with_evidence(RECORD, book)

    with pytest.raises(ValueError, match=words):
        hand_over()


def test_records_without_an_archive_still_load(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    data = RECORD.model_dump_json(exclude={"adversarials"})
    assert "adversarials" not in data
    path.write_text(data)
    assert read_record(path, EvaluationRecord) == RECORD


# -- strangers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def refuse(tmp_path: Path) -> Iterator[Callable[[bytes, str], None]]:
    """refuse(data, words): reading it all ends in one MismatchError that says so, in little memory."""

    def refuse(data: bytes, words: str) -> None:
        path = tmp_path / "bad.adv"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(MismatchError, match=words) as caught:
                list(Archive(path).sections())
            assert tracemalloc.get_traced_memory()[1] < 48 * 2**20
        finally:
            tracemalloc.stop()
        assert len(str(caught.value).splitlines()) == 1
        assert "bad.adv" in str(caught.value)

    return refuse  # type: ignore[return-value]


def header(**changes: Any) -> dict[str, Any]:
    section = {"attack": "pgd-20", "images": 3, "off_grid": 0, "packed_bytes": 0} | changes.pop("section", {})
    return {
        "format": 1, "record": RECORD.id, "model_sha256": RECORD.model.sha256, "n": 100, "image_shape": SHAPE,
        "dataset_sha256": RECORD.dataset.sha256, "threat": RECORD.threat.model_dump(), "sections": [section],
    } | changes  # fmt: skip


def archive_of(raw: bytes, packed: bytes | None = None, **changes: Any) -> bytes:
    stream = lzma.compress(raw) if packed is None else packed
    section = {"packed_bytes": len(stream)} | changes.pop("section", {})
    text = ArchiveHeader.model_construct(**header(section=section, **changes)).model_dump_json(warnings=False).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + stream


def section_of(indices: list[int], off_grid: int = 0) -> bytes:
    return np.array(indices, "<u4").tobytes() + bytes([off_grid]) + bytes(12 * len(indices))


def test_the_builder_of_bad_archives_can_build_good_ones(tmp_path: Path) -> None:
    (tmp_path / "good.adv").write_bytes(archive_of(section_of([1, 5, 99])))
    (part,) = Archive(tmp_path / "good.adv").sections()
    assert part.indices_M.tolist() == [1, 5, 99]


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([5, 1, 7], "out of order"),
        ([1, 1, 2], "twice"),
        ([1, 2, 100], "index 100 of 100"),
        ([1, 2, 2**32 - 1], "index"),
    ],
)
def test_indices_that_cannot_be(indices: list[int], words: str, refuse: Callable[[bytes, str], None]) -> None:
    refuse(archive_of(section_of(indices)), words)


def test_indices_twice_across_sections(refuse: Callable[[bytes, str], None]) -> None:
    stream = lzma.compress(section_of([1, 2, 3]))
    section = {"attack": "pgd-20", "images": 3, "off_grid": 0, "packed_bytes": len(stream)}
    refuse(archive_of(b"", stream + stream, sections=[section, section]), "twice")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"section": {"images": 101}}, "claims 101 of 100"),
        ({"section": {"off_grid": 4}}, "claims"),
        ({"section": {"images": -1}}, "greater than or equal to 0"),
        ({"section": {"images": True}}, "valid integer"),
        ({"section": {"packed_bytes": 2**40}}, "sections"),
        ({"section": {"packed_bytes": 2**30}}, "64 MiB"),
        ({"n": 0}, "greater than 0"),
        ({"image_shape": (65536, 65536, 65536)}, "64 MiB"),
        ({"image_shape": (0, 3, 4)}, "image_shape"),
        ({"image_shape": (1, 3)}, "image_shape"),
        ({"image_shape": (1, 3, 5)}, "does not hold"),
        ({"format": 2}, "format"),
        ({"record": "../evil"}, "record"),
    ],
)
def test_headers_that_claim_absurd_things(
    changes: dict[str, Any], words: str, refuse: Callable[[bytes, str], None]
) -> None:
    refuse(archive_of(section_of([1, 2, 3]), **changes), words)


def test_damage(refuse: Callable[[bytes, str], None]) -> None:
    good = archive_of(section_of([1, 2, 3]))
    refuse(b"", "no archive")
    refuse(b"PK\x03\x04" + bytes(100), "no archive")
    refuse(good[:30], "truncated")
    refuse(good[:-1], "bytes, its header describes")
    refuse(good + b"\0", "bytes, its header describes")
    refuse(good[:-40] + bytes([good[-40] ^ 1]) + good[-39:], "damaged|does not hold")
    refuse(MAGIC + b"\xff\xff\xff\xff", "truncated")
    for text, words in (
        (b"\xff\xfe", "UTF-8"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"n": NaN}', "NaN"),
        (b"{}", "required"),
    ):
        refuse(MAGIC + len(text).to_bytes(4, "little") + text, words)


def test_bombs_and_junk_inside_a_section(refuse: Callable[[bytes, str], None]) -> None:
    bomb = lzma.compress(bytes(96 * 2**20), preset=0)
    assert len(bomb) < 2**20
    refuse(archive_of(b"", bomb), "does not hold")
    whole = lzma.compress(section_of([1, 2, 3]))
    refuse(archive_of(b"", whole + b"junk"), "does not hold")
    refuse(archive_of(b"", whole + whole), "does not hold")
    refuse(archive_of(section_of([1, 2, 3])[:-1]), "does not hold")
    refuse(archive_of(section_of([1, 2, 3]) + b"\0"), "does not hold")
    refuse(archive_of(section_of([1, 2, 3], off_grid=0b01000000)), "off the grid")


def test_a_section_that_wants_4_gib_to_be_unpacked(refuse: Callable[[bytes, str], None]) -> None:
    """The size of xz's dictionary stands in the block header: size, flags, filter, its length, dictionary, CRC."""
    stream = bytearray(lzma.compress(section_of([1, 2, 3])))
    assert stream[12:16] == b"\x02\x00\x21\x01"
    stream[16] = 40
    stream[20:24] = zlib.crc32(stream[12:20]).to_bytes(4, "little")
    refuse(archive_of(b"", bytes(stream)), "Memory usage limit")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"none\.adv"):
        Archive(tmp_path / "none.adv")


def test_a_part_is_a_part() -> None:
    x = clean_images(6)
    x_adv = x.copy()
    x_adv[[1, 4]] += np.float32(1e-3)
    stored = StoredImages.between("a", np.arange(6), x_adv, x)
    assert stored.off_grid_M.tolist() == [False, True, False, False, True, False]
    assert np.array_equal(stored.part(3, 6).images(x[3:6]), x_adv[3:6])
