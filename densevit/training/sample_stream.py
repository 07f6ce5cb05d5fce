"""The stream of training samples: an order that depends on the seed and the step alone.

Every training sample has a position in one endless stream, p = step * batch_size + place, and its augmentation is
seeded by that position. So a run that is stopped and resumed at any step sees what an uninterrupted run sees, with
any number of workers or devices.
"""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from densevit.data.seeding import seeded
from densevit.errors import UserError

Position = tuple[int, int]
"""Place in the stream of samples, index in the data set."""


class StepSampler(Sampler[list[Position]]):
    """Batches of the endless stream: each pass over the data is one permutation drawn from (seed, pass).

    Yields this process's share of batches `start_batch` .. `num_batches` - 1; its length is `num_batches`, so that a
    resumed progress counter, which starts at `start_batch`, ends at the same number.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if num_samples < 1:
            raise UserError("there is no training image")
        if batch_size % world_size:
            raise UserError(f"data.batch_size {batch_size} cannot be shared evenly by {world_size} devices")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.start_batch = start_batch
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Position]]:
        current_pass, order = -1, np.empty(0, dtype=np.int64)
        for batch in range(self.start_batch, self.num_batches):
            first = batch * self.batch_size
            positions = []
            for p in range(first, first + self.batch_size):
                if p // self.num_samples != current_pass:
                    current_pass = p // self.num_samples
                    order = np.random.default_rng((self.seed, current_pass)).permutation(self.num_samples)
                if (p - first) % self.world_size == self.rank:
                    positions.append((p, int(order[p % self.num_samples])))
            yield positions


class SeededDataset(Dataset[Any]):
    """A data set indexed by (position, index): the position seeds whatever is random in reading the sample."""

    def __init__(self, dataset: Dataset[Any], *, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, place: Position) -> Any:
        position, index = place
        with seeded(self.seed, position):
            return self.dataset[index]


GRACE_SECONDS = 60
"""How long a loading process outlives SIGTERM: time for the main process to finish its step and save."""


def start_worker(worker: int) -> None:
    """What every loading process does first.

    Signals to stop reach the whole process group, and the main process decides what they mean. SIGTERM is also how a
    main process that ends with an error asks its workers to go, so it is put off, not ignored.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
