"""Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747): articles of clothing, 28×28, grey."""

from __future__ import annotations

from deatbench.data import DATASETS, DataLocation, RawData
from deatbench.data.download import Remote
from deatbench.data.idx import idx_data

_MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
REMOTES = [
    Remote(f"{_MIRROR}train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    Remote(f"{_MIRROR}train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    Remote(f"{_MIRROR}t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    Remote(f"{_MIRROR}t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
]
MD5S = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"  # of the package dataset-fashion-mnist


@DATASETS.register("fashion_mnist")
def fashion_mnist(location: DataLocation) -> RawData:
    """Fashion-MNIST: clothes, 28×28, grey, 10 classes; 31 MB to download, or Debian's dataset-fashion-mnist."""
    return idx_data(
        location,
        name="fashion_mnist",
        title="Fashion-MNIST",
        classes=CLASSES,
        folders=("FashionMNIST/raw", "fashion-mnist", "fashion_mnist", DEBIAN_FOLDER),
        md5s=MD5S,
        remotes=REMOTES,
        augment="crop",
        statistics=(0.2860, 0.3530),
    )
