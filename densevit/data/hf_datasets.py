"""Segmentation data sets of the Hugging Face library `datasets` (extra `hf`): from the hub, or saved to a folder.

HuggingFaceDataset("nielsr/ade20k-demo", split="train", classes="classes.txt")
HuggingFaceDataset("my_data/", split="train", classes=["road", "car"])        # datasets.save_to_disk
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import tv_tensors

from densevit.data.base import SegmentationDataset, Transform
from densevit.data.class_list import read_class_list
from densevit.data.folder import lower_ids
from densevit.data.image_io import picture_to_ids, picture_to_image
from densevit.errors import UserError

_IMAGE_COLUMNS = ("image", "pixel_values", "img")
_MASK_COLUMNS = ("annotation", "mask", "label", "labels", "segmentation_mask", "semantic_segmentation", "semantic")


class HuggingFaceDataset(SegmentationDataset):
    """One split of a data set with an image column and a mask column of Pillow pictures."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        classes: str | Path | Sequence[str] | None = None,
        config: str | None = None,
        image_column: str | None = None,
        mask_column: str | None = None,
        reduce_zero_label: bool = False,
    ) -> None:
        """`root` is a name on the hub or a folder written by `save_to_disk`; `config` is the data set's subset.

        `classes` is a class list file or the names. Columns are found by their usual names when not given.
        """
        if root is None:
            raise UserError("data set 'huggingface' needs root: a name on the hub, or a folder from save_to_disk")
        if classes is None:
            raise UserError(f"{root} needs classes: a class list file such as classes.txt, or the names in id order")
        listed = read_class_list(classes)
        self.rows = _load(str(root), split=split, config=config)
        columns = list(self.rows.column_names)
        self.image_column = _column(image_column, _IMAGE_COLUMNS, columns, "image_column")
        self.mask_column = _column(mask_column, _MASK_COLUMNS, columns, "mask_column")
        self.colors = listed.color_table(ignore_index=self.ignore_index)
        self.reduce_zero_label = reduce_zero_label
        super().__init__(
            [f"{index:06d}" for index in range(len(self.rows))],
            classes=listed.names,
            palette=listed.palette,
            transform=transform,
        )

    def read(self, index: int) -> tuple[tv_tensors.Image, np.ndarray]:
        name = f"row {index}"
        try:
            row = self.rows[index]
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"cannot read {name}: {error}; the stored picture is damaged") from error
        ids = picture_to_ids(row[self.mask_column], colors=self.colors, source=f"of {name}")
        if self.reduce_zero_label:
            ids = lower_ids(ids, ignore_index=self.ignore_index)
        return picture_to_image(row[self.image_column], source=name), ids


def _load(root: str, *, split: str, config: str | None) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("Hugging Face data sets need the package datasets: pip install densevit[hf]") from None
    try:
        saved = Path(root).expanduser()
        if not (saved / "dataset_dict.json").is_file() and not (saved / "state.json").is_file():
            return datasets.load_dataset(root, config, split=split)
        rows = datasets.load_from_disk(str(saved))
    except Exception as error:  # the library raises many types of its own
        raise UserError(f"cannot load data set {root!r}, split {split!r}: {error}") from error
    if not isinstance(rows, datasets.DatasetDict):
        return rows
    if split not in rows:
        raise UserError(f"{root} has no split {split!r}; it has: {', '.join(rows)}")
    return rows[split]


def _column(wanted: str | None, usual: Sequence[str], columns: list[str], option: str) -> str:
    for name in (wanted,) if wanted is not None else usual:
        if name in columns:
            return name
    raise UserError(f"no {option} {wanted or 'of a usual name'!r} among the columns {', '.join(columns)}; set {option}")
