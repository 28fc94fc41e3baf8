"""What several tests share: one thread, real data where it lies, and two small networks trained on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from small_nets import SHARED_NETS, PublishedNet, digits_cnn, train_briefly
from torch import nn

from deatbench.data import Dataset, Images, load_dataset

SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)  # small tensors: more threads only get in each other's way


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The folder that holds the real CIFAR-10."""
    for root in filter(None, (os.environ.get("DEATBENCH_DATA"), str(SHARED / "data"))):
        if (Path(root) / "cifar-10-batches-bin" / "test_batch.bin").is_file():
            return Path(root)
    pytest.skip("no CIFAR-10 (binary version) under DEATBENCH_DATA")


@pytest.fixture(scope="session")
def cifar10_test(cifar10_root: Path) -> Images:
    """CIFAR-10's test split."""
    return load_dataset("cifar10", cifar10_root, download=False).test


@pytest.fixture(scope="session")
def published_nets() -> dict[str, PublishedNet]:
    """Small adversarially trained CIFAR-10 networks with published weights."""
    folder = Path(os.environ.get("DEATBENCH_MODELS") or SHARED / "models")
    if not all((folder / f"{name}.safetensors").is_file() for name in SHARED_NETS):
        pytest.skip("no published small networks under DEATBENCH_MODELS")
    return {name: PublishedNet.load(name, folder) for name in SHARED_NETS}


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The embedded digits."""
    return load_dataset("digits", download=False)


@pytest.fixture(scope="session")
def standard_net(digits: Dataset) -> nn.Module:
    """A small CNN that reads digits and withstands nothing."""
    return train_briefly(digits_cnn(), digits.train, eps=0.0)


@pytest.fixture(scope="session")
def robust_net(digits: Dataset) -> nn.Module:
    """The same CNN, adversarially trained at Linf 0.2."""
    return train_briefly(digits_cnn(), digits.train, eps=0.2)
