"""Batches for training and validating a classifier, from data sets of files and from streamed tar shards."""

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset

from densevit.data.catalog import create_dataset
from densevit.data.classification import ClassificationDataset
from densevit.data.classification_transforms import classification_eval_transform, classification_train_transform
from densevit.data.scenes import ScenesClassification
from densevit.data.shard_stream import ShardBatches
from densevit.data.shards import Shards
from densevit.errors import UserError
from densevit.training.config_classification import ClassificationDataConfig
from densevit.training.data import SeededDataset, StepSampler, start_worker


class ClassificationData(L.LightningDataModule):
    """Train and validation loaders of one classification experiment; `classes` come from the training set.

    Batches are {"image": (B, 3, h, w) float32, "label": (B,) int64, "id": list}. Files follow `StepSampler`, shards
    `ShardBatches`; both resume exactly.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, config: ClassificationDataConfig, *, num_batches: int, seed: int):
        super().__init__()
        self.config = config
        self.num_batches = num_batches
        self.seed = seed
        self.start_batch = 0
        self._train_set: Any = None
        self.val_set = self._dataset(config.val_split, eval_transform_of(config))
        self.classes: tuple[str, ...] = self.val_set.classes

    @property
    def train_set(self) -> Any:
        """Made on first use: evaluation needs no training images."""
        if self._train_set is None:
            c = self.config
            augment = classification_train_transform(
                image_size=c.image_size,
                scale=c.scale,
                ratio=c.ratio,
                flip=c.flip,
                auto_augment=c.auto_augment,
                color_jitter=c.color_jitter,
                erase=c.erase,
                interpolation=c.interpolation,
                mean=c.mean,
                std=c.std,
            )
            self._train_set = self._dataset(c.train_split, augment)
            if self._train_set.classes != self.classes:
                raise UserError(
                    f"splits {c.train_split!r} and {c.val_split!r} of {c.name!r} have different classes "
                    f"({len(self._train_set.classes)} and {len(self.classes)}); give both the same class list"
                )
        return self._train_set

    def _dataset(self, split: str, transform: Any) -> Any:
        c = self.config
        dataset = create_dataset(c.name, root=c.root, split=split, transform=transform, **c.args)
        if not isinstance(dataset, (ClassificationDataset, Shards, ScenesClassification)):
            raise UserError(f"data set {c.name!r} has no class for an image; use image_folder, imagenet, shards ...")
        if not isinstance(dataset, Shards) and len(dataset) == 0:
            raise UserError(f"data set {c.name!r} has no image in split {split!r} (root: {c.root})")
        return dataset

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batch_size = self._share_of_batch(world_size)
        place = {"num_batches": self.num_batches, "seed": self.seed, "start_batch": self.start_batch}
        share = {"rank": rank, "world_size": world_size}
        if isinstance(self.train_set, Shards):
            stream: IterableDataset[Any] = ShardBatches(
                self.train_set, batch_size=batch_size, shuffle_buffer=self.config.shuffle_buffer, **place, **share
            )
            return DataLoader(stream, batch_size=None, **self._workers())
        sampler = StepSampler(len(self.train_set), batch_size=self.config.batch_size, **place, **share)
        return DataLoader(SeededDataset(self.train_set, seed=self.seed), batch_sampler=sampler, **self._workers())

    def _share_of_batch(self, world_size: int) -> int:
        """Images of a batch for each device."""
        total = self.config.batch_size
        unit = 2 * world_size if self.config.mixes else world_size
        if total % unit:
            raise UserError(
                f"data.batch_size {total} cannot be shared by {world_size} devices"
                f"{' in even parts, as mixing needs' if self.config.mixes else ''}; take a multiple of {unit}"
            )
        return total // world_size

    def val_dataloader(self) -> DataLoader[Any]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if isinstance(self.val_set, Shards):
            share: Any = self.val_set.share(rank=rank, world_size=world_size)
        else:
            share = Subset(self.val_set, range(rank, len(self.val_set), world_size))  # no image is counted twice
        return DataLoader(share, batch_size=max(self.config.batch_size // world_size, 1), **self._workers())

    def _workers(self) -> dict[str, Any]:
        n = self.config.num_workers
        return {
            "num_workers": n,
            "persistent_workers": n > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": start_worker if n else None,
            "generator": torch.Generator(),  # else each pass over the data would draw from the global one
        }


def eval_transform_of(config: ClassificationDataConfig) -> Any:
    """How an experiment prepares the images that it evaluates."""
    return classification_eval_transform(
        image_size=config.image_size,
        crop_pct=config.crop_pct,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )
