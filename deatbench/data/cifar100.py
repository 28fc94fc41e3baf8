"""CIFAR-100 (Krizhevsky, 2009): 32×32 colour photographs of 100 kinds of things (the fine labels)."""

from __future__ import annotations

from deatbench.data import DATASETS, DataLocation, RawData
from deatbench.data.cifar import CifarFiles, cifar
from deatbench.data.download import Remote

_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

FILES = CifarFiles(
    title="CIFAR-100",
    classes=tuple(_CLASSES.split()),
    binary_folder="cifar-100-binary",
    binary_train=("train.bin",),
    binary_test="test.bin",
    label_offset=1,
    label_bytes=2,
    python_folder="cifar-100-python",
    python_train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    python_test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    python_key="fine_labels",
    parquet_columns=("fine_label", "label"),
    archive=Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        ("train.bin", "test.bin"),
    ),
)


@DATASETS.register("cifar100")
def cifar100(location: DataLocation) -> RawData:
    """CIFAR-100: photographs, 32×32, colour, 100 classes; 161 MB to download."""
    return cifar(FILES, "cifar100", location, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
