"""Endless, shuffled batches from tar shards: reproducible, resumable, shared by workers and devices.

The shards form one endless sequence, pass after pass, each pass a permutation drawn from (seed, pass). Reader r of R
(workers of all devices) reads every R-th shard of it, so that no sample comes twice in a pass. Samples wait, still
encoded, in a buffer from which they are drawn at random; it is emptied after every block of shards, so that a resumed
run starts at a block without reading what came before.
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from densevit.data.seeding import seeded
from densevit.data.shards import RawSample, Shards, count_samples, read_shard

MIN_BLOCK = 4
"""A block has at least so many shards, and about one reader's share of a pass."""


class ShardBatches(IterableDataset[dict[str, Any]]):
    """Collated training batches `start_batch` .. `num_batches` - 1 of one device; load with `batch_size=None`.

    Batch b comes from worker b % num_workers. With the same number of workers and devices, a stream that starts at
    any batch continues as if it had never stopped. Augmentation is seeded by the sample's place in the stream.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        start_batch: int = 0,
        shuffle_buffer: int = 1000,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`batch_size` is that of this device; `shuffle_buffer` the samples that wait in each worker."""
        self.shards = shards
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.start_batch = start_batch
        self.shuffle_buffer = shuffle_buffer
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = self.start_batch + index  # the loader asks its worker 0 first, wherever the stream starts
        turn = first % num_workers
        raw = shuffled_samples(
            self.shards.shards,
            reader=self.rank * num_workers + turn,
            num_readers=self.world_size * num_workers,
            seed=self.seed,
            buffer_size=self.shuffle_buffer,
            skip=first // num_workers * self.batch_size,
        )
        for batch in range(first, self.num_batches, num_workers):
            place = (batch * self.world_size + self.rank) * self.batch_size
            yield default_collate([self._load(next(raw), place + offset) for offset in range(self.batch_size)])

    def _load(self, raw: RawSample, position: int) -> dict[str, Any]:
        sample = self.shards.decode(raw)
        if self.shards.transform is None:
            return sample
        with seeded(self.seed, position):
            return self.shards.transform(sample)


def shuffled_samples(
    shards: tuple[Path, ...], *, reader: int, num_readers: int, seed: int, buffer_size: int, skip: int = 0
) -> Iterator[RawSample]:
    """One reader's endless share of the shuffled samples, from its sample number `skip` on."""
    block_size = max(MIN_BLOCK, -(-len(shards) // num_readers))
    block = 0
    while skip:  # whole blocks are passed over by their number of samples
        num_samples = sum(_count(shard) for shard in _block(shards, block, block_size, reader, num_readers, seed))
        if num_samples > skip:
            break
        skip, block = skip - num_samples, block + 1
    while True:
        for raw in _drawn(
            (
                raw
                for shard in _block(shards, block, block_size, reader, num_readers, seed)
                for raw in read_shard(shard)
            ),
            generator=np.random.default_rng((seed, reader, block)),
            buffer_size=buffer_size,
        ):
            if skip:
                skip -= 1
            else:
                yield raw
        block += 1


def _block(
    shards: tuple[Path, ...], block: int, block_size: int, reader: int, num_readers: int, seed: int
) -> list[Path]:
    """The shards of one reader's block, out of the endless sequence."""
    turns = range(block * block_size, (block + 1) * block_size)
    return [_shard_at(shards, reader + turn * num_readers, seed) for turn in turns]


def _shard_at(shards: tuple[Path, ...], position: int, seed: int) -> Path:
    current_pass, place = divmod(position, len(shards))
    return shards[int(_order(len(shards), seed, current_pass)[place])]


@lru_cache(maxsize=8)
def _order(num_shards: int, seed: int, current_pass: int) -> np.ndarray:
    return np.random.default_rng((seed, current_pass)).permutation(num_shards)


@cache
def _count(shard: Path) -> int:
    return count_samples(shard)


def _drawn(samples: Iterator[RawSample], *, generator: np.random.Generator, buffer_size: int) -> Iterator[RawSample]:
    """Every sample once: each is swapped for a random one of those waiting; the last ones come in random order."""
    waiting: list[RawSample] = []
    for sample in samples:
        if len(waiting) < buffer_size:
            waiting.append(sample)
            continue
        index = int(generator.integers(buffer_size))
        drawn, waiting[index] = waiting[index], sample
        yield drawn
    for index in generator.permutation(len(waiting)):
        yield waiting[int(index)]
