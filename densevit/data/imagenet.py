"""ImageNet (ILSVRC 2012) with one folder for each class, named by its WordNet id.

    root/train/n01440764/n01440764_10026.JPEG
    root/val/n01440764/ILSVRC2012_val_00000293.JPEG

The classes are the WordNet ids in alphabetical order, as everywhere; subsets (ImageNet-100 ...) work the same way.
"""

import re
from functools import lru_cache
from pathlib import Path

from densevit.data.base import Transform, check_root
from densevit.data.classification import ImageFiles
from densevit.data.image_folder import class_folders, labelled_files
from densevit.errors import UserError


class ImageNet(ImageFiles):
    """ImageNet-1k, ImageNet-21k or a subset: {"image", "label", "id"}; `classes` are WordNet ids."""

    def __init__(
        self, root: str | Path, *, split: str = "train", transform: Transform | None = None, strict: bool = True
    ) -> None:
        """The classes are those of train/ where it is there, so that they are the same for every split.

        UserError for a folder that is no WordNet id and, if `strict`, for a class without images.
        """
        base = check_root(root, name="imagenet", layout="train/ and val/ with a folder n01440764 ... for each class")
        folder = base / split
        if not folder.is_dir():
            raise UserError(f"{base} has no folder {split}/; it must hold train/ and val/")
        names = tuple(path.name for path in class_folders(base / "train" if (base / "train").is_dir() else folder))
        if not names:
            raise UserError(
                f"{folder} has no class folders; sort its images into folders named by WordNet id, such as n01440764/"
            )
        for name in names:
            if not is_wordnet_id(name):
                raise UserError(
                    f"{folder / name} is not named by a WordNet id such as n01440764; "
                    "for folders with other names use the data set 'image_folder'"
                )
        files = labelled_files(folder, names, strict=strict)
        super().__init__(files, root=base, classes=names, transform=transform)


def is_wordnet_id(name: str) -> bool:
    """Whether `name` looks like n01440764."""
    return re.fullmatch(r"n\d{8}", name) is not None


@lru_cache(maxsize=1)
def imagenet_1k_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k in class order, from timm."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def readable_class(name: str) -> str:
    """What people call a class: "tench (n01440764)" for a WordNet id that timm knows, any other name as it is."""
    if not is_wordnet_id(name):
        return name
    text = _descriptions().get(name)
    return name if text is None else f"{text.split(',')[0]} ({name})"


@lru_cache(maxsize=1)
def _descriptions() -> dict[str, str]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return {name: info.label_name_to_description(name, detailed=False) for name in info.label_names()}
