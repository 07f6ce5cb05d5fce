"""Batches for training and validating detectors: lists, since images have different sizes and numbers of objects."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from densevit.data.catalog import dataset_options
from densevit.data.detection import DetectionDataset
from densevit.data.detection_transforms import DetectionEvalTransform, detection_train_transform
from densevit.errors import UserError
from densevit.training.config_detection_data import DetectionDataConfig
from densevit.training.data_module import NoImages, TaskData


class DetectionData(TaskData[DetectionDataConfig]):
    """Train and validation loaders of one detection experiment; `classes`, `palette`, `category_ids`, `has_masks` come
    from the data set.

    Training batches are {"image": list of float32 (C, H_i, W_i), "target": list of {"boxes", "labels", "masks"?},
    "image_id": list, "id": list}. Validation yields one image at a time and has, instead of "target", "size" (list of
    the stored (H, W)) and "truth" (list of {"boxes", "labels", "masks"?, "iscrowd", "area"} in pixels of that size).
    """

    def __init__(
        self, config: DetectionDataConfig, *, num_batches: int, seed: int, short_side: int = 800, long_side: int = 1333
    ):
        """`short_side` and `long_side` are those of validation (`DetectionConfig`)."""
        self._eval_sides = {"short_side": short_side, "long_side": long_side}
        super().__init__(config, num_batches=num_batches, seed=seed)
        if self.val_set.num_objects() == 0:
            raise UserError(
                f"split {config.val_split!r} of {config.name!r} has no object to score; see `densevit data check`"
            )
        self.palette: tuple[tuple[int, int, int], ...] = self.val_set.palette
        self.category_ids: tuple[int, ...] = self.val_set.category_ids
        self.has_masks: bool = self.val_set.has_masks

    def augmentation(self) -> Any:
        c = self.config
        return detection_train_transform(
            short_sides=c.short_sides,
            long_side=c.long_side,
            jitter=c.jitter,
            jitter_size=c.jitter_size,
            flip=c.flip,
            photometric=c.photometric,
            mean=c.mean,
            std=c.std,
        )

    def preparation(self) -> Any:
        return DetectionEvalTransform(**self._eval_sides, mean=self.config.mean, std=self.config.std)

    def check_kind(self, dataset: Any) -> None:
        if not isinstance(dataset, DetectionDataset):
            raise UserError(f"data set {self.config.name!r} has no objects; use coco, yolo or scenes_detection")

    def train_args(self) -> dict[str, Any]:
        c = self.config
        if c.keep_empty:
            return {}
        if "keep_empty" not in dataset_options(c.name):
            raise UserError(f"data set {c.name!r} cannot leave out images without objects; set data.keep_empty=true")
        return {"keep_empty": False}

    @cached_property
    def train_set(self) -> Any:
        try:
            dataset = super().train_set
        except NoImages as error:
            if self.config.keep_empty:
                raise
            raise UserError(f"{error}; data.keep_empty=false leaves images without objects out") from error
        dataset.max_objects = self.config.max_objects
        return dataset

    def collate(self) -> Callable[[Any], Any]:
        return collate_detection


def collate_detection(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Samples after a transform of `detection_transforms` -> one batch of lists, of plain tensors."""
    batch: dict[str, list[Any]] = {
        "image": [sample["image"].as_subclass(Tensor) for sample in samples],
        "image_id": [sample["image_id"] for sample in samples],
        "id": [sample["id"] for sample in samples],
    }
    if "truth" in samples[0]:
        batch["size"] = [sample["size"] for sample in samples]
        batch["truth"] = [_plain(sample["truth"]) for sample in samples]
    else:
        batch["target"] = [_plain({key: sample[key] for key in _LEARNED if key in sample}) for sample in samples]
    return batch


_LEARNED = ("boxes", "labels", "masks")


def _plain(objects: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.as_subclass(Tensor) for key, value in objects.items()}
