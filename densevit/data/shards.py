"""Tar shards in WebDataset's form, read from front to back with the standard library.

    root/train-000.tar.gz  root/train-001.tar.gz ...  root/test-000.tar  root/classes.txt
    in each shard, next to each other: KEY.jpg (or .png ...), KEY.cls (the class index as text)

`Shards` is one pass over a split in order, for evaluation; `shard_stream` shuffles for training. A shard that is
cut short or damaged raises UserError with its name instead of ending early.
"""

import copy
import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from torch.utils.data import IterableDataset, get_worker_info

from densevit.data.base import Transform, check_root
from densevit.data.class_list import FILE_NAMES, read_class_list
from densevit.data.classification import check_label
from densevit.data.image_io import IMAGE_SUFFIXES, image_from_bytes
from densevit.errors import UserError

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LABEL_SUFFIX = ".cls"
GZIP = b"\x1f\x8b"
"""How a compressed file begins."""


class RawSample(NamedTuple):
    """One sample as stored: nothing decoded yet."""

    shard: Path
    key: str
    image: bytes
    label: str

    @property
    def name(self) -> str:
        return f"{self.shard}/{self.key}"


class Shards(IterableDataset[dict[str, Any]]):
    """One split of a folder of tar shards: iterating gives {"image", "label", "id"}, each sample once over all readers.

    Readers are the loader's worker processes on every device (`share`): whole shards where there are enough of them,
    else every n-th sample.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        classes: str | Path | Sequence[str] | None = None,
        val_shards: int = 0,
        channels: int = 3,
    ) -> None:
        """`classes` is a class list file or the names; None looks for `classes.*` in `root`.

        `val_shards` takes so many of the last train shards as the split "val" (and out of "train").
        """
        base = check_root(root, name="shards", layout="train-000.tar ... and classes.txt")
        self.shards = find_shards(base, split=split, val_shards=val_shards)
        self.classes = _classes(base, classes)
        self.transform = transform
        self.channels = channels
        self.rank, self.world_size = 0, 1

    def share(self, *, rank: int, world_size: int) -> "Shards":
        """The same data set for one of `world_size` devices."""
        shared = copy.copy(self)
        shared.rank, shared.world_size = rank, world_size
        return shared

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for raw in self.raw_samples():
            sample = self.decode(raw)
            yield self.transform(sample) if self.transform else sample

    def raw_samples(self) -> Iterator[RawSample]:
        """This reader's samples, not decoded."""
        reader, num_readers = self.reader()
        if len(self.shards) >= num_readers:
            for shard in self.shards[reader::num_readers]:
                yield from read_shard(shard)
        else:
            everything = (raw for shard in self.shards for raw in read_shard(shard))
            yield from (raw for index, raw in enumerate(everything) if index % num_readers == reader)

    def reader(self) -> tuple[int, int]:
        """Number of this reader among all workers of all devices, and how many there are."""
        worker = get_worker_info()
        index, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.rank * num_workers + index, self.world_size * num_workers

    def decode(self, raw: RawSample) -> dict[str, Any]:
        """{"image": uint8 (C, H, W), "label", "id"}; UserError, naming shard and key, for a bad picture or label."""
        if not raw.label.strip().isdecimal():
            raise UserError(f"{raw.name}{LABEL_SUFFIX} holds {raw.label[:20]!r}; it must hold a class index")
        label = check_label(int(raw.label), num_classes=len(self.classes), name=raw.name)
        return {
            "image": image_from_bytes(raw.image, channels=self.channels, source=raw.name),
            "label": label,
            "id": raw.key,
        }


def find_shards(base: Path, *, split: str, val_shards: int = 0) -> tuple[Path, ...]:
    """The shards of a split by name: `base`/SPLIT-*.tar[.gz] or `base`/SPLIT/*.tar[.gz]. UserError if there is none."""
    if isinstance(val_shards, bool) or not isinstance(val_shards, int):
        raise UserError(f"val_shards must be a whole number of train shards, not {val_shards!r}")
    if val_shards and split in ("train", "val"):
        found = _named(base, "train")
        if _named(base, "val"):
            raise UserError(f"{base} has shards of the split 'val'; leave out val_shards")
        if not 0 < val_shards < len(found):
            raise UserError(
                f"val_shards {val_shards} must leave some of the {len(found)} train shards in {base}"
                + ("" if found else ", train-*.tar or train-*.tar.gz")
            )
        return found[-val_shards:] if split == "val" else found[:-val_shards]
    found = _named(base, split)
    if not found:
        known = sorted({path.name.partition("-")[0] for path in base.iterdir() if _is_shard(path)})
        raise UserError(
            f"{base} has no shards {split}-*.tar or {split}-*.tar.gz"
            + (f"; it has those of: {', '.join(known)}" if known else "")
            + ("; val_shards=1 would take the last train shard" if split == "val" and "train" in known else "")
        )
    return found


def _named(base: Path, split: str) -> tuple[Path, ...]:
    inside = base / split
    candidates: Iterable[Path] = inside.iterdir() if inside.is_dir() else base.glob(f"{split}-*")
    return tuple(sorted(path for path in candidates if _is_shard(path)))


def _is_shard(path: Path) -> bool:
    return path.name.endswith(SHARD_SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _classes(base: Path, classes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        classes = next((base / name for name in FILE_NAMES if (base / name).is_file()), None)
    if classes is None:
        raise UserError(f"no class list in {base}; write classes.txt there with one class name a line, index 0 first")
    return read_class_list(classes, max_classes=None).names


def read_shard(path: Path) -> Iterator[RawSample]:
    """The samples of one shard in its order. UserError where one lacks its image or label, or the file is damaged."""
    parts: dict[str, bytes] = {}
    current: str | None = None
    for name, data in _read_members(path):
        folder, slash, base_name = name.rpartition("/")
        stem, dot, suffix = base_name.partition(".")
        key = folder + slash + stem
        if key != current:
            if current is not None:
                yield _sample(path, current, parts)
            current, parts = key, {}
        parts[f"{dot}{suffix.lower()}"] = data
    if current is None:
        raise UserError(f"shard {path} holds no sample; remove it or make it again")
    yield _sample(path, current, parts)


def count_samples(path: Path) -> int:
    """Samples in a shard: the number of labels, without reading the pictures where the file allows to skip them."""
    return sum(name.endswith(LABEL_SUFFIX) for name, _ in _read_members(path, contents=False))


def _sample(shard: Path, key: str, parts: dict[str, bytes]) -> RawSample:
    image = next((parts[suffix] for suffix in parts if suffix in IMAGE_SUFFIXES), None)
    if image is None or LABEL_SUFFIX not in parts:
        missing = LABEL_SUFFIX if image is not None else "picture (.jpg, .png ...)"
        raise UserError(f"sample {key!r} of shard {shard} has no {missing}, only {', '.join(parts)}; write it again")
    return RawSample(shard, key, image, parts[LABEL_SUFFIX].decode("ascii", errors="replace"))


def _read_members(path: Path, *, contents: bool = True) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the regular files in a tar, hidden ones left out."""
    num_read = 0
    try:
        with _opened(path) as file:
            stream = _Remembering(file)
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # else it would remember every file it has passed
                    if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                        data = archive.extractfile(member)
                        assert data is not None
                        yield member.name, data.read() if contents else b""
                        num_read += 1
            while stream.read(1 << 20):  # the checksum is at the end
                pass
        if any(stream.last):  # tarfile takes one that ends between two members for complete
            raise EOFError("no end marker")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"shard {path} is cut short or damaged after {num_read} files ({error}); copy or make it again"
        ) from error


def _opened(path: Path) -> BinaryIO:
    """Whether it is compressed the file tells, not its name."""
    with path.open("rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
    return cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb")


class _Remembering:
    """A stream to read that remembers its last block so far: a whole tar ends with one of zeros."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.last = file, b""

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.last = (data if len(data) >= tarfile.BLOCKSIZE else self.last + data)[-tarfile.BLOCKSIZE :]
        return data
