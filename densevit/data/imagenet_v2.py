"""ImageNet-V2, matched frequency: 10 new validation images for each class of ImageNet-1k (Recht et al., 2019).

root/0/*.jpeg ... root/999/*.jpeg, or root/imagenetv2-matched-frequency-format-val/0/ ...

The folders are numbered in the order of the WordNet ids, so folder 10 follows 9, not 1.
"""

from pathlib import Path

from densevit.data.base import Transform, check_root
from densevit.data.classification import ImageFiles
from densevit.data.image_folder import class_folders, labelled_files
from densevit.data.imagenet import imagenet_1k_ids
from densevit.errors import UserError

PUBLISHED_FOLDER = "imagenetv2-matched-frequency-format-val"


class ImageNetV2(ImageFiles):
    """ImageNet-V2: {"image", "label", "id"}; its one split is "val" and the classes are those of ImageNet-1k."""

    def __init__(
        self, root: str | Path, *, split: str = "val", transform: Transform | None = None, strict: bool = True
    ) -> None:
        """UserError for another split, a folder that is no number from 0 to 999, and one without images if `strict`."""
        base = check_root(root, name="imagenet_v2", layout="the class folders 0/ ... 999/")
        if split != "val":
            raise UserError(f"ImageNet-V2 has validation images only; its split is 'val', not {split!r}")
        if (base / PUBLISHED_FOLDER).is_dir():
            base = base / PUBLISHED_FOLDER
        names = imagenet_1k_ids()
        numbers = tuple(map(str, range(len(names))))
        for path in class_folders(base):
            if path.name not in numbers:
                raise UserError(f"{path} is no class of ImageNet-V2; its folders are named 0 to {len(names) - 1}")
        super().__init__(labelled_files(base, numbers, strict=strict), root=base, classes=names, transform=transform)
