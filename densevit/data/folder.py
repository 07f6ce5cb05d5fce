"""A plain folder of images and masks, in one of three layouts, with a class list beside them.

    root/classes.txt                        root/classes.csv                    root/classes.json
    root/images/train/a.jpg                 root/train/images/a.jpg             root/images/a.jpg
    root/masks/train/a.png                  root/train/masks/a.png              root/masks/a.png
    root/{images,masks}/val/...             root/val/{images,masks}/...         root/{train,val}.txt, or val_ratio=0.2

Image and mask share their name. Masks are index PNGs (grey or palette, 255 = ignore) or RGB pictures whose colours
stand in the class list.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densevit.data.base import FileSegmentationDataset, Transform, check_root, files_in, pair_files
from densevit.data.class_list import find_class_list, read_class_list
from densevit.data.image_io import IMAGE_SUFFIXES, MASK_SUFFIXES, read_mask
from densevit.errors import UserError, unknown_name

MASK_FORMATS = ("auto", "index", "color")
Files = list[tuple[str, Path]]


class Folder(FileSegmentationDataset):
    """Images and masks of your own: {"image", "mask", "id"}."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        classes: str | Path | Sequence[str] | None = None,
        reduce_zero_label: bool = False,
        val_ratio: float | None = None,
        seed: int = 0,
        mask_format: str = "auto",
        image_folder: str = "images",
        mask_folder: str = "masks",
        mask_suffix: str = "",
        channels: int = 3,
        strict: bool = True,
    ) -> None:
        """`classes` is a class list file or the names; None looks for `classes.*` in `root`.

        `reduce_zero_label` turns id 0 into ignore and lowers the others by one. `val_ratio` splits a flat folder into
        "train" and "val", the same way every time for one `seed`. `mask_format` "auto" reads grey and palette masks as
        ids and RGB masks as colours, "index" and "color" allow one of them. `mask_suffix` is what a mask's name adds to
        its image's, such as "_mask". `strict` False leaves out images without a mask.
        """
        base = check_root(root, name="folder", layout=f"{image_folder}/ and {mask_folder}/")
        if mask_format not in MASK_FORMATS:
            raise unknown_name("mask_format", mask_format, MASK_FORMATS)
        listed = read_class_list(find_class_list(base) if classes is None else classes)
        self.reduce_zero_label = reduce_zero_label
        self.mask_format = mask_format
        self.colors = None if mask_format == "index" else listed.color_table(ignore_index=self.ignore_index)
        if mask_format == "color" and self.colors is None:
            raise UserError("mask_format 'color' needs a class list with a colour for each class, as in classes.csv")
        images, masks, part = _find(
            base, split=split, image_folder=image_folder, mask_folder=mask_folder, has_ratio=val_ratio is not None
        )
        if not images:
            raise UserError(f"no images in {base} for split {split!r}; looked for {', '.join(IMAGE_SUFFIXES)}")
        if mask_suffix:
            masks = [(name.removesuffix(mask_suffix), path) for name, path in masks if name.endswith(mask_suffix)]
        if part == "flat":
            keep = _members(base, images, split=split, val_ratio=val_ratio, seed=seed)
            images = [item for item in images if item[0] in keep]
            masks = [item for item in masks if item[0] in keep] if split != "all" else masks
        pairs, no_mask, no_image = pair_files(images, masks)
        if not pairs:
            raise UserError(
                f"none of the {len(images)} images of split {split!r} in {base} has a mask "
                f"(such as {images[0][1].name}); a mask has its image's name"
                f"{f' plus {mask_suffix!r}' if mask_suffix else ', or see mask_suffix'}"
            )
        super().__init__(
            pairs,
            classes=listed.names,
            palette=listed.palette,
            transform=transform,
            channels=channels,
            images_without_mask=no_mask,
            masks_without_image=no_image,
            strict=strict,
        )

    def read_ids(self, index: int) -> np.ndarray:
        ids = read_mask(self.mask_path(index), colors=self.colors, as_colors=self.mask_format == "color")
        return lower_ids(ids, ignore_index=self.ignore_index) if self.reduce_zero_label else ids


def lower_ids(ids: np.ndarray, *, ignore_index: int) -> np.ndarray:
    """`reduce_zero_label`: 0 and `ignore_index` become `ignore_index`, every other id is lowered by one."""
    if ids.dtype == np.uint8:
        table = np.arange(-1, 255, dtype=np.int16)
        table[[0, ignore_index]] = ignore_index
        return table.astype(np.uint8)[ids]
    return np.where((ids == 0) | (ids == ignore_index), ignore_index, ids - 1)


def _find(base: Path, *, split: str, image_folder: str, mask_folder: str, has_ratio: bool) -> tuple[Files, Files, str]:
    """Images, masks and "split" or "flat", by the first layout that is there."""
    layouts = (
        (base / image_folder / split, base / mask_folder / split),
        (base / split / image_folder, base / split / mask_folder),
    )
    for images, masks in layouts:
        if images.is_dir() and not has_ratio:
            _require(masks, beside=images)
            return files_in(images, suffixes=IMAGE_SUFFIXES), files_in(masks, suffixes=MASK_SUFFIXES), "split"
    images, masks = base / image_folder, base / mask_folder
    if not images.is_dir():
        raise UserError(
            f"{base} has neither {image_folder}/ nor {split}/{image_folder}/; put the pictures into "
            f"{image_folder}/{split}/ and the masks into {mask_folder}/{split}/"
        )
    _require(masks, beside=images)
    splits = sorted(path.name for path in images.iterdir() if path.is_dir())
    if splits and not has_ratio and not any((base / f"{split}.txt").is_file() for split in (split, "train")):
        raise UserError(f"{images} has no split {split!r}; it has: {', '.join(splits)}")
    return files_in(images, suffixes=IMAGE_SUFFIXES), files_in(masks, suffixes=MASK_SUFFIXES), "flat"


def _require(masks: Path, *, beside: Path) -> None:
    if not masks.is_dir():
        raise UserError(f"{beside} has no masks: {masks} is not a folder; put one mask for each image there")


def _members(base: Path, images: Files, *, split: str, val_ratio: float | None, seed: int) -> set[str]:
    """The ids of one split of a flat folder: from its list file, else by ratio."""
    known = {name for name, _ in images}
    list_file = base / f"{split}.txt"
    if split == "all":
        return known
    if val_ratio is None:
        if not list_file.is_file():
            raise UserError(
                f"{base} has no {split}.txt and no {split}/ folders; write the image names of the split into "
                f"{split}.txt, or set val_ratio=0.2 to split by chance"
            )
        return _listed(list_file, known)
    if not 0 < val_ratio < 1:
        raise UserError(f"val_ratio {val_ratio} must lie between 0 and 1, such as 0.2")
    if split not in ("train", "val"):
        raise UserError(f"val_ratio makes the splits 'train' and 'val' (and 'all'), not {split!r}")
    ranked = sorted(known, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    num_val = min(max(round(val_ratio * len(ranked)), 1), len(ranked) - 1)
    return set(ranked[:num_val] if split == "val" else ranked[num_val:])


def _listed(list_file: Path, known: set[str]) -> set[str]:
    """Names in a list file, with or without suffix. UserError for a name that has no image."""
    found = set()
    for line in list_file.read_text(encoding="utf-8-sig").splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        stem = name if name in known else Path(name).with_suffix("").as_posix()
        if stem not in known:
            raise UserError(f"{list_file} lists {name!r}, but there is no such image; correct or remove the line")
        found.add(stem)
    if not found:
        raise UserError(f"{list_file} lists no image; write one name a line")
    return found
