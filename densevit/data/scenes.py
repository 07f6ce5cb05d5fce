"""`scenes`: generated street pictures that need no download, for segmentation, detection and classification.

    data = ScenesSegmentation(split="val", image_size=(128, 256))
    data[0]["image"], data[0]["mask"]

Picture `i` of a split depends on (seed, split, i) alone; see `scene_render.py` for how it is drawn.
"""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from densevit.data.base import SegmentationDataset, Transform
from densevit.data.detection import DetectionDataset, Objects
from densevit.data.scene_layout import PLACES
from densevit.data.scene_palette import CAR, CLASSES, PEDESTRIAN, SIGN
from densevit.data.scene_render import Scene, render_scene
from densevit.errors import UserError, unknown_name

PALETTE = (
    (70, 130, 180),
    (150, 90, 80),
    (128, 64, 128),
    (244, 190, 210),
    (152, 251, 152),
    (60, 130, 50),
    (20, 30, 160),
    (220, 20, 60),
    (240, 210, 30),
)
"""One colour for each of `CLASSES`."""

THINGS = (CAR, PEDESTRIAN, SIGN)
"""The classes with countable objects; in detection samples they are labelled 0, 1, 2."""

NUM_IMAGES = {"train": 1000, "val": 200, "test": 200}


class _Scenes:
    """The scenes of one split, drawn on demand; with `cache` each is drawn once and kept (4 bytes a pixel)."""

    def __init__(
        self, *, split: str, image_size: tuple[int, int], num_images: int | None, seed: int, cache: bool
    ) -> None:
        if split not in NUM_IMAGES:
            raise unknown_name("split", split, NUM_IMAGES)
        if len(image_size) != 2 or min(image_size) < 16:
            raise UserError(f"image_size {tuple(image_size)} must be (H, W), each at least 16")
        if num_images is not None and num_images < 1:
            raise UserError(f"num_images {num_images} must be at least 1")
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.num_images = NUM_IMAGES[split] if num_images is None else num_images
        self._key = (seed, list(NUM_IMAGES).index(split))
        self._cache: dict[int, Scene] | None = {} if cache else None

    def ids(self) -> list[str]:
        return [f"{index:05d}" for index in range(self.num_images)]

    def __getitem__(self, index: int) -> Scene:
        if self._cache is None:
            return self._render(index)
        if index not in self._cache:
            self._cache[index] = self._render(index)
        return self._cache[index]

    def _render(self, index: int) -> Scene:
        return render_scene([*self._key, index], self.image_size)


class _FromScenes:
    """The arguments that the data sets below share. Each says in `_fill` what else it has."""

    def __init__(
        self,
        *,
        split: str = "train",
        image_size: tuple[int, int] = (128, 128),
        num_images: int | None = None,
        seed: int = 0,
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        """`num_images` None gives 1000 for train, 200 for val and test. `image_size` is (H, W)."""
        self.scenes = _Scenes(split=split, image_size=image_size, num_images=num_images, seed=seed, cache=cache)
        self._fill(self.scenes.ids(), transform)

    def _fill(self, ids: list[str], transform: Transform | None) -> None:
        raise NotImplementedError


class ScenesSegmentation(_FromScenes, SegmentationDataset):
    """Generated street scenes with a label for each pixel: {"image", "mask", "id"}."""

    def _fill(self, ids: list[str], transform: Transform | None) -> None:
        SegmentationDataset.__init__(self, ids, classes=CLASSES, palette=PALETTE, transform=transform)

    def read(self, index: int) -> tuple[tv_tensors.Image, np.ndarray]:
        scene = self.scenes[index]
        return _image(scene), scene.labels.copy()


class ScenesDetection(_FromScenes, DetectionDataset):
    """Generated street scenes with their objects (car, pedestrian, sign) and masks; a sample as in `detection.py`."""

    def _fill(self, ids: list[str], transform: Transform | None) -> None:
        classes, palette = [CLASSES[index] for index in THINGS], tuple(PALETTE[index] for index in THINGS)
        DetectionDataset.__init__(self, ids, classes=classes, palette=palette, has_masks=True, transform=transform)

    def read(self, index: int) -> tuple[tv_tensors.Image, Objects]:
        scene = self.scenes[index]
        found, size = scene.instances, scene.labels.shape
        masks = np.stack([item.mask for item in found]) if found else np.zeros((0, *size), dtype=bool)
        return _image(scene), Objects(
            boxes=np.array([item.box_xyxy for item in found], dtype=np.float32).reshape(-1, 4),
            labels=np.array([THINGS.index(item.class_id) for item in found], dtype=np.int64),
            iscrowd=np.zeros(len(found), dtype=bool),
            area=masks.sum(axis=(1, 2), dtype=np.float64),
            masks=lambda numbers: masks[numbers],
        )


class ScenesClassification(_FromScenes, Dataset[dict[str, Any]]):
    """Generated street scenes with the kind of place: {"image", "label", "id"}."""

    classes = PLACES

    def _fill(self, ids: list[str], transform: Transform | None) -> None:
        self.ids, self.transform = tuple(ids), transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # ends iteration over the data set
        index %= len(self)
        scene = self.scenes[index]
        sample = {"image": _image(scene), "label": scene.scene_class, "id": self.ids[index]}
        return self.transform(sample) if self.transform else sample


def _image(scene: Scene) -> tv_tensors.Image:
    """(H, W, 3) -> (3, H, W), always a copy, so that no transform can touch a cached scene."""
    return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1))))
