"""Cityscapes (Cordts et al., 2016): the 19 evaluated classes, fine or coarse annotations.

    root/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
    root/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png       (or root/gtCoarse/SPLIT/CITY/NAME_gtCoarse_labelIds.png)

The published ids (0..33) become train ids (0..18), and everything that is not evaluated becomes ignore. Masks already
converted (`_labelTrainIds.png`) are taken where there are no `_labelIds.png`.
"""

from pathlib import Path

import numpy as np

from densevit.data.base import FileSegmentationDataset, Transform, check_root, files_in, pair_files
from densevit.data.class_list import palette_from_hex
from densevit.data.image_io import IMAGE_SUFFIXES, read_mask
from densevit.errors import UserError, unknown_name
from densevit.labels import CITYSCAPES_LABEL_IDS

_NAMES = """
    road; sidewalk; building; wall; fence; pole; traffic light; traffic sign; vegetation; terrain; sky; person;
    rider; car; truck; bus; train; motorcycle; bicycle
"""

CLASSES = tuple(" ".join(name.split()) for name in _NAMES.split(";"))

PALETTE = palette_from_hex("""
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046
    003c64 005064 0000e6 770b20
""")

SPLITS = ("train", "val", "test")
COARSE_SPLITS = ("train", "train_extra", "val")


class Cityscapes(FileSegmentationDataset):
    """Cityscapes in 19 classes; `coarse` takes gtCoarse, which also has the split "train_extra"."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        coarse: bool = False,
        strict: bool = True,
    ) -> None:
        kind, splits = ("gtCoarse", COARSE_SPLITS) if coarse else ("gtFine", SPLITS)
        if split not in splits:
            raise unknown_name(f"split of {kind}", split, splits)
        base = check_root(root, name="cityscapes", layout=f"leftImg8bit/ and {kind}/")
        image_folder, mask_folder = base / "leftImg8bit" / split, base / kind / split
        for folder in (image_folder, mask_folder):
            if not folder.is_dir():
                raise UserError(f"cityscapes: {folder} is missing; root must hold leftImg8bit/ and {kind}/")
        files = files_in(mask_folder, suffixes=(".png",))
        masks = _ending(files, f"_{kind}_labelIds")
        self.has_train_ids = not masks
        pairs, no_mask, no_image = pair_files(
            _ending(files_in(image_folder, suffixes=IMAGE_SUFFIXES), "_leftImg8bit"),
            masks or _ending(files, f"_{kind}_labelTrainIds"),
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

    def read_ids(self, index: int) -> np.ndarray:
        ids = read_mask(self.mask_path(index))
        return ids if self.has_train_ids else to_train_ids(ids)


def to_train_ids(label_ids: np.ndarray) -> np.ndarray:
    """Published ids to train ids: uint8 (H, W). Ids above 33, which are not published, stay: they are reported."""
    if label_ids.dtype != np.uint8:
        return label_ids
    return _TRAIN_ID[label_ids]


_TRAIN_ID = np.arange(256, dtype=np.uint8)
_TRAIN_ID[:34] = 255
_TRAIN_ID[list(CITYSCAPES_LABEL_IDS)] = np.arange(len(CITYSCAPES_LABEL_IDS), dtype=np.uint8)


def _ending(files: list[tuple[str, Path]], ending: str) -> list[tuple[str, Path]]:
    """The files whose name ends so, without the ending: CITY/NAME."""
    return [(name.removesuffix(ending), path) for name, path in files if name.endswith(ending)]
