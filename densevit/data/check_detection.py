"""Read a whole detection data set once and say what is wrong with it: everything, not the first fault found."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densevit.data.coco_json import CLIPPED
from densevit.data.coco_masks import CHUNK
from densevit.data.detection import DetectionDataset, object_tensors
from densevit.data.faults import Faults
from densevit.errors import UserError, some_of

NUM_THREADS = 4
SIZES = ("small", "medium", "large")
_EDGES = (32**2, 96**2)
"""COCO's bounds between them, in pixels of an object's area."""
_LITTLE_IN_COMMON = 0.5
"""IoU of a box with the bounds of its mask below which the two hardly belong together."""


@dataclass(kw_only=True)
class DetectionReport:
    """What `check_objects` found. `problems` make training wrong; `warnings` are worth knowing."""

    num_images: int = 0
    num_read: int = 0
    classes: tuple[str, ...] = ()
    boxes: list[int] = field(default_factory=list)
    """Objects of each class, in class order, without crowd regions; of the images that could be read, as all below."""
    images: list[int] = field(default_factory=list)
    """Images with an object of each class."""
    empty_images: int = 0
    """Images without an object to learn."""
    crowd_regions: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))
    """Objects that COCO counts as small (area below 32 x 32 pixels), medium and large (from 96 x 96)."""
    most_objects: int = 0
    """Objects in one image at most."""
    with_masks: bool = False
    unreadable: list[dict[str, str]] = field(default_factory=list)
    """{"id", "reason"}; the reason names the file."""
    smallest: tuple[int, int] | None = None
    """Smallest height and smallest width."""
    largest: tuple[int, int] | None = None
    """Largest height and largest width."""
    faults: list[dict[str, Any]] = field(default_factory=list)
    """Of annotations, by kind: {"kind", "fatal", "count", "first"}."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        values = {"ok": self.ok, "problems": self.problems, "warnings": self.warnings} | asdict(self)
        del values["classes"], values["boxes"], values["images"]
        values["histogram"] = [
            {"id": index, "name": name, "boxes": boxes, "images": images}
            for index, (name, boxes, images) in enumerate(zip(self.classes, self.boxes, self.images, strict=True))
        ]
        return values


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one image says."""

    id: str
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Of objects that are no crowd."""
    crowd: int = 0
    sizes: tuple[int, ...] = (0, 0, 0)
    empty_masks: int = 0
    strange_masks: int = 0


def check_objects(dataset: DetectionDataset, *, progress: Callable[[int], None] | None = None) -> DetectionReport:
    """Read every image of `dataset` and draw every mask; `progress(done)` is called after each image.

    A broken image is noted and the next one is read. Build the data set with `strict=False` to have faulty annotations
    listed instead of refused.
    """
    classes = dataset.classes
    report = DetectionReport(classes=classes, boxes=[0] * len(classes), images=[0] * len(classes))
    report.num_images, report.with_masks = len(dataset), dataset.has_masks
    faults: Faults = getattr(dataset, "faults", None) or Faults()
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # decoding leaves Python's lock, so threads do help
        for done, seen in enumerate(pool.map(lambda index: _inspect(dataset, index), range(len(dataset))), start=1):
            _add(report, seen, faults)
            if progress is not None:
                progress(done)
    report.faults = faults.to_list()
    report.problems = _problems(report, faults)
    report.warnings = _warnings(report, faults)
    return report


def _inspect(dataset: DetectionDataset, index: int) -> _Seen:
    try:
        image, objects = dataset.read(index)
    except UserError as error:
        return _Seen(id=dataset.ids[index], error=str(error))
    size = (image.shape[-2], image.shape[-1])
    areas, empty, strange = [np.zeros(0)], 0, 0
    for start in range(0, len(objects), CHUNK):  # a few masks at a time
        rows = np.arange(start, min(start + CHUNK, len(objects)))
        found = object_tensors(objects, rows, size=size)
        areas.append(found["area"].numpy())
        if "masks" in found:
            drawn = [
                _mask_fits(mask.numpy(), box) for mask, box in zip(found["masks"], objects.boxes[rows], strict=True)
            ]
            empty, strange = empty + drawn.count(None), strange + drawn.count(False)
    single = ~objects.iscrowd
    kind = np.searchsorted(_EDGES, np.concatenate(areas)[single], side="right")
    return _Seen(
        id=dataset.ids[index],
        size=size,
        labels=objects.labels[single],
        crowd=int(np.count_nonzero(objects.iscrowd)),
        sizes=tuple(np.bincount(kind, minlength=3).tolist()),
        empty_masks=empty,
        strange_masks=strange,
    )


def _mask_fits(mask: NDArray[np.bool_], box: NDArray[np.float32]) -> bool | None:
    """Whether a mask (H, W) lies where its box (XYXY) is; None if it has no pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    bounds = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    shared = np.clip(np.minimum(box[2:], bounds[2:]) - np.maximum(box[:2], bounds[:2]), 0, None).prod()
    union = (box[2:] - box[:2]).prod() + (bounds[2:] - bounds[:2]).prod() - shared
    return bool(shared >= _LITTLE_IN_COMMON * union)


def _add(report: DetectionReport, seen: _Seen, faults: Faults) -> None:
    if seen.error is not None:
        report.unreadable.append({"id": seen.id, "reason": seen.error})
        return
    report.num_read += 1
    for label, count in zip(*np.unique(seen.labels, return_counts=True), strict=True):
        report.boxes[label] += int(count)
        report.images[label] += 1
    for name, count in zip(SIZES, seen.sizes, strict=True):
        report.sizes[name] += count
    report.crowd_regions += seen.crowd
    report.empty_images += not len(seen.labels)
    report.most_objects = max(report.most_objects, len(seen.labels) + seen.crowd)
    (h, w), low, high = seen.size, report.smallest or seen.size, report.largest or seen.size
    report.smallest, report.largest = (min(low[0], h), min(low[1], w)), (max(high[0], h), max(high[1], w))
    for _ in range(seen.empty_masks):
        faults.add("masks without a pixel", f"an object of {seen.id} has a mask without a pixel", fatal=False)
    for _ in range(seen.strange_masks):
        faults.add("masks far from their box", f"an object of {seen.id} has its mask and its box apart", fatal=False)


def _problems(report: DetectionReport, faults: Faults) -> list[str]:
    """What must be put right before training."""
    found = faults.sentences(fatal=True)
    if report.num_images == 0:
        found.append("there is no image")
    if report.unreadable:
        found.append(f"{len(report.unreadable)} images cannot be read; first: {report.unreadable[0]['reason']}")
    if report.num_read and not sum(report.boxes):
        found.append("no image has an object, so there is nothing to learn")
    return found


def _warnings(report: DetectionReport, faults: Faults) -> list[str]:
    """What is legal but seldom meant."""
    found, total = faults.sentences(fatal=False), sum(report.boxes)
    if faults.count(CLIPPED) > 0.2 * total:
        found.append(
            "many boxes reach beyond their image: are they [x1, y1, x2, y2] rather than [x, y, width, height]?"
        )
    never = [name for name, count in zip(report.classes, report.boxes, strict=True) if not count]
    if never and total:
        found.append(f"{len(never)} of {len(report.classes)} classes have no object: {some_of(never)}")
    double = sorted({name for name in report.classes if report.classes.count(name) > 1})
    if double:
        found.append(f"several classes have the same name: {', '.join(double)}")
    if report.num_read and report.empty_images > 0.5 * report.num_read:
        found.append(f"{report.empty_images} of {report.num_read} images have no object")
    return found
