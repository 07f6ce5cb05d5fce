"""Batches for training and validating a classifier, from data sets of files and from streamed tar shards."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from densevit.data.classification import ClassificationDataset
from densevit.data.classification_transforms import classification_eval_transform, classification_train_transform
from densevit.data.scenes import ScenesClassification
from densevit.data.shard_stream import ShardBatches
from densevit.data.shards import Shards
from densevit.errors import UserError
from densevit.training.config_classification import ClassificationDataConfig
from densevit.training.data_module import TaskData


class ClassificationData(TaskData[ClassificationDataConfig]):
    """Train and validation loaders of one classification experiment.

    Batches are {"image": (B, 3, h, w) float32, "label": (B,) int64, "id": list}. Files follow `StepSampler`, shards
    `ShardBatches`; both resume exactly.
    """

    def augmentation(self) -> Any:
        c = self.config
        return classification_train_transform(
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

    def preparation(self) -> Any:
        return eval_transform_of(self.config)

    def check_kind(self, dataset: Any) -> None:
        if not isinstance(dataset, (ClassificationDataset, Shards, ScenesClassification)):
            raise UserError(
                f"data set {self.config.name!r} has no class for an image; use image_folder, imagenet, shards ..."
            )
        taken = len(self.config.mean)
        if (channels := getattr(dataset, "channels", taken)) != taken:
            raise UserError(
                f"pictures to classify have {taken} channels, not {channels}; "
                f"set data.args.channels={taken}, or leave it out"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        batch_size = self.share_of_batch()
        if not isinstance(self.train_set, Shards):
            return super().train_dataloader()
        stream = ShardBatches(
            self.train_set, batch_size=batch_size, shuffle_buffer=self.config.shuffle_buffer, **self.place()
        )
        return DataLoader(stream, batch_size=None, **self.workers())

    def share_of_batch(self) -> int:
        """Images of a batch for each device; UserError where they are not equally many, and even for mixing."""
        total, world_size, mixes = self.config.batch_size, self.share()[1], self.config.mixes
        unit = 2 * world_size if mixes else world_size
        if total % unit:
            needs = "an even part, since batches are mixed (or set data.mix_prob=0)" if mixes else "an equal part"
            raise UserError(
                f"data.batch_size must be a multiple of {unit}, not {total}: each device (there are {world_size}) "
                f"takes {needs}"
            )
        return total // world_size

    def val_dataloader(self) -> DataLoader[Any]:
        batch_size = max(self.config.batch_size // self.share()[1], 1)
        return DataLoader(self.val_share(), batch_size=batch_size, **self.workers())

    def val_share(self) -> Dataset[Any]:
        rank, world_size = self.share()
        if isinstance(self.val_set, Shards):
            return self.val_set.share(rank=rank, world_size=world_size)
        return super().val_share()


def eval_transform_of(config: ClassificationDataConfig) -> Any:
    """How an experiment prepares the images that it evaluates."""
    return classification_eval_transform(
        image_size=config.image_size,
        crop_pct=config.crop_pct,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )
