"""CamVid: 11 classes of road scenes filmed from a car (Brostow, Fauqueur and Cipolla, 2009), SegNet's split.

root/images/{train,val}/NAME.jpg     root/masks/{train,val}/NAME.png (index PNG, 255 = ignore)
"""

from pathlib import Path

from densevit.data.base import FileSegmentationDataset, Transform, check_root, files_in, pair_files
from densevit.data.image_io import IMAGE_SUFFIXES, MASK_SUFFIXES
from densevit.errors import UserError

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip

PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
"""The colours of the SegNet tutorial."""

SPLITS = ("train", "val", "test")


class CamVid(FileSegmentationDataset):
    """CamVid in 11 classes; `root` holds images/ and masks/, each with a folder for the split."""

    def __init__(
        self, root: str | Path, *, split: str = "train", transform: Transform | None = None, strict: bool = True
    ) -> None:
        base = check_root(root, name="camvid", layout="images/{train,val}/ and masks/{train,val}/")
        image_folder, mask_folder = base / "images" / split, base / "masks" / split
        for folder in (image_folder, mask_folder):
            if split not in SPLITS or not folder.is_dir():
                raise UserError(f"camvid has no split {split!r} at {folder}; choose one of: {', '.join(SPLITS)}")
        pairs, no_mask, no_image = pair_files(
            files_in(image_folder, suffixes=IMAGE_SUFFIXES), files_in(mask_folder, suffixes=MASK_SUFFIXES)
        )
        super().__init__(
            pairs,
            classes=CLASSES,
            palette=PALETTE,
            transform=transform,
            images_without_mask=no_mask,
            masks_without_image=no_image,
            strict=strict,
        )
