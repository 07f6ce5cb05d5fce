"""Batches for training and validating segmentation: crops of one size, validation images at their own."""

from typing import Any

from densevit.data.base import SegmentationDataset
from densevit.data.transforms import eval_transform, train_transform
from densevit.errors import UserError
from densevit.training.config import DataConfig
from densevit.training.data_module import TaskData


class SegmentationData(TaskData[DataConfig]):
    """Train and validation loaders of one segmentation experiment; `classes` and `palette` come from the data set.

    Training batches are {"image": (B, C, h, w) float32, "mask": (B, h, w) int64, "id": list}; validation yields one
    image at a time at its own size.
    """

    def __init__(self, config: DataConfig, *, num_batches: int, seed: int):
        super().__init__(config, num_batches=num_batches, seed=seed)
        self.palette: tuple[tuple[int, int, int], ...] = self.val_set.palette
        self.ignore_index: int = self.val_set.ignore_index

    def augmentation(self) -> Any:
        c = self.config
        return train_transform(
            crop_size=c.crop_size,
            resize_base=c.resize_base,
            ratio_range=c.ratio_range,
            cat_max_ratio=c.cat_max_ratio,
            flip=c.flip,
            photometric=c.photometric,
            mean=c.mean,
            std=c.std,
        )

    def preparation(self) -> Any:
        return eval_transform(mean=self.config.mean, std=self.config.std)

    def check_kind(self, dataset: Any) -> None:
        if not isinstance(dataset, SegmentationDataset):
            raise UserError(f"data set {self.config.name!r} has no mask for an image; use folder, camvid, scenes ...")
