"""Read a whole data set once and say what is wrong with it: everything, not the first fault found.

report = check_dataset(create_dataset("folder", root="...", strict=False))
report.ok, report.problems, report.to_dict()
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.base import FileSegmentationDataset, SegmentationDataset, ids_outside
from densevit.errors import UserError, some_of

NUM_THREADS = 4
_RARE = 1e-4
"""A class with a smaller share of the labelled pixels than this gets a warning."""


@dataclass(kw_only=True)
class DataReport:
    """What `check_dataset` found. `problems` make training wrong; `warnings` are worth knowing."""

    num_pairs: int = 0
    """Images with a mask of the same name."""
    num_read: int = 0
    """Pairs of which both files could be read."""
    classes: tuple[str, ...] = ()
    images_without_mask: list[str] = field(default_factory=list)
    masks_without_image: list[str] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    """{"id", "reason"}; the reason names the file."""
    wrong_size: list[dict[str, Any]] = field(default_factory=list)
    """{"id", "image_size", "mask_size"}, sizes as (H, W)."""
    image_sizes: dict[str, Any] = field(default_factory=dict)
    """"min" and "max" of each side, "most_common" and its "share"; sizes as (H, W)."""
    pixels: list[int] = field(default_factory=list)
    """Labelled pixels of each class, in class order."""
    ignored_pixels: int = 0
    outside: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Id outside the class list -> {"pixels", "images", "example"}."""
    never_seen: list[str] = field(default_factory=list)
    """Classes without a pixel."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        total = max(sum(self.pixels), 1)
        return {
            "ok": self.ok,
            "problems": self.problems,
            "warnings": self.warnings,
            "num_pairs": self.num_pairs,
            "num_read": self.num_read,
            "images_without_mask": self.images_without_mask,
            "masks_without_image": self.masks_without_image,
            "unreadable": self.unreadable,
            "wrong_size": self.wrong_size,
            "image_sizes": self.image_sizes,
            "histogram": [
                {"id": index, "name": name, "pixels": count, "share": count / total}
                for index, (name, count) in enumerate(zip(self.classes, self.pixels, strict=True))
            ],
            "ignored_pixels": self.ignored_pixels,
            "ids_outside": {str(key): value for key, value in self.outside.items()},
            "never_seen": self.never_seen,
        }


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What one pair says; small, so that a large data set fits in memory."""

    id: str
    error: str | None = None
    image_size: tuple[int, int] = (0, 0)
    mask_size: tuple[int, int] = (0, 0)
    counts: dict[int, int] = field(default_factory=dict)


def check_dataset(dataset: SegmentationDataset, *, progress: Callable[[int, int], None] | None = None) -> DataReport:
    """Read every image and mask of `dataset`; `progress(done, total)` is called after each.

    A broken file is noted and the next one is read. Pass a data set built with `strict=False` to have images without
    a mask listed as well.
    """
    report = DataReport(num_pairs=len(dataset), classes=dataset.classes, pixels=[0] * dataset.num_classes)
    if isinstance(dataset, FileSegmentationDataset):
        report.images_without_mask = [str(path) for path in dataset.images_without_mask]
        report.masks_without_image = [str(path) for path in dataset.masks_without_image]
    sizes: Counter[tuple[int, int]] = Counter()
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # decoding leaves Python's lock, so threads do help
        for done, sample in enumerate(pool.map(lambda index: _inspect(dataset, index), range(len(dataset))), start=1):
            _add(report, sample, sizes, dataset)
            if progress is not None:
                progress(done, len(dataset))
    report.image_sizes = _summarize_sizes(sizes)
    report.never_seen = [name for name, count in zip(report.classes, report.pixels, strict=True) if count == 0]
    report.problems = _problems(report)
    report.warnings = _warnings(report, reduced=getattr(dataset, "reduce_zero_label", False))
    return report


def _inspect(dataset: SegmentationDataset, index: int) -> _Sample:
    try:
        image, ids = dataset.read(index)
    except UserError as error:
        return _Sample(id=dataset.ids[index], error=str(error))
    if ids.dtype == np.uint8:
        histogram = np.bincount(ids.reshape(-1))
        counts = {int(v): int(histogram[v]) for v in np.flatnonzero(histogram)}
    else:
        counts = {int(v): int(n) for v, n in zip(*np.unique(ids, return_counts=True), strict=True)}
    return _Sample(
        id=dataset.ids[index],
        image_size=(image.shape[-2], image.shape[-1]),
        mask_size=(ids.shape[0], ids.shape[1]),
        counts=counts,
    )


def _add(report: DataReport, sample: _Sample, sizes: Counter[tuple[int, int]], dataset: SegmentationDataset) -> None:
    if sample.error is not None:
        report.unreadable.append({"id": sample.id, "reason": sample.error})
        return
    report.num_read += 1
    sizes[sample.image_size] += 1
    if sample.image_size != sample.mask_size:
        report.wrong_size.append(
            {"id": sample.id, "image_size": list(sample.image_size), "mask_size": list(sample.mask_size)}
        )
    found = np.array(list(sample.counts), dtype=np.int64)
    outside = set(ids_outside(found, num_classes=dataset.num_classes, ignore_index=dataset.ignore_index))
    for id_, count in sample.counts.items():
        if id_ in outside:
            entry = report.outside.setdefault(id_, {"pixels": 0, "images": 0, "example": sample.id})
            entry["pixels"] += count
            entry["images"] += 1
        elif id_ == dataset.ignore_index:
            report.ignored_pixels += count
        else:
            report.pixels[id_] += count


def _summarize_sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    if not sizes:
        return {}
    common, count = sizes.most_common(1)[0]
    return {
        "min": [min(height for height, _ in sizes), min(width for _, width in sizes)],
        "max": [max(height for height, _ in sizes), max(width for _, width in sizes)],
        "most_common": list(common),
        "share": count / sum(sizes.values()),
    }


def _problems(report: DataReport) -> list[str]:
    """What must be put right before training, each with its fix."""
    found = []
    if report.num_pairs == 0:
        found.append("there is no image with a mask")
    if report.images_without_mask:
        found.append(
            f"{len(report.images_without_mask)} images have no mask, first {Path(report.images_without_mask[0])}; "
            "add masks, or leave the images out with strict=false"
        )
    if report.unreadable:
        found.append(f"{len(report.unreadable)} pairs cannot be read; first: {report.unreadable[0]['reason']}")
    if report.wrong_size:
        first = report.wrong_size[0]
        found.append(
            f"{len(report.wrong_size)} masks differ in size from their image, first {first['id']}: "
            f"mask {_by(first['mask_size'])}, image {_by(first['image_size'])}"
        )
    if report.outside:
        found.append(_outside_problem(report))
    if report.num_read and not sum(report.pixels) and not report.outside:
        found.append("every pixel is marked as ignored, so there is nothing to learn")
    return found


def _outside_problem(report: DataReport) -> str:
    """Ids outside the class list, and the off-by-one behind them where the pattern shows it."""
    num_classes, ids = len(report.classes), sorted(report.outside)
    first = report.outside[ids[0]]
    text = (
        f"ids {some_of(ids, 8)} are outside the class list of {num_classes} (0..{num_classes - 1}), "
        f"first in {first['example']} ({first['pixels']} pixels of id {ids[0]} in {first['images']} images)"
    )
    if ids == [num_classes] and report.pixels[0] == 0:
        return f"{text}; ids run from 1 to {num_classes}: set reduce_zero_label=True, which makes 1 the first class"
    if ids == [num_classes]:
        return (
            f"{text}; ids run from 0 to {num_classes}, one more than there are classes: if 0 is background, put "
            "'background' first in the class list, or set reduce_zero_label=True to leave it out"
        )
    return f"{text}; correct the masks, list the missing classes, or save these pixels as 255 (ignore)"


def _warnings(report: DataReport, *, reduced: bool) -> list[str]:
    """What is legal but seldom meant."""
    found = []
    if report.masks_without_image:
        found.append(f"{len(report.masks_without_image)} masks have no image, first {report.masks_without_image[0]}")
    labelled = sum(report.pixels)
    if report.never_seen and labelled:
        found.append(f"classes never seen: {', '.join(report.never_seen)}")
        if reduced and report.pixels[-1] == 0:
            found.append(
                f"with reduce_zero_label the last class, {report.classes[-1]!r}, has no pixel: if ids already start "
                "at 0 for the first class, turn it off"
            )
        elif not reduced and report.pixels[0] == 0 and report.pixels[-1] > 0 and not report.outside:
            found.append(
                f"id 0, {report.classes[0]!r}, is never used: if the ids start at 1, every name is off by one; "
                "set reduce_zero_label=True"
            )
    rare = [name for name, count in zip(report.classes, report.pixels, strict=True) if 0 < count < _RARE * labelled]
    if rare:
        found.append(f"classes with less than {_RARE:.2%} of the labelled pixels: {', '.join(rare)}")
    total = labelled + report.ignored_pixels
    if total and report.ignored_pixels > 0.5 * total:
        found.append(f"{report.ignored_pixels / total:.0%} of the pixels are marked as ignored")
    return found


def _by(size: list[int]) -> str:
    """(H, W) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"
