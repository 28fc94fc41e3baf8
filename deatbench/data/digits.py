"""Digits: 1,797 handwritten digits of 8×8 pixels, embedded in scikit-learn; nothing to download.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits (its test part), UCI Machine Learning Repository,
1998.
"""

from __future__ import annotations

import torch

from deatbench.data import DATASETS, DataLocation, Images, RawData

TEST_FRACTION = 0.2  # 360 images


@DATASETS.register("digits")
def digits(location: DataLocation) -> RawData:
    """Handwritten digits, 8×8, grey, 10 classes; embedded, no download."""
    return RawData(
        classes=tuple(str(digit) for digit in range(10)),
        image_shape=(1, 8, 8),
        source="embedded in scikit-learn",
        read=_read,
        augment="crop",
    )


def _read() -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    from deatbench.data.images import TensorImages
    from deatbench.data.split import stratified_split

    bunch = load_digits()
    grey_NHW = torch.from_numpy(bunch.images)  # whole numbers 0..16
    pixels_NCHW = (grey_NHW * 255 / 16).round().to(torch.uint8).unsqueeze(1)
    images = TensorImages(pixels_NCHW, torch.from_numpy(bunch.target).long())
    train_indices, test_indices = stratified_split(images.labels_N, TEST_FRACTION, salt="digits test")
    return images.subset(train_indices), images.subset(test_indices)
