"""Pascal Context (Mottaghi et al., 2014) in 60 classes, or in 59 without background.

    root/JPEGImages/*.jpg     root/SegmentationClassContext/*.png     root/ImageSets/SegmentationContext/{train,val}.txt

`root` is VOCdevkit/VOC2010. The masks hold 0 for background and 1..59 for the classes in the order of `CLASSES`, which
is that of their ids among the 459 published categories, alphabetical. `convert_json` writes masks and lists from the
published trainval_merged.json. Masks in another order (such as 59_context_labels) need their own class list: `folder`.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densevit.data.base import FileSegmentationDataset, Transform, check_root, files_in, pair_files
from densevit.data.class_list import voc_palette
from densevit.data.folder import lower_ids
from densevit.data.image_io import IMAGE_SUFFIXES, read_mask
from densevit.errors import UserError, unknown_name

_NAMES = """
    background aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat
    ceiling chair cloth computer cow cup curtain dog door fence floor flower food grass ground horse keyboard
    light motorbike mountain mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky
    snow sofa table track train tree truck tvmonitor wall water window wood
"""

CLASSES = tuple(_NAMES.split())
"""60 names; the 59-class form leaves out the first."""

PALETTE = voc_palette(len(CLASSES))

CATEGORY_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158,
    159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366,
    368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""The published category (0: none) of each of `CLASSES`."""

SPLITS = ("train", "val")
_MASKS, _LISTS, _JSON = "SegmentationClassContext", Path("ImageSets") / "SegmentationContext", "trainval_merged.json"


class PascalContext(FileSegmentationDataset):
    """Pascal Context; `background` False gives 59 classes and leaves background pixels out of training and scores."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        background: bool = True,
        strict: bool = True,
    ) -> None:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        base = check_root(root, name="pascal_context", layout=f"JPEGImages/ and {_MASKS}/, usually VOCdevkit/VOC2010")
        self.reduce_zero_label = not background
        list_file = base / _LISTS / f"{split}.txt"
        for path in (base / "JPEGImages", base / _MASKS, list_file):
            if not path.exists():
                hint = (
                    f"make the masks from {_JSON} first: densevit data convert pascal_context --root {base}"
                    if (base / _JSON).is_file()
                    else f"root must be VOCdevkit/VOC2010 with {_JSON} or the masks made from it"
                )
                raise UserError(f"pascal_context: {path} is missing; {hint}")
        listed = set(list_file.read_text(encoding="utf-8").split())
        images = files_in(base / "JPEGImages", suffixes=IMAGE_SUFFIXES)
        masks = files_in(base / _MASKS, suffixes=(".png",))
        absent = sorted(listed - {name for name, _ in images})
        if absent:
            raise UserError(f"{list_file} lists {absent[0]!r}, which is not in {base / 'JPEGImages'}; add the image")
        pairs, no_mask, no_image = pair_files(
            [item for item in images if item[0] in listed], [item for item in masks if item[0] in listed]
        )
        super().__init__(
            pairs,
            classes=CLASSES if background else CLASSES[1:],
            palette=PALETTE if background else PALETTE[1:],
            transform=transform,
            images_without_mask=no_mask,
            masks_without_image=no_image,
            strict=strict,
        )

    def read_ids(self, index: int) -> np.ndarray:
        ids = read_mask(self.mask_path(index))
        return lower_ids(ids, ignore_index=self.ignore_index) if self.reduce_zero_label else ids


def convert_json(root: str | Path, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Write index PNGs and the two lists from root/trainval_merged.json; returns the number of masks.

    A later annotation of an image covers an earlier one; categories outside the 59 become background.
    """
    base = check_root(root, name="pascal_context", layout=f"JPEGImages/ and {_JSON}, usually VOCdevkit/VOC2010")
    source = base / _JSON
    if not source.is_file():
        raise UserError(f"{source} does not exist; download it from the Pascal in Detail challenge")
    data = json.loads(source.read_text(encoding="utf-8"))
    class_of = {category: index for index, category in enumerate(CATEGORY_IDS)}
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in data["annos_segmentation"]:
        annotations[annotation["image_id"]].append(annotation)
    (base / _MASKS).mkdir(exist_ok=True)
    (base / _LISTS).mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    images = [image for image in data["images"] if image["phase"] in names]
    for done, image in enumerate(images, start=1):
        ids = np.zeros((image["height"], image["width"]), dtype=np.uint8)
        for annotation in annotations[image["image_id"]]:
            ids[decode_rle(annotation["segmentation"])] = class_of.get(annotation["category_id"], 0)
        name = Path(image["file_name"]).stem
        Image.fromarray(ids).save(base / _MASKS / f"{name}.png")
        names[image["phase"]].append(name)
        if progress is not None:
            progress(done, len(images))
    for split, members in names.items():
        (base / _LISTS / f"{split}.txt").write_text("".join(f"{name}\n" for name in members), encoding="utf-8")
    return len(images)


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """A COCO run-length mask to bool (H, W).

    Runs go down the columns and alternate between 0 and 1. A string packs each run into characters of five bits
    (plus 48, sixth bit: more to come, last one signed); from the third run on, it holds the change against the run two
    before.
    """
    height, width = rle["size"]
    runs = _unpack(rle["counts"]) if isinstance(rle["counts"], (str, bytes)) else list(rle["counts"])
    values = np.zeros(len(runs), dtype=bool)
    values[1::2] = True
    flat = np.repeat(values, runs)
    if flat.size != height * width:
        raise UserError(f"a run-length mask fills {flat.size} of {height} x {width} pixels; the json is damaged")
    return flat.reshape(width, height).T


def _unpack(text: str | bytes) -> list[int]:
    codes = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs
