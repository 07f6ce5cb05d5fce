"""Batches for training and validation: an order that depends on the seed and the step alone.

Every training sample has a position in one endless stream, p = step * batch_size + place, and its augmentation is
seeded by that position. So a run that is stopped and resumed at any step sees what an uninterrupted run sees, with
any number of workers or devices.
"""

import signal
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from densevit.data.catalog import create_dataset
from densevit.data.seeding import seeded
from densevit.data.transforms import eval_transform, train_transform
from densevit.errors import UserError
from densevit.training.config import DataConfig

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


class SegmentationData(L.LightningDataModule):
    """Train and validation loaders of one segmentation experiment; `classes` and `palette` come from the data set.

    Training batches are {"image": (B, C, h, w) float32, "mask": (B, h, w) int64, "id": list}; validation yields one
    image at a time at its own size.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, config: DataConfig, *, num_batches: int, seed: int):
        super().__init__()
        self.config = config
        self.num_batches = num_batches
        self.seed = seed
        self.start_batch = 0
        self.val_set = self._dataset(config.val_split, eval_transform(mean=config.mean, std=config.std))
        self.classes: tuple[str, ...] = self.val_set.classes
        self.palette: tuple[tuple[int, int, int], ...] = self.val_set.palette
        self.ignore_index: int = self.val_set.ignore_index

    @cached_property
    def train_set(self) -> Any:
        """The training split, augmented; made when it is first asked for, since scoring needs none."""
        c = self.config
        augment = train_transform(
            crop_size=c.crop_size,
            resize_base=c.resize_base,
            ratio_range=c.ratio_range,
            cat_max_ratio=c.cat_max_ratio,
            flip=c.flip,
            photometric=c.photometric,
            mean=c.mean,
            std=c.std,
        )
        dataset = self._dataset(c.train_split, augment)
        if dataset.classes != self.classes:
            raise UserError(
                f"splits {c.train_split!r} and {c.val_split!r} of {c.name!r} have different classes; "
                "give both the same class list"
            )
        return dataset

    def _dataset(self, split: str, transform: Any) -> Any:
        c = self.config
        dataset = create_dataset(c.name, root=c.root, split=split, transform=transform, **c.args)
        if len(dataset) == 0:
            raise UserError(f"data set {c.name!r} has no image in split {split!r} (root: {c.root})")
        return dataset

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = StepSampler(
            len(self.train_set),
            batch_size=self.config.batch_size,
            num_batches=self.num_batches,
            seed=self.seed,
            start_batch=self.start_batch,
            rank=rank,
            world_size=world_size,
        )
        dataset = SeededDataset(self.train_set, seed=self.seed)
        return DataLoader(dataset, batch_sampler=sampler, **self._workers())

    def val_dataloader(self) -> DataLoader[Any]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = Subset(self.val_set, range(rank, len(self.val_set), world_size))  # no image is counted twice
        return DataLoader(share, batch_size=1, **self._workers())

    def _workers(self) -> dict[str, Any]:
        n = self.config.num_workers
        return {
            "num_workers": n,
            "persistent_workers": n > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": start_worker if n else None,
            "generator": torch.Generator(),  # else each pass over the data would draw from the global one
        }


def start_worker(worker: int) -> None:
    """What every loading process does first."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole process group; the main process decides
        signal.signal(number, signal.SIG_IGN)
