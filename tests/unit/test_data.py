"""Data sets: every layout is read bit by bit, every damaged or hostile file ends in one clear line."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deatbench.data import DATASETS, DataLocation, Dataset, cifar, found, get, load_dataset
from deatbench.data import cifar10 as cifar10_file
from deatbench.data.augment import augment
from deatbench.data.cifar_binary import read_binary
from deatbench.data.cifar_python import parse_batch
from deatbench.data.download import Remote, download, unpack
from deatbench.data.folder import FolderImages, decode
from deatbench.data.idx import read_idx
from deatbench.data.images import TensorImages, channel_statistics
from deatbench.data.parquet import read_parquet
from deatbench.data.split import stratified_split
from deatbench.data.svhn import parse_mat
from deatbench.errors import ConfigError, MissingError, UnknownNameError

CPU = torch.device("cpu")
CHECKOUT = Path(__file__).resolve().parents[2]
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def cifar10_folder() -> Path:
    """Where the real CIFAR-10 lies on this machine, or skip."""
    roots = [os.environ.get("DEATBENCH_DATA"), str(CHECKOUT.parent / "shared" / "data")]
    for root in filter(None, roots):
        if (Path(root) / "cifar-10-batches-bin" / "test_batch.bin").is_file():
            return Path(root)
    pytest.skip("no CIFAR-10 binary version under DEATBENCH_DATA")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without data and without network: an empty folder that is also the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DEATBENCH_OFFLINE", "1")
    monkeypatch.delenv("DEATBENCH_DATA", raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    return empty


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)


def one_line(error: MissingError, *parts: object) -> None:
    """The message is a single line, has exit code 4, and says all of `parts`."""
    assert error.exit_code == 4
    assert "\n" not in str(error)
    for part in parts:
        assert str(part) in str(error)


# digits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_digits_are_whole_and_on_their_scale(digits: Dataset) -> None:
    assert digits.image_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1293, 144, 360)
    ((x_NCHW, y_N),) = digits.test.batches([torch.arange(360)], CPU)
    assert x_NCHW.shape == (360, 1, 8, 8)
    assert x_NCHW.dtype == torch.float32
    assert y_N.dtype == torch.int64
    assert torch.equal(y_N, digits.test.labels_N)
    assert x_NCHW.min() == 0
    assert x_NCHW.max() == 1
    levels = torch.round(torch.arange(17) * 255 / 16) / 255
    assert torch.isin(x_NCHW, levels).all()


def test_digits_splits_are_the_same_for_ever(digits: Dataset) -> None:
    # Committed models were measured on exactly these 360 images: the digest must never change.
    assert digits.test.sha256() == "d002cc112da9734e0b5c974a9a6e4c7217e2840f71d3846b05a825247d8a8ada"
    assert digits.val.sha256() == "f012dcaf8e4f751f3e05a205c77ab99f978879f6c27ee1e356ff1e52afd9284b"
    assert load_dataset("digits").test.sha256() == digits.test.sha256()


def test_digits_test_split_is_stratified(digits: Dataset) -> None:
    whole = sum(torch.bincount(split.labels_N) for split in (digits.train, digits.val, digits.test))
    assert (torch.bincount(digits.test.labels_N) - 0.2 * whole).abs().max() <= 1


def test_digits_statistics_are_those_of_the_training_images(digits: Dataset) -> None:
    ((x_NCHW, _),) = digits.train.batches([torch.arange(len(digits.train))], CPU)
    assert digits.mean == pytest.approx([x_NCHW.mean().item()], abs=1e-6)
    assert digits.std == pytest.approx([x_NCHW.std(correction=0).item()], abs=1e-6)


def test_digits_are_never_mirrored(digits: Dataset) -> None:
    assert digits.augment == "crop"


def test_digits_need_no_files(nowhere: Path) -> None:
    assert found("digits") == "embedded in scikit-learn"


# in memory


def test_a_pixel_is_its_byte_over_255_exactly() -> None:
    pixels_NCHW = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    ((x_NCHW, _),) = TensorImages(pixels_NCHW, torch.zeros(1, dtype=torch.int64)).batches([torch.tensor([0])], CPU)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(x_NCHW.flatten().numpy(), expected)


def test_subset_keeps_order_and_digest_tells_order_apart(digits: Dataset) -> None:
    picked = digits.test.subset(torch.tensor([5, 3]))
    assert picked.labels_N.tolist() == digits.test.labels_N[[5, 3]].tolist()
    ((x_NCHW, _),) = picked.batches([torch.tensor([0, 1])], CPU)
    ((y_NCHW, _),) = digits.test.batches([torch.tensor([5, 3])], CPU)
    assert torch.equal(x_NCHW, y_NCHW)
    assert picked.sha256() != digits.test.subset(torch.tensor([3, 5])).sha256()
    assert picked.sha256() == digits.test.subset(torch.tensor([5, 3])).sha256()


def test_digest_is_of_pixels_then_labels(pixels: np.ndarray) -> None:
    labels_N = np.arange(6)
    expected = hashlib.sha256(pixels.tobytes() + labels_N.astype("<i8").tobytes()).hexdigest()
    assert TensorImages.from_numpy(pixels, labels_N).sha256() == expected


def test_tensor_images_refuse_other_types() -> None:
    with pytest.raises(ValueError, match="uint8"):
        TensorImages(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))


@pytest.mark.gpu
def test_a_split_is_resident_once_and_equal_to_the_cpus(digits: Dataset) -> None:
    cuda = torch.device("cuda")
    ((x_cuda, y_cuda),) = digits.test.batches([torch.arange(360)], cuda)
    ((x_cpu, y_cpu),) = digits.test.batches([torch.arange(360)], CPU)
    assert x_cuda.device.type == y_cuda.device.type == "cuda"
    assert torch.equal(x_cuda.cpu(), x_cpu)
    assert torch.equal(y_cuda.cpu(), y_cpu)
    assert isinstance(digits.test, TensorImages)
    assert digits.test.resident(cuda)[0] is digits.test.resident(cuda)[0]


# the validation split


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.floats(0, 0.99),
    salt=st.sampled_from(["cifar10", "digits"]),
)
@settings(max_examples=40, deadline=None)
def test_split_is_stratified_disjoint_and_complete(counts: list[int], fraction: float, salt: str) -> None:
    labels_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    kept, held = stratified_split(labels_N, fraction, salt)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels_N)))
    per_class = torch.bincount(labels_N[held], minlength=len(counts))
    assert (per_class - torch.tensor(counts) * fraction).abs().max() <= 1
    again = stratified_split(labels_N, fraction, salt)
    assert torch.equal(again[1], held)


def test_split_depends_on_the_name_alone() -> None:
    labels_N = torch.arange(200) % 10
    state = torch.get_rng_state()
    first = stratified_split(labels_N, 0.1, "cifar10")[1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(stratified_split(labels_N, 0.1, "cifar10")[1], first)
    assert not torch.equal(stratified_split(labels_N, 0.1, "svhn")[1], first)
    assert len(first) == 20


def test_val_fraction_zero_leaves_val_empty() -> None:
    whole = load_dataset("digits", val_fraction=0)
    assert (len(whole.train), len(whole.val)) == (1437, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_val_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigError, match="hold out") as caught:
        load_dataset("digits", val_fraction=fraction)
    assert caught.value.exit_code == 2


# CIFAR, binary version


def test_real_cifar10() -> None:
    folder = cifar10_folder()
    published = "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
    test_batch = (folder / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    assert hashlib.sha256(test_batch).hexdigest() == published
    cifar10 = load_dataset("cifar10", folder)
    assert cifar10.source == "CIFAR-10 binary version"
    assert (len(cifar10.train), len(cifar10.val), len(cifar10.test)) == (45_000, 5_000, 10_000)
    assert torch.bincount(cifar10.val.labels_N).tolist() == [500] * 10
    assert cifar10.classes[int(cifar10.test.labels_N[0])] == "cat"
    # the first record, byte by byte as the format describes it
    ((x_NCHW, y_N),) = cifar10.test.batches([torch.tensor([0])], CPU)
    assert y_N.item() == test_batch[0]
    assert x_NCHW[0, 2, 31, 30].item() == pytest.approx(test_batch[1 + 2 * 1024 + 31 * 32 + 30] / 255)
    mean, std = channel_statistics(cifar10.test)
    assert mean == pytest.approx(cifar10.mean, abs=0.005)
    assert std == pytest.approx(cifar10.std, abs=0.005)


@pytest.mark.parametrize("file", ["data_batch_3.bin", "test_batch.bin"])
def test_one_wrong_bit_of_cifar10_is_refused(file: str, tmp_path: Path) -> None:
    """The length is right, and the pixels are all possible."""
    copy = tmp_path / "cifar-10-batches-bin"
    shutil.copytree(cifar10_folder() / copy.name, copy)
    content = bytearray((copy / file).read_bytes())
    content[5000] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(MissingError) as caught:
        load_dataset("cifar10", tmp_path)
    one_line(caught.value, copy, "other images or labels than CIFAR-10", "fetch")


def test_a_known_sha256_is_held_against_what_is_read(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without CIFAR-10 at hand: a data set of ten and two images."""
    monkeypatch.setattr(cifar, "N_TRAIN", 10)
    monkeypatch.setattr(cifar, "N_TEST", 2)
    folder, files = nowhere / "cifar-10-batches-bin", cifar10_file.FILES
    folder.mkdir()
    for n, name in enumerate((*files.binary_train, files.binary_test)):
        (folder / name).write_bytes(bytes([n]) + bytes(3072) + bytes([n + 1]) + bytes(3072))
    monkeypatch.setattr(cifar10_file, "FILES", replace(files, sha256=None))
    splits = cifar10_file.cifar10(DataLocation(nowhere)).read()
    known = (splits[0].sha256(), splits[1].sha256())
    monkeypatch.setattr(cifar10_file, "FILES", replace(files, sha256=known))
    cifar10_file.cifar10(DataLocation(nowhere)).read()
    for name in ("data_batch_5.bin", "test_batch.bin"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + b"\1")
        with pytest.raises(MissingError, match="other images or labels"):
            cifar10_file.cifar10(DataLocation(nowhere)).read()
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize(("label_bytes", "label_offset"), [(1, 0), (2, 1)])
def test_binary_layout(tmp_path: Path, pixels: np.ndarray, label_bytes: int, label_offset: int) -> None:
    path = tmp_path / "data_batch_1.bin"
    fine = bytes([9, 0, 3, 3, 7, 1])
    path.write_bytes(
        b"".join(bytes([250])[: label_bytes - 1] + bytes([y]) + x.tobytes() for x, y in zip(pixels, fine, strict=True))
    )
    read, labels_N = read_binary(path, 6, 10, label_offset, label_bytes)
    assert np.array_equal(read, pixels)
    assert labels_N.tolist() == list(fine)


def test_binary_label_out_of_range(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(b"".join(bytes([y]) + x.tobytes() for x, y in zip(pixels, [0, 1, 10, 2, 3, 4], strict=True)))
    with pytest.raises(MissingError) as caught:
        read_binary(path, 6, 10)
    one_line(caught.value, path, "label 10 of image 2", "0..9")


def test_truncated_file_is_named_with_its_sizes(nowhere: Path) -> None:
    folder = nowhere / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*cifar10_file.FILES.binary_train, "test_batch.bin"):
        (folder / name).write_bytes(bytes(3073 * 2))
    assert found("cifar10", nowhere) == "CIFAR-10 binary version"
    with pytest.raises(MissingError) as caught:
        load_dataset("cifar10", nowhere)
    one_line(caught.value, folder / "data_batch_1.bin", "30,730,000", "6,146")


def test_an_incomplete_folder_is_not_found(nowhere: Path) -> None:
    folder = nowhere / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(bytes(3073))
    assert found("cifar10", nowhere) is None


# CIFAR, python version


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.target, "code ran")


def python_batch(pixels: np.ndarray, labels: list[int]) -> dict[bytes, Any]:
    return {b"data": pixels.reshape(len(labels), -1), b"labels": labels, b"batch_label": b"testing batch 1 of 1"}


@pytest.mark.parametrize("protocol", [2, 4])
def test_python_layout(pixels: np.ndarray, protocol: int) -> None:
    content = pickle.dumps(python_batch(pixels, [0, 1, 2, 3, 4, 9]), protocol=protocol)
    read, labels_N = parse_batch(content, "labels", 10, Path("data_batch_1"))
    assert np.array_equal(read, pixels)
    assert labels_N.tolist() == [0, 1, 2, 3, 4, 9]


def test_python_layout_as_python_2_wrote_it(pixels: np.ndarray) -> None:
    # The published files come from Python 2: byte strings without a type, and numpy's module under its old name.
    raw = pixels[:1].tobytes()
    array = b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR",
            b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb",
        ]
    )
    content = b"\x80\x02}(U\x04data" + array + b"U\x06labels]K\x07au."
    read, labels_N = parse_batch(content, "labels", 10, Path("data_batch_1"))
    assert np.array_equal(read, pixels[:1])
    assert labels_N.tolist() == [7]


def test_python_layout_needs_the_published_checksum(nowhere: Path, pixels: np.ndarray) -> None:
    folder = nowhere / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*cifar10_file.FILES.python_train, "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"harmless": Bomb(nowhere / "ran")}))
    assert found("cifar10", nowhere) == "CIFAR-10 python version"
    with pytest.raises(MissingError) as caught:
        load_dataset("cifar10", nowhere)
    one_line(caught.value, folder / "data_batch_1", "c99cafc152244af753f735de768cd75f")
    assert not (nowhere / "ran").exists()


def test_a_hostile_pickle_runs_nothing_even_behind_the_checksum(tmp_path: Path) -> None:
    content = pickle.dumps({b"data": Bomb(tmp_path / "ran"), b"labels": [0]})
    pickle.loads(content)
    assert (tmp_path / "ran").exists(), "the bomb is a dud: this test proves nothing"
    (tmp_path / "ran").unlink()
    with pytest.raises(MissingError) as caught:
        parse_batch(content, "labels", 10, tmp_path / "data_batch_1")
    one_line(caught.value, "data_batch_1", "it calls pathlib")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Ran out of input"),
        (b"not a pickle", "not a CIFAR batch"),
        (pickle.dumps({b"labels": [1]}), "no b'data'"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}), "uint8"),
        (pickle.dumps({b"data": np.zeros((1, 100), np.uint8), b"labels": [1]}), "reshape"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [12]}), "label 12"),
    ],
)
def test_broken_python_batches(content: bytes, reason: str) -> None:
    with pytest.raises(MissingError) as caught:
        parse_batch(content, "labels", 10, Path("test_batch"))
    one_line(caught.value, "test_batch", reason)


# CIFAR, hub parquet


def write_parquet(path: Path, images: list[bytes], labels: list[int], label_column: str = "label") -> None:
    pa = pytest.importorskip("pyarrow", reason="hub parquet needs the extra hf")
    import pyarrow.parquet as pq

    structs = [{"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table({"img": structs, label_column: labels}), path)


def png(image_CHW: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_CHW.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_layout_over_two_shards(tmp_path: Path, pixels: np.ndarray) -> None:
    shards = [tmp_path / f"train-0000{i}-of-00002.parquet" for i in range(2)]
    write_parquet(shards[0], [png(x) for x in pixels[:4]], [0, 1, 2, 3], "fine_label")
    write_parquet(shards[1], [png(x) for x in pixels[4:]], [4, 99], "fine_label")
    read, labels_N = read_parquet(shards, 6, (3, 32, 32), ("fine_label", "label"), 100)
    assert np.array_equal(read, pixels)
    assert labels_N.tolist() == [0, 1, 2, 3, 4, 99]


def test_parquet_is_found_and_checked(nowhere: Path, pixels: np.ndarray) -> None:
    (nowhere / "data").mkdir()
    for split in ("train", "test"):
        write_parquet(nowhere / "data" / f"{split}-00000-of-00001.parquet", [png(pixels[0])], [0])
    assert found("cifar10", nowhere) == "CIFAR-10 hub parquet"
    with pytest.raises(MissingError) as caught:
        load_dataset("cifar10", nowhere)
    one_line(caught.value, "expected 50,000 images, found 1")


def test_broken_parquet(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "train-0.parquet"
    good = png(pixels[0])
    cases: list[tuple[list[bytes], list[int], str]] = [
        ([good[:100]], [0], "cannot be decoded"),
        ([png(pixels[0][:, :16])], [0], "32×16"),
        ([good], [10], "label 10"),
        ([good, good], [0, 0], "expected 1 images, found 2"),
    ]
    for images, labels, reason in cases:
        write_parquet(path, images, labels)
        with pytest.raises(MissingError) as caught:
            read_parquet([path], 1, (3, 32, 32), ("label",), 10)
        one_line(caught.value, tmp_path, reason)
    with pytest.raises(MissingError, match="another data set"):
        read_parquet([path], 2, (3, 32, 32), ("fine_label",), 10)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MissingError) as caught:
        read_parquet([path], 2, (3, 32, 32), ("label",), 10)
    one_line(caught.value, tmp_path, "damaged")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train-0.parquet"
    write_parquet(path, [png(pixels[0])], [0])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingError) as caught:
        read_parquet([path], 1, (3, 32, 32), ("label",), 10)
    one_line(caught.value, path, "pip install 'deatbench[hf]'")


# MNIST and its twin


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_layout(tmp_path: Path, suffix: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(idx(images)) if suffix else idx(images))
    assert np.array_equal(read_idx(path, (5, 28, 28), None), images)
    with pytest.raises(MissingError) as caught:
        read_idx(path, (5, 28, 28), "0" * 32)
    one_line(caught.value, path, "not the published file")
    with pytest.raises(MissingError) as caught:
        read_idx(path, (5, 784), None)
    one_line(caught.value, path)


def test_broken_idx(tmp_path: Path) -> None:
    whole = idx(np.zeros((5, 28, 28), np.uint8))
    cases = {
        "short": (whole[:-1], "found 3,935"),
        "long": (whole + b"\0", "found more than 3,936"),
        "magic": (b"\1" + whole[1:], "not an idx file"),
        "cut.gz": (gzip.compress(whole)[:-10], "cannot read"),
        "plain.gz": (whole, "cannot read"),
        "bomb.gz": (gzip.compress(bytes(10_000_000)), "more than"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MissingError) as caught:
            read_idx(tmp_path / name, (5, 28, 28), None)
        one_line(caught.value, tmp_path / name, reason)


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_real_fashion_mnist(nowhere: Path) -> None:
    fashion = load_dataset("fashion_mnist", val_fraction=0)
    assert (len(fashion.train), len(fashion.test)) == (60_000, 10_000)
    assert torch.bincount(fashion.test.labels_N).tolist() == [1_000] * 10
    assert fashion.classes[int(fashion.train.labels_N[0])] == "Ankle boot"
    mean, std = channel_statistics(fashion.train)
    assert mean == pytest.approx(fashion.mean, abs=1e-4)
    assert std == pytest.approx(fashion.std, abs=1e-4)


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_not_taken_for_mnist(nowhere: Path) -> None:
    with pytest.raises(MissingError, match="not the published file"):
        load_dataset("mnist", DEBIAN_FASHION)


# SVHN


def test_mat_layout(pixels: np.ndarray) -> None:
    from scipy.io import savemat

    def mat(**matrices: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        savemat(buffer, matrices)
        return buffer.getvalue()

    pixels_HWCN = pixels.transpose(2, 3, 1, 0)
    labels = np.array([[10], [1], [2], [3], [9], [10]], np.uint8)
    read, labels_N = parse_mat(mat(X=pixels_HWCN, y=labels), Path("train_32x32.mat"))
    assert np.array_equal(read, pixels)
    assert labels_N.tolist() == [0, 1, 2, 3, 9, 0]
    broken = [
        b"",
        mat(X=pixels_HWCN),
        mat(X=pixels_HWCN.astype(float), y=labels),
        mat(X=pixels_HWCN, y=labels[:3]),
        mat(X=pixels_HWCN, y=labels + 1),
        mat(X=pixels_HWCN, y=labels * 0),
    ]
    for content in broken:
        with pytest.raises(MissingError) as caught:
            parse_mat(content, Path("train_32x32.mat"))
        one_line(caught.value, "train_32x32.mat")


def test_svhn_needs_the_published_checksum(nowhere: Path) -> None:
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (nowhere / name).write_bytes(b"anything")
    with pytest.raises(MissingError) as caught:
        load_dataset("svhn", nowhere)
    one_line(caught.value, nowhere / "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373")


# own images


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """Two classes: red and blue; 10 training and 2 test images each, of uneven sizes; one is grey, one has alpha."""
    root = tmp_path / "photos"
    for split, n in (("train", 10), ("val", 2)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (40 + i, 30), colour).save(folder / f"{i}.png")
    Image.new("L", (50, 50), 128).save(root / "val" / "blue" / "grey.png")
    Image.new("RGBA", (16, 16), (255, 0, 0, 255)).save(root / "val" / "red" / "alpha.png")
    (root / "train" / "red" / "notes.txt").write_text("not an image")
    return root


def in_this_process(images: object) -> FolderImages:
    assert isinstance(images, FolderImages)
    images.workers = 0
    return images


def test_folder(image_root: Path) -> None:
    own = load_dataset("folder-16", image_root)
    assert own.classes == ("blue", "red")
    assert own.image_shape == (3, 16, 16)
    assert own.source == "image folder photos (train/, val/)"
    assert (len(own.train), len(own.val), len(own.test)) == (18, 2, 6)
    assert own.val.labels_N.tolist() == [0, 1]
    state = torch.get_rng_state()
    batches = list(in_this_process(own.test).batches(torch.arange(6).split(4), CPU))
    assert torch.equal(torch.get_rng_state(), state), "loading must not draw from the global generator"
    assert [len(x_NCHW) for x_NCHW, _ in batches] == [4, 2]
    assert torch.cat([y_N for _, y_N in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    x_NCHW = torch.cat([x_NCHW for x_NCHW, _ in batches])
    assert x_NCHW.shape == (6, 3, 16, 16)
    assert torch.equal(x_NCHW[0, :, 3, 3], torch.tensor([0.0, 0.0, 1.0]))
    assert x_NCHW[2].unique().tolist() == pytest.approx([128 / 255])
    assert torch.equal(x_NCHW[3, :, 3, 3], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_folder_with_workers_names_a_broken_image(image_root: Path) -> None:
    test = load_dataset("folder-16", image_root).test
    assert isinstance(test, FolderImages)
    test.workers = 1
    (image_root / "val" / "red" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(MissingError) as caught:
        list(test.batches([torch.arange(6)], CPU))
    one_line(caught.value, image_root / "val" / "red" / "1.png", "not a readable image")


def test_folder_digest_sees_names_labels_and_sizes(image_root: Path) -> None:
    test = load_dataset("folder", image_root).test
    before = test.sha256()
    assert test.subset(torch.arange(6).flip(0)).sha256() == before
    assert test.subset(torch.arange(5)).sha256() != before
    (image_root / "val" / "red" / "1.png").write_bytes(b"other")
    assert test.sha256() != before


def test_folder_prefers_a_labelled_test_split(image_root: Path) -> None:
    (image_root / "test").mkdir()
    assert len(load_dataset("folder", image_root).test) == 6, "an unlabelled test/, as ImageNet's, is left alone"
    (image_root / "test" / "red").mkdir()
    Image.new("RGB", (20, 20)).save(image_root / "test" / "red" / "a.png")
    assert load_dataset("folder", image_root).test.labels_N.tolist() == [1]


def test_folder_mistakes(image_root: Path, nowhere: Path) -> None:
    with pytest.raises(MissingError, match="needs --data-dir"):
        load_dataset("folder")
    with pytest.raises(MissingError, match="no class folders"):
        load_dataset("folder", nowhere)
    with pytest.raises(ConfigError, match=r"8\.\.1024"):
        load_dataset("folder-4", image_root)
    (image_root / "val" / "green").mkdir()
    with pytest.raises(MissingError, match="green has no counterpart"):
        load_dataset("folder", image_root)
    assert found("folder", image_root) == "image folder photos (train/, val/)"
    assert found("folder", nowhere) is None


def test_decode_takes_the_middle(tmp_path: Path) -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 40:88] = 255  # the middle 7/8 · 64 = 56 columns are 36..92
    Image.fromarray(image).save(tmp_path / "wide.png")
    row = decode(tmp_path / "wide.png", 56)[0, 28]
    assert row[6:50].min() == 255
    assert row[:2].max() == 0
    assert row[-2:].max() == 0
    exact = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(exact).save(tmp_path / "exact.png")
    assert np.array_equal(decode(tmp_path / "exact.png", 16).numpy(), exact.transpose(2, 0, 1))


def test_hostile_images(tmp_path: Path) -> None:
    huge = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(huge, "PNG")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", "b")
    cases = {
        "empty.png": b"",
        "eof.ppm": b"P6\n32 32\n255\n",
        "text.jpg": b"hello",
        "zip.png": zipped.getvalue(),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
        "huge.png": huge.getvalue(),
        "cut.png": png(np.random.default_rng(3).integers(0, 256, (3, 64, 64), dtype=np.uint8))[:2000],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MissingError) as caught:
            decode(tmp_path / name, 32)
        one_line(caught.value, tmp_path / name, "not a readable image")
    with pytest.raises(MissingError):
        decode(tmp_path / "absent.png", 32)


# missing data


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "svhn"])
def test_missing_data_says_where_how_and_what_else(name: str, nowhere: Path) -> None:
    for download_allowed in (False, True):
        with pytest.raises(MissingError) as caught:
            load_dataset(name, nowhere, download=download_allowed)
        one_line(caught.value, repr(name), nowhere, "cache", f"deatbench data get {name}", "--dataset digits")
    assert "DEATBENCH_OFFLINE" in str(caught.value)
    assert found(name, nowhere) is None
    with pytest.raises(MissingError):
        get(name, nowhere)


def test_environment_variable_is_searched(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEATBENCH_DATA", str(nowhere / "elsewhere"))
    roots = DataLocation(nowhere).roots()
    assert roots[:2] == [nowhere, nowhere / "elsewhere"]
    assert len(roots) == 3


@pytest.mark.parametrize("by", ["--data-dir", "DEATBENCH_DATA"])
def test_a_folder_that_is_named_must_be_there(by: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a wrong path would train on whatever the cache holds, or on digits."""
    wrong = nowhere / "wrong"
    if by == "DEATBENCH_DATA":
        monkeypatch.setenv(by, str(wrong))
    data_dir = wrong if by == "--data-dir" else None
    for look in (load_dataset, found):
        with pytest.raises(ConfigError, match=f"wrong, named by {by}, is no folder"):
            look("cifar10", data_dir)
    assert load_dataset("digits", data_dir).name == "digits"  # needs none


def test_unknown_data_set() -> None:
    with pytest.raises(UnknownNameError, match="cifar10") as caught:
        load_dataset("cifra10")
    assert caught.value.exit_code == 2


def test_every_data_set_is_looked_for_without_reading(nowhere: Path) -> None:
    for name in DATASETS.names():
        assert DATASETS.summary(name)
        assert name in ("digits", "fashion_mnist") or found(name, nowhere) is None


# downloads (from file:// addresses: the same code, no network)


def test_download_checks_and_unpacks(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEATBENCH_OFFLINE")
    archive = nowhere / "data.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in (("../../evil", b"evil"), ("deep/../../train.bin", b"train"), ("other.bin", b"other")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    seen: list[tuple[str, int, int]] = []
    location = DataLocation(None, nowhere / "to", lambda *step: seen.append(step))
    download(location, "toy", "fetch it", "sub", [Remote(archive.as_uri(), md5, ("train.bin",))])
    assert sorted(p.name for p in (nowhere / "to").rglob("*") if p.is_file()) == [".lock", "train.bin"]
    assert (nowhere / "to" / "sub" / "train.bin").read_bytes() == b"train"
    assert seen[-1] == ("data.tar.gz", archive.stat().st_size, archive.stat().st_size)
    with pytest.raises(tarfile.TarError, match=r"lacks absent\.bin"):
        unpack(archive, nowhere, ["absent.bin"])


def test_a_damaged_download_leaves_nothing(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEATBENCH_OFFLINE")
    source = nowhere / "train.mat"
    source.write_bytes(b"damaged on the way")
    for remote in (Remote(source.as_uri(), "0" * 32), Remote((nowhere / "gone").as_uri(), "0" * 32)):
        with pytest.raises(MissingError) as caught:
            download(DataLocation(None, nowhere / "to"), "toy", "fetch it", "sub", [remote])
        one_line(caught.value, "'toy'", "download failed", "fetch it")
        assert [p.name for p in (nowhere / "to" / "sub").iterdir()] == [".lock"]


# augmentation


@pytest.mark.parametrize("name", ["digits", "cifar10", "fashion_mnist"])
def test_recommended_augmentations_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "cifar10":
        monkeypatch.setenv("DEATBENCH_DATA", str(cifar10_folder()))
    elif name == "fashion_mnist" and not DEBIAN_FASHION.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    augment(DATASETS[name](DataLocation()).augment)
