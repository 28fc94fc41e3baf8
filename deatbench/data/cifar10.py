"""CIFAR-10 (Krizhevsky, 2009): 32×32 colour photographs of 10 kinds of things."""

from __future__ import annotations

from deatbench.data import DATASETS, DataLocation, RawData
from deatbench.data.cifar import CifarFiles, cifar
from deatbench.data.download import Remote

_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))

FILES = CifarFiles(
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    binary_folder="cifar-10-batches-bin",
    binary_train=_TRAIN,
    binary_test="test_batch.bin",
    label_offset=0,
    label_bytes=1,
    python_folder="cifar-10-batches-py",
    python_train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    python_test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    python_key="labels",
    parquet_columns=("label",),
    archive=Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        (*_TRAIN, "test_batch.bin"),
    ),
    sha256=(
        "973ef2abb5897efc795681a4d79a6f5f642fa2bcb1a828f7476017c89db53a57",
        "2c33b053d1cd726af8d86e174a96dd89d7000ba1412add026d68142375b89d51",
    ),
)


@DATASETS.register("cifar10")
def cifar10(location: DataLocation) -> RawData:
    """CIFAR-10: photographs, 32×32, colour, 10 classes; 162 MB to download."""
    return cifar(FILES, "cifar10", location, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
