"""Boxes and polygons in the text files of Ultralytics' YOLO: one file for each image, one object a line.

    root/data.yaml  (names: [...])        class cx cy w h                  box: centre and size
    root/images/train/a.jpg               class x1 y1 x2 y2 x3 y3 ...      polygon, whose bounds are the box
    root/labels/train/a.txt               all from 0 to 1, as shares of the image's width and height

`root/train/{images,labels}` works as well. An image without text file has no objects.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy import flatnonzero
from torchvision import tv_tensors

from densevit.data.base import Transform, check_root, files_in
from densevit.data.class_list import find_class_list, read_class_list
from densevit.data.coco_masks import mask_library, polygon_fault
from densevit.data.detection import DetectionDataset, Objects
from densevit.data.faults import Faults
from densevit.data.image_io import IMAGE_SUFFIXES, read_image
from densevit.data.object_table import ObjectTable
from densevit.errors import UserError

IMAGE_FOLDERS = ("images/{split}", "{split}/images", "images/{split}2017")
OTHER_NAMES = {"val": "valid"}
"""A split's name in some exports."""
_SLACK = 0.01
"""By so much a value may leave 0 .. 1, as rounding does; it is clipped."""


class Yolo(DetectionDataset):
    """Images and objects of text files; see `detection.py` for a sample."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        classes: str | Path | Sequence[str] | None = None,
        masks: bool | None = False,
        images: str | None = None,
        keep_empty: bool = True,
        channels: int = 3,
        strict: bool = True,
    ) -> None:
        """`classes` are the names, or a file of them: data.yaml or a class list; None looks for one in `root`.

        `masks` True: samples have masks, so that every line must be a polygon; None: if every line is one. `images` is
        the folder of images where it is not in a usual place, below `root` and with {split} for the split.
        `keep_empty` False leaves out images without objects. Boxes without area are left out. UserError for every
        other fault, unless `strict` is False: then faulty lines are left out and noted in `faults`.
        """
        base = check_root(root, name="yolo", layout="data.yaml, images/SPLIT/ and labels/SPLIT/")
        names = _class_names(base, classes)
        self.folder = _image_folder(base, split, images)
        self.files = files_in(self.folder, suffixes=IMAGE_SUFFIXES)
        self.labels_folder = labels_beside(self.folder)
        self.channels = channels
        self.faults = Faults()
        if not self.labels_folder.is_dir():
            raise UserError(f"yolo: {self.folder} has no labels: {self.labels_folder} is not a folder")
        lines = [line for number in range(len(self.files)) for line in self._lines(number, num_classes=len(names))]
        has_masks = bool(lines) and all(len(line[3]) > 4 for line in lines) if masks is None else masks
        if has_masks:
            mask_library()  # told at once rather than at the first sample
        self.table = ObjectTable(len(self.files), with_masks=has_masks)
        for line in lines:
            self._add(*line)
        self.table.close()
        self._count_other_labels()
        if strict:
            self.faults.refuse(f"labels {self.labels_folder}")
        kept = range(len(self.files)) if keep_empty else flatnonzero(self.table.num_single()).tolist()
        self._numbers = tuple(kept)
        super().__init__(
            [self.files[number][0] for number in kept], classes=names, has_masks=has_masks, transform=transform
        )

    def num_objects(self) -> int:
        return int(self.table.num_single()[list(self._numbers)].sum())

    def image_path(self, index: int) -> Path:
        return self.files[self._numbers[index]][1]

    def read(self, index: int) -> tuple[tv_tensors.Image, Objects]:
        image = read_image(self.image_path(index), channels=self.channels)
        height, width = image.shape[-2:]
        return image, self.table.objects(self._numbers[index], size=(height, width), scale=(width, height))

    def _lines(self, number: int, *, num_classes: int) -> list[tuple[int, str, int, list[float]]]:
        """Image number, place in its file, class and values of each line that can be read."""
        path = self.labels_folder / f"{self.files[number][0]}.txt"
        if not path.is_file():
            return []
        found = []
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            self.faults.add("label files that cannot be read", f"{path}: {error}")
            return []
        for line_number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    label, values = parse_line(line, num_classes=num_classes)
                except UserError as error:
                    self.faults.add("lines", f"{path}, line {line_number}: {error}")
                else:
                    found.append((number, f"{path}, line {line_number}", label, values))
        return found

    def _add(self, number: int, place: str, label: int, values: list[float]) -> None:
        box = bounds(values)
        if box[0] >= box[2] or box[1] >= box[3]:
            self.faults.add("boxes without area, left out", f"{place}: the box has no area", fatal=False)
            return
        if self.table.masks is not None:
            fault = "a box has no mask; set masks=False" if len(values) == 4 else polygon_fault(values, size=(1, 1))
            if fault:
                self.faults.add("masks", f"{place}: {fault}")
                return
            self.table.masks.add_polygons([values])
        self.table.add(number, label, box)

    def _count_other_labels(self) -> None:
        known = {name for name, _ in self.files}
        for name, path in files_in(self.labels_folder, suffixes=(".txt",)):
            if name not in known and name != "classes":
                self.faults.add("label files without image", f"{path} has no image", fatal=False)


def parse_line(line: str, *, num_classes: int) -> tuple[int, list[float]]:
    """`class cx cy w h` or `class x1 y1 x2 y2 ...` -> the class and its 4, or 6 and more, values.

    UserError says what is wrong with the line.
    """
    words = line.split()
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{line.strip()[:60]!r} holds something else than numbers") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise UserError(
            f"{len(words)} numbers; a box has 5 (class cx cy w h), a polygon 1 and at least 3 pairs (class x1 y1 ...)"
        )
    if label not in range(num_classes):
        raise UserError(f"class {words[0]}, but with {num_classes} classes a class is 0 .. {num_classes - 1}")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        worst = next(value for value in values if not -_SLACK <= value <= 1 + _SLACK)
        raise UserError(f"value {worst:g} is outside 0 .. 1; divide x by the image's width and y by its height")
    return int(label), values


def bounds(values: Sequence[float]) -> tuple[float, float, float, float]:
    """The box of a line's values as XYXY, clipped to 0 .. 1."""
    if len(values) == 4:
        x, y, w, h = values
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in box)
    return left, top, right, bottom


def labels_beside(images: Path) -> Path:
    """The folder of labels: the last `images` of the path turned into `labels`, else the folder itself."""
    parts = list(images.parts)
    for position in reversed(range(len(parts))):
        if parts[position] == "images":
            parts[position] = "labels"
            return Path(*parts)
    return images


def _image_folder(base: Path, split: str, given: str | None) -> Path:
    names = [given] if given is not None else list(IMAGE_FOLDERS)
    splits = [split, *([OTHER_NAMES[split]] if split in OTHER_NAMES else [])]
    folders = [base / name.replace("{split}", each) for each in splits for name in names]
    for folder in folders:
        if folder.is_dir():
            return folder
    tried = ", ".join(name.replace("{split}", split) for name in names)
    raise UserError(f"yolo: no images of split {split!r} in {base} ({tried}); name the folder with images=")


def _class_names(base: Path, given: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """Class names: those given, of data.yaml, or of a class list."""
    if given is None:
        yaml_file = next((base / name for name in ("data.yaml", "data.yml") if (base / name).is_file()), None)
        if yaml_file is None and not any(base.glob("classes.*")):
            raise UserError(f"yolo: no class names in {base}; write data.yaml with `names: [...]`, or give classes=")
        given = yaml_file or find_class_list(base)
    if isinstance(given, (str, Path)) and Path(given).suffix.lower() in (".yaml", ".yml"):
        document = _load_yaml(Path(given).expanduser())
        if isinstance(document, dict):
            given = _names_of(document, path=Path(given))
    return read_class_list(given, max_classes=None).names


def _names_of(document: dict[str, Any], *, path: Path) -> list[str]:
    """`names` of data.yaml: a list, or a mapping from 0, 1, 2 ..."""
    names, number = document.get("names"), document.get("nc")
    if names is None:
        raise UserError(f"{path} has no names; write `names: [...]`, the classes in the order of their numbers")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise UserError(f"{path}: names must be numbered 0 .. {len(names) - 1}, not {sorted(names, key=str)[:5]}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names must list the classes, not {names!r}")
    if number is not None and number != len(names):
        raise UserError(f"{path}: nc is {number} but names has {len(names)} entries; correct one of them")
    return [str(name) for name in names]


def _load_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"cannot read {path}: {' '.join(str(error).split())}; data.yaml holds `names: [...]`"
        ) from error
