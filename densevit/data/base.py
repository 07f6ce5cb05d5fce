"""What every segmentation data set offers, and the checks that each sample passes before a model sees it.

A sample is `{"image": Image uint8 (C, H, W), "mask": Mask uint8 (H, W), "id": str}`, handed to `transform` as a whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from densevit.data.image_io import read_image, read_mask
from densevit.errors import UserError, some_of

Transform = Callable[[dict[str, Any]], dict[str, Any]]
Palette = tuple[tuple[int, int, int], ...]


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Images with one class id for each pixel.

    A subclass fills `classes`, `palette` and `ids` and implements `read`; data sets of files derive from
    `FileSegmentationDataset` instead. `classes[k]` and `palette[k]` belong to id `k`; `ignore_index` marks pixels
    without a label.
    """

    ignore_index: int = 255

    def __init__(
        self, ids: Sequence[str], *, classes: Sequence[str], palette: Palette, transform: Transform | None = None
    ) -> None:
        if not 0 < len(classes) <= self.ignore_index:
            raise UserError(f"a data set has 1 to {self.ignore_index} classes, not {len(classes)}")
        if len(palette) != len(classes):
            raise UserError(f"{len(classes)} classes need as many colours, but the palette has {len(palette)}")
        self.ids = tuple(ids)
        self.classes = tuple(classes)
        self.palette = palette
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def image_path(self, index: int) -> Path | None:
        """The image's file, or None for a data set that is not made of files."""
        return None

    def mask_path(self, index: int) -> Path | None:
        """The mask's file, or None for a data set that is not made of files."""
        return None

    def read(self, index: int) -> tuple[tv_tensors.Image, np.ndarray]:
        """The image (C, H, W) and its class ids (H, W), as stored: neither checked nor transformed."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # ends iteration over the data set
        index %= len(self)
        image, ids = self.read(index)
        check_sample(
            image,
            ids,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            name=str(self.mask_path(index) or self.ids[index]),
        )
        mask = tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(ids, dtype=np.uint8)))
        sample = {"image": image, "mask": mask, "id": self.ids[index]}
        return self.transform(sample) if self.transform else sample


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image file, its mask file and the name by which both are known."""

    id: str
    image: Path
    mask: Path


class FileSegmentationDataset(SegmentationDataset):
    """A data set of image and mask files. Subclasses find the pairs; `read_ids` may be overridden to map labels."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        classes: Sequence[str],
        palette: Palette,
        transform: Transform | None = None,
        channels: int = 3,
        images_without_mask: Sequence[Path] = (),
        masks_without_image: Sequence[Path] = (),
        strict: bool = True,
    ) -> None:
        """`strict` False keeps going past images without a mask (they are left out, as `data check` reports)."""
        if strict and images_without_mask:
            raise UserError(
                f"{len(images_without_mask)} of {len(pairs) + len(images_without_mask)} images have no mask "
                f"({some_of(images_without_mask, 3)}); "
                "add a mask of the same name, remove the images, or leave them out with data.args.strict=false"
            )
        super().__init__([pair.id for pair in pairs], classes=classes, palette=palette, transform=transform)
        self.pairs = tuple(pairs)
        self.channels = channels
        self.images_without_mask = tuple(images_without_mask)
        self.masks_without_image = tuple(masks_without_image)

    def image_path(self, index: int) -> Path:
        return self.pairs[index].image

    def mask_path(self, index: int) -> Path:
        return self.pairs[index].mask

    def read_ids(self, index: int) -> np.ndarray:
        """Class ids (H, W) of one mask file."""
        return read_mask(self.mask_path(index))

    def read(self, index: int) -> tuple[tv_tensors.Image, np.ndarray]:
        return read_image(self.image_path(index), channels=self.channels), self.read_ids(index)


def check_sample(image: torch.Tensor, ids: np.ndarray, *, num_classes: int, ignore_index: int, name: str) -> None:
    """UserError, naming the mask, when its size is not the image's or it has an id outside the class list."""
    if ids.shape != tuple(image.shape[-2:]):
        (height, width), (mask_height, mask_width) = image.shape[-2:], ids.shape
        turned = (
            "; the photo carries an EXIF rotation, so rotate the mask as well"
            if (height, width) == (mask_width, mask_height)
            else "; export the mask at the size of the image"
        )
        raise UserError(f"mask {name} is {mask_width}x{mask_height} but its image is {width}x{height}{turned}")
    outside = ids_outside(ids, num_classes=num_classes, ignore_index=ignore_index)
    if outside:
        hint = (
            "if 0 means background, use reduce_zero_label"
            if outside == [num_classes]
            else "correct the mask, or list the missing classes"
        )
        raise UserError(
            f"mask {name} has label{'s' if len(outside) > 1 else ''} {some_of(outside)} but there are "
            f"{num_classes} classes (0..{num_classes - 1}, {ignore_index} = ignore); {hint}"
        )


def ids_outside(ids: np.ndarray, *, num_classes: int, ignore_index: int) -> list[int]:
    """The ids that are neither a class (0..num_classes-1) nor `ignore_index`, in ascending order."""
    if ids.dtype == np.uint8:  # a table look-up: about ten times faster than sorting the pixels
        allowed = np.zeros(256, dtype=bool)
        allowed[:num_classes] = True
        allowed[ignore_index] = True
        if allowed[ids].all():
            return []
    found = np.unique(ids)
    return [int(v) for v in found if not (0 <= v < num_classes or v == ignore_index)]


def pair_files(
    images: Iterable[tuple[str, Path]], masks: Iterable[tuple[str, Path]]
) -> tuple[list[Pair], list[Path], list[Path]]:
    """Match (id, path) items by id -> pairs sorted by id, images without a mask, masks without an image.

    UserError when two files claim one id (`a.jpg` beside `a.png`), since only one of them could be used.
    """
    image_of, mask_of = _by_id(images, "images"), _by_id(masks, "masks")
    pairs = [Pair(id=name, image=image_of[name], mask=mask_of[name]) for name in sorted(image_of.keys() & mask_of)]
    return (
        pairs,
        [image_of[name] for name in sorted(image_of.keys() - mask_of.keys())],
        [mask_of[name] for name in sorted(mask_of.keys() - image_of.keys())],
    )


def _by_id(files: Iterable[tuple[str, Path]], kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in files:
        if name in found:
            raise UserError(f"two {kind} have the name {name!r}: {found[name]} and {path}; keep one of them")
        found[name] = path
    return found


def files_in(folder: Path, *, suffixes: Sequence[str], recursive: bool = True) -> list[tuple[str, Path]]:
    """(id, path) of the files below `folder` with one of `suffixes`; the id is the path inside it, no suffix."""
    walk = folder.rglob("*") if recursive else folder.glob("*")
    return [
        (path.relative_to(folder).with_suffix("").as_posix(), path)
        for path in sorted(walk)
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]


def check_root(root: str | Path | None, *, name: str, layout: str) -> Path:
    """`root` as a Path; UserError, showing the expected `layout`, when it is not given or not a folder."""
    if root is None:
        raise UserError(f"data set {name!r} needs root, the folder that holds {layout}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"data set {name!r}: {path} is not a folder; root must hold {layout}")
    return path
