"""Mean and standard deviation of each band over a whole data set, for images that are not ordinary photographs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from densevit.data.base import SegmentationDataset
from densevit.data.classification import ClassificationDataset
from densevit.data.detection import DetectionDataset
from densevit.data.shards import Shards
from densevit.errors import UserError

NUM_THREADS = 4
Images = SegmentationDataset | ClassificationDataset | DetectionDataset | Shards
Part = tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of one image: pixels, then mean, summed squares around the mean, smallest and largest value of each band."""


@dataclass(frozen=True, kw_only=True)
class BandStats:
    """One value for each band, in the unit of the images (0..255 for pictures)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def band_stats(dataset: Images, *, progress: Callable[[int], None] | None = None) -> BandStats:
    """Read every image and sum up its bands; every pixel counts the same. UserError names a file with NaN or Inf.

    The sums are taken around each image's own mean and combined exactly (Chan, Golub and LeVeque, 1979), so that
    bands with a large offset keep their digits.
    """
    done, count, mean, scatter = 0, 0, np.zeros(1), np.zeros(1)
    low, high = np.full(1, np.inf), np.full(1, -np.inf)
    for part_count, part_mean, part_scatter, part_low, part_high in _parts(dataset):
        total = count + part_count
        shift = part_mean - mean
        mean = mean + shift * (part_count / total)
        scatter = scatter + part_scatter + shift**2 * (count * part_count / total)
        low, high, count, done = np.minimum(low, part_low), np.maximum(high, part_high), total, done + 1
        if progress is not None:
            progress(done)
    if not done:
        raise UserError("the data set has no images; check root and split")
    return BandStats(
        mean=_floats(mean),
        std=_floats(np.sqrt(scatter / count)),
        min=_floats(low),
        max=_floats(high),
        num_images=done,
    )


def _parts(dataset: Images) -> Iterator[Part]:
    """Each image's contribution, in order."""
    if isinstance(dataset, Shards):
        yield from (_of_image(dataset.decode(raw)["image"], raw.name) for raw in dataset.raw_samples())
        return

    def read(index: int) -> Part:
        return _of_image(dataset.read(index)[0], dataset.image_path(index) or dataset.ids[index])

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        yield from pool.map(read, range(len(dataset)))


def _of_image(image: Tensor, name: object) -> Part:
    bands = image.numpy().reshape(image.shape[0], -1).astype(np.float64)
    if not np.isfinite(bands).all():
        raise UserError(f"image {name} has NaN or infinite values; fill them")
    mean = bands.mean(axis=1)
    scatter = ((bands - mean[:, None]) ** 2).sum(axis=1)
    return bands.shape[1], mean, scatter, bands.min(axis=1), bands.max(axis=1)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
