"""What every detection data set offers: pictures with boxes, classes and, where asked for, masks of their objects.

A sample is {"image": Image uint8 (C, H, W), "boxes": BoundingBoxes XYXY float32 (N, 4) in pixels, "labels": int64 (N,),
"masks": Mask bool (N, H, W) if the data set has them, "iscrowd": bool (N,), "area": float64 (N,), "image_id": int,
"id": str}, handed to `transform` as a whole. A crowd region stands for many objects and is never learned from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from densevit.data.base import Palette, Transform
from densevit.data.class_list import voc_palette
from densevit.data.image_io import is_turned
from densevit.errors import UserError

Size = tuple[int, int]
"""(H, W) in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """What is marked in one image of N objects; its masks are drawn only when they are asked for."""

    boxes: NDArray[np.float32]
    """(N, 4) XYXY in pixels of the stored image."""
    labels: NDArray[np.int64]
    """(N,) 0 .. K-1."""
    iscrowd: NDArray[np.bool_]
    """(N,)"""
    area: NDArray[np.float64]
    """(N,) pixels, as the annotation states them; NaN where it states none."""
    masks: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None
    """Numbers of n objects -> their masks (n, H, W); None where there are none."""

    def __len__(self) -> int:
        return len(self.labels)


class DetectionDataset(Dataset[dict[str, Any]]):
    """Images with objects. A subclass fills the lists and implements `read`.

    `classes[k]`, `palette[k]` and `category_ids[k]` (its id in COCO's json) belong to label `k`; `has_masks` says
    whether samples have "masks". An image with more than `max_objects` objects shows a random choice of so many.
    """

    max_objects: int | None = None

    def __init__(
        self,
        ids: Sequence[str],
        *,
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        palette: Palette | None = None,
        image_ids: Sequence[int] | None = None,
        has_masks: bool = False,
        transform: Transform | None = None,
    ) -> None:
        """`category_ids` count from 1 if none are given, `image_ids` from 0; `palette` None takes PASCAL VOC's."""
        self.ids = tuple(ids)
        self.classes = tuple(classes)
        if not self.classes:
            raise UserError("a detection data set has at least one class")
        self.category_ids = tuple(category_ids or range(1, len(self.classes) + 1))
        self.palette = palette or voc_palette(len(self.classes) + 1)[1:]  # the first is black, for the background
        self.image_ids = tuple(range(len(self.ids)) if image_ids is None else image_ids)
        self.has_masks = has_masks
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def image_path(self, index: int) -> Path | None:
        """The image's file, or None for a data set that is not made of files."""
        return None

    def num_objects(self) -> int | None:
        """Objects that are no crowd region; None where that is known only by reading every sample."""
        return None

    def read(self, index: int) -> tuple[tv_tensors.Image, Objects]:
        """The image (C, H, W) as stored, and its objects."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # ends iteration over the data set
        index %= len(self)
        image, objects = self.read(index)
        sample = {
            "image": image,
            **object_tensors(objects, self._chosen(objects), size=(image.shape[-2], image.shape[-1])),
            "image_id": self.image_ids[index],
            "id": self.ids[index],
        }
        return self.transform(sample) if self.transform else sample

    def _chosen(self, objects: Objects) -> NDArray[np.int64]:
        """Numbers of the objects that a sample shows: all of them, unless they are too many to learn from."""
        if self.max_objects is None or len(objects) <= self.max_objects:
            return np.arange(len(objects))
        single = np.flatnonzero(~objects.iscrowd)
        return np.sort(single[torch.randperm(len(single))[: self.max_objects].numpy()])


def object_tensors(objects: Objects, rows: NDArray[np.int64], *, size: Size) -> dict[str, Any]:
    """The objects numbered `rows` as a sample holds them; an area not stated is the mask's, else the box's."""
    boxes, area = objects.boxes[rows], objects.area[rows]
    sample: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size),
        "labels": torch.from_numpy(objects.labels[rows]),
        "iscrowd": torch.from_numpy(objects.iscrowd[rows]),
    }
    measured = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1, dtype=np.float64)
    if objects.masks is not None:
        masks = objects.masks(rows)
        sample["masks"] = tv_tensors.Mask(torch.from_numpy(masks))
        if np.isnan(area).any():
            measured = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.float64)
    return sample | {"area": torch.from_numpy(np.where(np.isnan(area), measured, area))}


def check_size(image: torch.Tensor, size: Size, *, path: Path) -> None:
    """UserError unless the picture in `path` has the `size` (H, W) for which its objects were marked."""
    found = (image.shape[-2], image.shape[-1])
    if found == size:
        return
    fix = "correct the size, or mark the objects on this picture"
    if found == size[::-1] and is_turned(path):
        fix = "it carries an EXIF rotation, so mark the objects on the rotated picture, or remove that tag"
    elif found == size[::-1]:
        fix = "exchange width and height of its entry, or mark the objects on this picture"
    raise UserError(f"image {path} is {found[1]}x{found[0]} but its annotations are for {size[1]}x{size[0]}; {fix}")
