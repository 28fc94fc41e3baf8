"""MNIST (LeCun, Bottou, Bengio, Haffner, 1998): handwritten digits, 28×28, grey."""

from __future__ import annotations

from deatbench.data import DATASETS, DataLocation, RawData
from deatbench.data.download import Remote
from deatbench.data.idx import idx_data

_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
REMOTES = [
    Remote(f"{_MIRROR}train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    Remote(f"{_MIRROR}train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
    Remote(f"{_MIRROR}t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
    Remote(f"{_MIRROR}t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
]
MD5S = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@DATASETS.register("mnist")
def mnist(location: DataLocation) -> RawData:
    """MNIST: handwritten digits, 28×28, grey, 10 classes; 12 MB to download."""
    return idx_data(
        location,
        name="mnist",
        title="MNIST",
        classes=tuple(str(digit) for digit in range(10)),
        folders=("MNIST/raw", "mnist"),
        md5s=MD5S,
        remotes=REMOTES,
        augment="none",
        statistics=(0.1307, 0.3081),
    )
