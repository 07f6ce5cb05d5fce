"""Class weights from the training masks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from densevit.data.base import FileSegmentationDataset, SegmentationDataset
from densevit.errors import UserError
from densevit.training.config import LossConfig


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


def class_weights(config: LossConfig, dataset: SegmentationDataset) -> tuple[float, ...] | None:
    """The class weights that `config` means for a training set."""
    if config.class_weights is None:
        return None
    if config.class_weights == "balanced":
        return balanced_weights(dataset)
    if len(config.class_weights) != dataset.num_classes:
        raise UserError(
            f"loss.class_weights has {len(config.class_weights)} numbers, "
            f"but the data set has {dataset.num_classes} classes"
        )
    return config.class_weights
