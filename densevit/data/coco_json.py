"""COCO's json of objects, read once and checked entry by entry, so that no annotation can stop a training later.

{"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
 "annotations": [{"image_id", "category_id", "bbox": [x, y, w, h], "iscrowd", "area", "segmentation"}]}
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from densevit.data.coco_masks import compressed_code, polygon_fault
from densevit.data.faults import Faults
from densevit.data.object_table import ObjectTable
from densevit.errors import UserError

CLIPPED = "boxes reach beyond their image"
"""Kind of a fault; `check_detection` looks for it."""
_SLACK = 1.0
"""Pixels by which a box may leave its image without a word: annotations are rounded."""


class ImageEntry(NamedTuple):
    """One image of the json."""

    id: int
    file_name: str
    size: tuple[int, int]
    """(H, W)"""


class _Refused(Exception):
    """An entry that cannot be used: the kind of its fault, and what is wrong with it."""

    def __init__(self, kind: str, reason: str, *, fatal: bool = True) -> None:
        super().__init__(reason)
        self.kind, self.fatal = kind, fatal


def load_coco_json(path: Path) -> dict[str, list[Any]]:
    """The three lists of the file. UserError where it is no json, or not of this form."""
    try:
        with path.open("rb") as file:
            document = json.load(file)
    except OSError as error:
        raise UserError(f"cannot open annotations {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no text
        raise UserError(f"cannot read annotations {path}: {error}; the file is damaged, cut off or no json") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            found = type(document).__name__
            if isinstance(document, dict):
                found = ", ".join(map(str, document)) or "nothing"
            raise UserError(f"annotations {path} have no list {key!r} as COCO's instances files have; found: {found}")
    return document


def read_categories(document: Mapping[str, list[Any]], *, path: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids, in ascending order and with gaps where there are some, and the name of each."""
    names: dict[int, str] = {}
    for entry in document["categories"]:
        if not isinstance(entry, dict) or not _whole(entry.get("id")) or not str(entry.get("name", "")).strip():
            raise UserError(f"annotations {path} have a category without whole-number id or without name: {entry}")
        if entry["id"] in names:
            raise UserError(f"annotations {path} have two categories of id {entry['id']}; give each its own")
        names[entry["id"]] = str(entry["name"]).strip()
    if not names:
        raise UserError(f"annotations {path} list no category; name the classes under 'categories'")
    ids = tuple(sorted(names))
    return ids, tuple(names[id_] for id_ in ids)


def read_images(document: Mapping[str, list[Any]], faults: Faults) -> list[ImageEntry]:
    """The images that are described as they should be."""
    entries: dict[int, ImageEntry] = {}
    for position, entry in enumerate(document["images"]):
        try:
            image = _image_entry(entry)
        except _Refused as refused:
            faults.add(refused.kind, f"image entry {position} {refused}")
            continue
        if image.id in entries:
            other = entries[image.id].file_name
            faults.add("image ids used twice", f"images {other} and {image.file_name} have the same id {image.id}")
            continue
        entries[image.id] = image
    return list(entries.values())


def _image_entry(entry: Any) -> ImageEntry:
    if not isinstance(entry, dict):
        raise _Refused("image entries", f"is {entry!r}, no mapping")
    id_, name, height, width = (entry.get(key) for key in ("id", "file_name", "height", "width"))
    if not _whole(id_):
        raise _Refused("image entries", f"has the id {id_!r}; ids are whole numbers")
    if not isinstance(name, str) or not name:
        raise _Refused("image entries", f"(id {id_}) has the file_name {name!r}; it takes a path such as 'a.jpg'")
    if not (_whole(height) and _whole(width) and min(height, width) > 0):
        raise _Refused(
            "image entries", f"(id {id_}, {name}) has height {height!r} and width {width!r}; these are pixels"
        )
    return ImageEntry(id_, name, (height, width))


def add_annotations(
    table: ObjectTable,
    annotations: Sequence[Any],
    *,
    images: Mapping[int, tuple[int, ImageEntry] | None],
    labels: Mapping[int, int],
    faults: Faults,
) -> None:
    """Put the annotations into `table`; the faulty ones go to `faults` instead.

    `images` maps an image's id to its number in the table, None for one that is left out; `labels` a category's id to
    its class. Boxes are clipped to their image; those without area are left out.
    """
    seen: set[Any] = set()
    for position, annotation in enumerate(annotations):
        try:
            place = _place(annotation, images, labels)
            _check_id(annotation.get("id"), seen)
            if place is None:
                continue
            number, entry, label = place
            box = _box(annotation, entry, faults)
            crowd, area = annotation.get("iscrowd", 0), annotation.get("area")
            if crowd not in (0, 1):
                raise _Refused("iscrowd is not 0 or 1", f"has iscrowd {crowd!r}; write 0, or 1 for a crowd region")
            if table.masks is not None:
                _add_mask(table, annotation, entry, faults)
            stated = float(area) if _is_number(area) and area > 0 else math.nan
            table.add(number, label, box, crowd=bool(crowd), area=stated)
        except _Refused as refused:
            name = annotation.get("id", f"number {position}") if isinstance(annotation, dict) else f"number {position}"
            faults.add(refused.kind, f"annotation {name} {refused}", fatal=refused.fatal)


def _check_id(id_: Any, seen: set[Any]) -> None:
    """Ids may be left out, but no two annotations share one."""
    if id_ is None:
        return
    if not isinstance(id_, int | str):
        raise _Refused("annotation ids", f"has the id {id_!r}; ids are whole numbers")
    if id_ in seen:
        raise _Refused("annotation ids used twice", "is listed twice; give each annotation its own id")
    seen.add(id_)


def _place(
    annotation: Any, images: Mapping[int, tuple[int, ImageEntry] | None], labels: Mapping[int, int]
) -> tuple[int, ImageEntry, int] | None:
    """Number and entry of the annotation's image, and its class."""
    if not isinstance(annotation, dict):
        raise _Refused("annotations that are no mapping", f"is {annotation!r}")
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    if not _whole(image_id) or image_id not in images:
        raise _Refused(
            "annotations of images that are not listed",
            f"is of image {image_id!r}, which is not listed; list the image or drop the annotation",
        )
    if not _whole(category_id) or category_id not in labels:
        raise _Refused(
            "unknown categories",
            f"is of category {category_id!r}, which is not among the categories; add it there or correct it",
        )
    image = images[image_id]
    return None if image is None else (*image, labels[category_id])


def _box(annotation: dict[str, Any], image: ImageEntry, faults: Faults) -> tuple[float, float, float, float]:
    """The box as XYXY, clipped to its image."""
    bbox = annotation.get("bbox")
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise _Refused("boxes that are not four numbers", f"has bbox {bbox!r}; it takes four numbers [x, y, w, h]")
    x, y, w, h = bbox
    if min(w, h) < 0:
        raise _Refused("boxes of negative size", f"has bbox {bbox}; it takes [x, y, width, height], not corners")
    if min(w, h) == 0:
        raise _Refused("boxes without area, left out", f"has bbox {bbox}, of no area", fatal=False)
    height, width = image.size
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if left >= right or top >= bottom:
        raise _Refused(
            "boxes outside their image",
            f"has bbox {bbox}, outside its image {image.file_name} of {width}x{height}; it takes pixels",
        )
    if max(left - x, top - y, x + w - right, y + h - bottom) > _SLACK:
        name = annotation.get("id")
        faults.add(CLIPPED, f"annotation {name} has bbox {bbox}, its image {width}x{height}; clipped", fatal=False)
    return left, top, right, bottom


def _add_mask(table: ObjectTable, annotation: dict[str, Any], image: ImageEntry, faults: Faults) -> None:
    """Put the next object's mask into the table."""
    assert table.masks is not None
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        try:
            code = compressed_code(segmentation, size=image.size)
        except UserError as error:
            raise _Refused("masks", f"(image {image.file_name}): {error}") from error
        table.masks.add_code(code)
        return
    if not isinstance(segmentation, (list, tuple)) or not segmentation:
        raise _Refused("objects without mask", "has no segmentation; set masks=False to learn boxes alone")
    whole = []
    for part in segmentation:
        fault = polygon_fault(part, size=image.size)
        if fault is None:
            whole.append(part)
        elif not isinstance(part, (list, tuple)) or len(part) not in (0, 2, 4):
            raise _Refused("masks", f"(image {image.file_name}): {fault}")
    if not whole:
        raise _Refused("masks", f"(image {image.file_name}): {fault}")
    if len(whole) < len(segmentation):
        name = annotation.get("id")
        faults.add("polygons of fewer than 3 points, left out", f"annotation {name} has one beside others", fatal=False)
    table.masks.add_polygons(whole)


def _whole(value: Any) -> TypeGuard[int]:
    return type(value) is int


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number of a reasonable size."""
    return type(value) in (int, float) and abs(value) < 1e9
