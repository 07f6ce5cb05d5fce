"""What the loaders of every task have in common: which data sets, in which order, in how many processes."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from densevit.data.catalog import create_dataset
from densevit.errors import UserError
from densevit.training.sample_stream import SeededDataset, StepSampler, start_worker


class NoImages(UserError):
    """A split of a data set without any image."""


class DataSettings(Protocol):
    """The settings that the data of every task have."""

    @property
    def name(self) -> str: ...
    @property
    def root(self) -> str | None: ...
    @property
    def args(self) -> dict[str, Any]: ...
    @property
    def train_split(self) -> str: ...
    @property
    def val_split(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def num_workers(self) -> int: ...


Settings = TypeVar("Settings", bound=DataSettings)


class TaskData(L.LightningDataModule, Generic[Settings]):
    """Train and validation loaders of one experiment; `classes` come from the validation set.

    Training follows `StepSampler` from `start_batch` on, so that a resumed run sees what an uninterrupted one sees.
    A subclass says how samples are augmented and prepared, and which data sets it can use.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, config: Settings, *, num_batches: int, seed: int):
        super().__init__()
        self.config = config
        self.num_batches = num_batches
        self.seed = seed
        self.start_batch = 0
        self.val_set = self._dataset(config.val_split, self.preparation())
        self.classes: tuple[str, ...] = self.val_set.classes

    @abstractmethod
    def augmentation(self) -> Any:
        """The transform of training samples."""

    @abstractmethod
    def preparation(self) -> Any:
        """The transform of validation samples."""

    @abstractmethod
    def check_kind(self, dataset: Any) -> None:
        """UserError unless the samples of `dataset` are of the task's kind."""

    @cached_property
    def train_set(self) -> Any:
        """The training split, augmented; made when it is first asked for, since scoring needs none."""
        c = self.config
        dataset = self._dataset(c.train_split, self.augmentation(), **self.train_args())
        if dataset.classes != self.classes:
            raise UserError(
                f"splits {c.train_split!r} and {c.val_split!r} of {c.name!r} have different classes "
                f"({len(dataset.classes)} and {len(self.classes)}); give both the same class list"
            )
        return dataset

    def collate(self) -> Callable[[Any], Any] | None:
        """What makes a batch of samples; None: torch's own, for samples of one size."""
        return None

    def train_args(self) -> dict[str, Any]:
        """Arguments of the training set alone."""
        return {}

    def _dataset(self, split: str, transform: Any, **args: Any) -> Any:
        c = self.config
        for key in {"root", "split", "transform"} & {*c.args}:
            raise UserError(f"data.args.{key} is not an option; use data.root, data.train_split and data.val_split")
        dataset = create_dataset(c.name, root=c.root, split=split, transform=transform, **(c.args | args))
        self.check_kind(dataset)
        if not _is_stream(dataset) and len(dataset) == 0:
            raise NoImages(f"data set {c.name!r} has no image in split {split!r} (root: {c.root})")
        return dataset

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = SeededDataset(self.train_set, seed=self.seed)
        sampler = StepSampler(len(self.train_set), batch_size=self.config.batch_size, **self.place())
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=self.collate(), **self.workers())

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val_share(), batch_size=1, collate_fn=self.collate(), **self.workers())

    def place(self) -> dict[str, int]:
        """Where this process stands in the stream of batches."""
        rank, world_size = self.share()
        return {
            "num_batches": self.num_batches,
            "seed": self.seed,
            "start_batch": self.start_batch,
            "rank": rank,
            "world_size": world_size,
        }

    def share(self) -> tuple[int, int]:
        """(number of this process, number of processes)."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def val_share(self) -> Dataset[Any]:
        """This process's validation images: no image is counted twice."""
        rank, world_size = self.share()
        return Subset(self.val_set, range(rank, len(self.val_set), world_size))

    def workers(self) -> dict[str, Any]:
        """How a loader uses processes."""
        n = self.config.num_workers
        return {
            "num_workers": n,
            "persistent_workers": n > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": start_worker if n else None,
            "generator": torch.Generator(),  # else each pass over the data would draw from the global one
        }


def _is_stream(dataset: Any) -> bool:
    return isinstance(dataset, torch.utils.data.IterableDataset)
