"""COCO, and data of your own in COCO's json: boxes, and masks where asked for (Lin et al., 2014).

    root/annotations/instances_train2017.json     root/annotations/instances_train.json
    root/train2017/*.jpg                          root/images/train/*.jpg or root/images/*.jpg

    root/train/_annotations.coco.json, root/train/*.jpg

The classes are the json's categories in the order of their ids, which may have gaps: COCO's 80 ids lie in 1 .. 90.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torchvision import tv_tensors

from densevit.data.base import Transform, check_root
from densevit.data.coco_json import ImageEntry, add_annotations, load_coco_json, read_categories, read_images
from densevit.data.coco_masks import mask_library
from densevit.data.detection import DetectionDataset, Objects, check_size
from densevit.data.faults import Faults
from densevit.data.image_io import read_image
from densevit.data.object_table import ObjectTable
from densevit.errors import UserError

ANNOTATION_FILES = (
    "annotations/instances_{split}.json",
    "annotations/instances_{split}2017.json",
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",
)
IMAGE_FOLDERS = ("images/{split}", "{split}", "images/{split}2017", "{split}2017", "images")


class Coco(DetectionDataset):
    """Images and objects of one json file; see `detection.py` for a sample."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        masks: bool | None = False,
        images: str | None = None,
        annotations: str | None = None,
        keep_empty: bool = True,
        num_images: int | None = None,
        channels: int = 3,
        strict: bool = True,
    ) -> None:
        """`masks` True: samples have masks; None: if the file has any.

        `images` and `annotations` are the folder and the file where they are not in a usual place, below `root` and
        with {split} for the split. `keep_empty` False leaves out images without an object to learn; `num_images` takes
        the first of the rest alone. Boxes are clipped to their image, those without area are left out. UserError for
        every other fault, unless `strict` is False: then faulty entries are left out and noted in `faults`.
        """
        if num_images is not None and num_images < 1:
            raise UserError(f"num_images {num_images} must be at least 1; leave it out for all images")
        base = check_root(root, name="coco", layout="annotations/instances_SPLIT.json and a folder of images")
        self.file = _annotation_file(base, split, annotations)
        self.faults = Faults()
        self.channels = channels
        document = load_coco_json(self.file)
        category_ids, classes = read_categories(document, path=self.file)
        listed = read_images(document, self.faults)
        self.folder = _image_folder(base, split, images, listed=listed, file=self.file)
        self.entries = self._present(listed)
        has_masks = any_masks(document["annotations"]) if masks is None else masks
        if has_masks:
            mask_library()  # told at once rather than at the first sample
        self.table = ObjectTable(len(self.entries), with_masks=has_masks)
        numbers: dict[int, tuple[int, ImageEntry] | None] = dict.fromkeys(entry.id for entry in listed)
        numbers |= {entry.id: (number, entry) for number, entry in enumerate(self.entries)}
        labels = {id_: label for label, id_ in enumerate(category_ids)}
        add_annotations(self.table, document["annotations"], images=numbers, labels=labels, faults=self.faults)
        self.table.close()
        if strict:
            self.faults.refuse(f"annotations {self.file}")
        kept = range(len(self.entries)) if keep_empty else np.flatnonzero(self.table.num_single()).tolist()
        self._numbers = tuple(kept)[:num_images]
        super().__init__(
            [str(PurePosixPath(self.entries[n].file_name).with_suffix("")) for n in self._numbers],
            image_ids=[self.entries[n].id for n in self._numbers],
            classes=classes,
            category_ids=category_ids,
            has_masks=has_masks,
            transform=transform,
        )

    def num_objects(self) -> int:
        return int(self.table.num_single()[list(self._numbers)].sum())

    def image_path(self, index: int) -> Path:
        return self.folder / self.entries[self._numbers[index]].file_name

    def read(self, index: int) -> tuple[tv_tensors.Image, Objects]:
        path, number = self.image_path(index), self._numbers[index]
        image, size = read_image(path, channels=self.channels), self.entries[number].size
        check_size(image, size, path=path)
        return image, self.table.objects(number, size=size)

    def _present(self, listed: Sequence[ImageEntry]) -> list[ImageEntry]:
        """The images whose files are there: one look at each folder, not one at each file."""
        here: dict[PurePosixPath, set[str]] = {}
        found = []
        for entry in listed:
            name = PurePosixPath(entry.file_name)
            if name.parent not in here:
                folder = self.folder / name.parent
                here[name.parent] = set(os.listdir(folder)) if folder.is_dir() else set()
            if name.name in here[name.parent]:
                found.append(entry)
            else:
                self.faults.add(
                    "image files missing",
                    f"image {self.folder / name} is listed but not there; correct file_name, or say where the images "
                    "are with images=",
                )
        return found


def any_masks(annotations: Sequence[Any]) -> bool:
    """Whether some annotation has a mask."""
    return any(isinstance(annotation, dict) and annotation.get("segmentation") for annotation in annotations)


def _annotation_file(base: Path, split: str, given: str | None) -> Path:
    names = ANNOTATION_FILES if given is None else (given,)
    paths = [base / name.replace("{split}", split) for name in names]
    for path in paths:
        if path.is_file():
            return path
    tried = ", ".join(str(path.relative_to(base)) if path.is_relative_to(base) else str(path) for path in paths)
    raise UserError(f"coco: no annotations of split {split!r} in {base} ({tried}); name the file with annotations=")


def _image_folder(base: Path, split: str, given: str | None, *, listed: Sequence[ImageEntry], file: Path) -> Path:
    """The folder that holds the images: the one given, else the first usual one in which some of them are."""
    if given is not None:
        folder = base / given.replace("{split}", split)
        if not folder.is_dir():
            raise UserError(f"coco: images {folder} is not a folder; images= is the folder of split {split!r}")
        return folder
    folders = [base / name.replace("{split}", split) for name in IMAGE_FOLDERS] + [base, file.parent]
    there = [folder for folder in folders if folder.is_dir()]
    some = [entry.file_name for entry in listed[:5]]
    return next((folder for folder in there if any((folder / name).is_file() for name in some)), there[0])
