"""Read a whole classification data set once and say what is wrong with it: everything, not the first fault found."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densevit.data.classification import ClassificationDataset
from densevit.data.shards import Shards, read_shard
from densevit.errors import UserError, some_of

NUM_THREADS = 4


@dataclass(kw_only=True)
class ClassificationReport:
    """What `check_images` found. `problems` make training wrong; `warnings` are worth knowing."""

    num_images: int = 0
    num_read: int = 0
    classes: tuple[str, ...] = ()
    images: list[int] = field(default_factory=list)
    """Readable images of each class, in class order."""
    unreadable: list[dict[str, str]] = field(default_factory=list)
    """{"id", "reason"}; the reason names the file. Damaged shards are among them."""
    doubled_ids: list[str] = field(default_factory=list)
    """Ids that occur more than once, as shards made twice have them."""
    smallest: tuple[int, int] | None = None
    """Smallest height and smallest width."""
    largest: tuple[int, int] | None = None
    """Largest height and largest width."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "ok": self.ok,
            "problems": self.problems,
            "warnings": self.warnings,
            "num_images": self.num_images,
            "num_read": self.num_read,
            "unreadable": self.unreadable,
            "doubled_ids": self.doubled_ids,
            "smallest": self.smallest and list(self.smallest),
            "largest": self.largest and list(self.largest),
            "histogram": [
                {"id": index, "name": name, "images": count}
                for index, (name, count) in enumerate(zip(self.classes, self.images, strict=True))
            ],
        }


class _Seen(NamedTuple):
    id: str
    size: tuple[int, int] = (0, 0)
    label: int = -1
    error: str | None = None


def check_images(
    dataset: ClassificationDataset | Shards, *, progress: Callable[[int], None] | None = None
) -> ClassificationReport:
    """Read every image of `dataset`; `progress(done)` is called after each. A broken file or shard is noted."""
    report = ClassificationReport(classes=dataset.classes, images=[0] * len(dataset.classes))
    ids: Counter[str] = Counter()
    for seen in _shards(dataset) if isinstance(dataset, Shards) else _files(dataset):
        report.num_images += 1
        if seen.error is not None:
            report.unreadable.append({"id": seen.id, "reason": seen.error})
        else:
            ids[seen.id] += 1
            report.num_read += 1
            report.images[seen.label] += 1
            (h, w), low, high = seen.size, report.smallest or seen.size, report.largest or seen.size
            report.smallest, report.largest = (min(low[0], h), min(low[1], w)), (max(high[0], h), max(high[1], w))
        if progress is not None:
            progress(report.num_images)
    report.doubled_ids = [name for name, count in ids.items() if count > 1]
    _judge(report)
    return report


def _files(dataset: ClassificationDataset) -> Iterator[_Seen]:
    def inspect(index: int) -> _Seen:
        try:
            image, label = dataset.read(index)
        except UserError as error:
            return _Seen(dataset.ids[index], error=str(error))
        return _Seen(dataset.ids[index], (image.shape[-2], image.shape[-1]), label)

    with ThreadPoolExecutor(NUM_THREADS) as pool:  # decoding leaves Python's lock, so threads do help
        yield from pool.map(inspect, range(len(dataset)))


def _shards(dataset: Shards) -> Iterator[_Seen]:
    for shard in dataset.shards:
        samples = read_shard(shard)
        while True:
            try:
                raw = next(samples, None)
                if raw is None:
                    break
            except UserError as error:
                yield _Seen(shard.name, error=str(error))
                break
            try:
                sample = dataset.decode(raw)
                yield _Seen(raw.key, (sample["image"].shape[-2], sample["image"].shape[-1]), sample["label"])
            except UserError as error:
                yield _Seen(raw.name, error=str(error))


def _judge(report: ClassificationReport) -> None:
    """Fill in `problems`, each with its fix, and `warnings`."""
    if report.unreadable:
        first = report.unreadable[0]["reason"]
        report.problems.append(f"{len(report.unreadable)} images or shards cannot be read; first: {first}")
    empty = [name for name, count in zip(report.classes, report.images, strict=True) if not count]
    if empty:
        report.problems.append(f"{len(empty)} classes have no image: {some_of(empty)}; add some, or remove the classes")
    if report.doubled_ids:
        report.warnings.append(
            f"{len(report.doubled_ids)} ids occur more than once, first {report.doubled_ids[0]!r}; is a shard doubled?"
        )
    counts = [count for count in report.images if count]
    if counts and max(counts) > 20 * min(counts):
        report.warnings.append(f"the largest class has {max(counts)} images, the smallest {min(counts)}")
