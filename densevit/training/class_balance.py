"""Class weights from the training masks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from densevit.data.base import FileSegmentationDataset, SegmentationDataset


def balanced_weights(dataset: SegmentationDataset, *, num_threads: int = 4) -> tuple[float, ...]:
    """Median frequency balancing (Eigen and Fergus, ICCV 2015): median share of pixels / a class's share.

    A class that is never seen gets 1. Reads every mask once.
    """
    pixels = class_pixels(dataset, num_threads=num_threads)
    seen = pixels > 0
    weights = np.ones(len(pixels))
    if seen.any():
        weights[seen] = np.median(pixels[seen]) / pixels[seen]
    return tuple(weights.tolist())


def class_pixels(dataset: SegmentationDataset, *, num_threads: int = 4) -> NDArray[np.int64]:
    """Labelled pixels of each class over a data set, (K,)."""

    def count(index: int) -> NDArray[np.int64]:
        ids = dataset.read_ids(index) if isinstance(dataset, FileSegmentationDataset) else dataset.read(index)[1]
        return np.bincount(ids.reshape(-1), minlength=256)[: dataset.num_classes].astype(np.int64)

    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(count, range(len(dataset))), np.zeros(dataset.num_classes, np.int64))
