"""Mean and standard deviation of each band over a whole data set, for images that are not ordinary photographs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from densevit.data.base import SegmentationDataset
from densevit.errors import UserError

NUM_THREADS = 4


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


def band_stats(dataset: SegmentationDataset, *, progress: Callable[[int, int], None] | None = None) -> BandStats:
    """Read every image and sum up its bands; every pixel counts the same. UserError names a file with NaN or Inf.

    The sums are taken around each image's own mean and combined exactly (Chan, Golub and LeVeque, 1979), so that
    bands with a large offset keep their digits.
    """
    if not len(dataset):
        raise UserError("the data set has no images; check root and split")
    count, mean, scatter = 0, np.zeros(1), np.zeros(1)
    low, high = np.full(1, np.inf), np.full(1, -np.inf)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for done, part in enumerate(pool.map(lambda index: _one_image(dataset, index), range(len(dataset))), start=1):
            part_count, part_mean, part_scatter, part_low, part_high = part
            total = count + part_count
            shift = part_mean - mean
            mean = mean + shift * (part_count / total)
            scatter = scatter + part_scatter + shift**2 * (count * part_count / total)
            low, high, count = np.minimum(low, part_low), np.maximum(high, part_high), total
            if progress is not None:
                progress(done, len(dataset))
    return BandStats(
        mean=_floats(mean),
        std=_floats(np.sqrt(scatter / count)),
        min=_floats(low),
        max=_floats(high),
        num_images=len(dataset),
    )


def _one_image(dataset: SegmentationDataset, index: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, mean, summed squares around the mean, smallest and largest value of each band."""
    image = dataset.read(index)[0]
    bands = image.numpy().reshape(image.shape[0], -1).astype(np.float64)
    if not np.isfinite(bands).all():
        raise UserError(
            f"image {dataset.image_path(index) or dataset.ids[index]} has NaN or infinite values; fill them"
        )
    mean = bands.mean(axis=1)
    scatter = ((bands - mean[:, None]) ** 2).sum(axis=1)
    return bands.shape[1], mean, scatter, bands.min(axis=1), bands.max(axis=1)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
