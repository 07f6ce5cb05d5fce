"""Detections as COCO's test server wants them: one JSON list of all objects found in all images.

Each entry has "image_id", "category_id", "bbox" (left, top, width, height), "score" and, with masks, "segmentation", a
compressed run-length code. The server knows images and categories by the ids of COCO's own files.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densevit.errors import UserError
from densevit.evaluation.rle import encode_masks


def image_results(
    *,
    boxes: NDArray[np.floating] | Tensor,
    labels: NDArray[np.integer] | Tensor,
    scores: NDArray[np.floating] | Tensor,
    masks: NDArray[np.bool_] | Tensor | None,
    image_id: int,
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """The entries of one image: XYXY boxes (n, 4) and masks (n, H, W) in its own pixels, labels 0 .. K-1.

    `category_ids` are the ids of the K classes. Numbers keep the precision of float32 and no digit more.
    """
    corners = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    entries: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": int(category_ids[int(label)]),
            "bbox": [shortest(value) for value in side],
            "score": shortest(score),
        }
        for side, label, score in zip(sides, labels, np.asarray(scores, dtype=np.float32), strict=True)
    ]
    if masks is not None:
        for entry, code in zip(entries, run_length_codes(masks), strict=True):
            entry["segmentation"] = code
    return entries


def run_length_codes(masks: NDArray[np.bool_] | Tensor) -> list[dict[str, Any]]:
    """(n, H, W) masks as "segmentation" entries of COCO's files."""
    pixels = torch.as_tensor(masks)
    size = [int(side) for side in pixels.shape[-2:]]
    return [{"size": size, "counts": code.decode("ascii")} for code in encode_masks(pixels)]


def shortest(value: Any) -> float:
    """A float32 as the number with the fewest digits that is no other float32: 0.1 rather than 0.10000000149."""
    return float(str(np.float32(value)))


def write_results(entries: Iterable[Mapping[str, Any]], path: Path | str) -> None:
    """Write the entries of all images as the file to upload."""
    Path(path).write_text(json.dumps(list(entries), separators=(",", ":")) + "\n", encoding="utf-8")


def read_image_ids(path: Path | str) -> dict[str, dict[str, int]]:
    """Name without folders -> file_name -> image id, of a COCO json such as `image_info_test-dev2017.json`.

    UserError if it is none.
    """
    ids: dict[str, dict[str, int]] = {}
    try:
        for image in json.loads(Path(path).read_text(encoding="utf-8"))["images"]:
            name = PurePath(image["file_name"])
            ids.setdefault(name.name, {})[name.as_posix()] = int(image["id"])
    except OSError as error:
        raise UserError(f"cannot open annotations file {path}: {error.strerror}; give a COCO json") from error
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no COCO json with the ids and file names of images") from error
    return ids


def image_id_of(picture: Path, ids: Mapping[str, Mapping[str, int]] | None) -> int:
    """The id of a picture: by its file name in `ids`, or, without them, the number that its name is.

    Of images of one name in several folders it is the one whose file_name ends the picture's path.
    """
    if ids is None:
        if not (picture.stem.isascii() and picture.stem.isdigit()):
            raise UserError(f"{picture.name} is not named by its image id; give the ids with --annotations FILE")
        return int(picture.stem)
    named = ids.get(picture.name, {})
    if not named:
        raise UserError(f"{picture.name} is not among the images of the annotations file")
    path = picture.absolute().as_posix()
    fitting = [name for name in named if path.endswith(f"/{name}")] or list(named)
    if len(named) > 1 and not path.endswith(f"/{max(fitting, key=len)}"):
        raise UserError(f"{picture} may be {' or '.join(sorted(named)[:3])}; give it with the folders of file_name")
    return named[max(fitting, key=len)]
