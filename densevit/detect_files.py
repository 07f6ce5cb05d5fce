"""Many picture files through a detector: the objects of all of them in one file, and each picture drawn on.

`detections.json` is laid out as COCO's annotation files are, so that their tools read it; each object has its class
name and score besides. Ids of categories are those of the data set that the model was trained on.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from densevit.errors import UserError
from densevit.evaluation.coco_results import image_id_of, image_results, read_image_ids, shortest, write_results
from densevit.object_detector import Detections, ObjectDetector
from densevit.predict_files import output_stems
from densevit.video_io import is_video
from densevit.weights.info import ModelInfo

DETECTIONS = "detections.json"


class Searched(NamedTuple):
    """What became of one picture file."""

    path: Path
    result: Detections | None
    error: str | None
    """Why there is no result, in one sentence."""


def detect_files(
    detector: ObjectDetector,
    pictures: Iterable[Path],
    *,
    score_threshold: float | None,
    classes: Sequence[str] | None = None,
) -> Iterator[Searched]:
    """Search picture files one by one, as `ObjectDetector` does; one that cannot be read is reported and skipped."""
    for path in pictures:
        try:
            if is_video(path):
                raise UserError(f"{path} is a video; a detector takes pictures")
            yield Searched(path, detector(path, score_threshold=score_threshold, classes=classes), None)
        except UserError as error:
            yield Searched(path, None, str(error))


class DetectionsWriter:
    """A drawn picture for each result at once, and `detections.json` at the end."""

    def __init__(self, out: Path, info: ModelInfo, *, pictures: Sequence[Path], alpha: float) -> None:
        self.out, self.alpha = out, alpha
        self.stems = output_stems(pictures)
        self.category_ids = category_ids_of(info)
        categories = [{"id": id_, "name": name} for id_, name in zip(self.category_ids, info.classes, strict=True)]
        self.document: dict[str, Any] = {"images": [], "categories": categories, "annotations": []}

    def add(self, path: Path, result: Detections) -> None:
        """Draw the picture at `path`, and keep its objects."""
        stem = self.out / self.stems[path]
        result.save(stem.parent, stem.name, alpha=self.alpha)
        images, annotations = self.document["images"], self.document["annotations"]
        height, width = result.image.shape[:2]
        images.append({"id": len(images) + 1, "file_name": str(path), "width": width, "height": height})
        for entry in result.to_dict()["objects"]:
            left, top, right, bottom = entry["box_xyxy"]
            sides = [left, top, shortest(right - left), shortest(bottom - top)]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": self.category_ids[entry["label"]],
                "name": entry["name"],
                "score": entry["score"],
                "bbox": sides,
                "area": entry.get("area", shortest(sides[2] * sides[3])),
                "iscrowd": 0,
            }
            masks = {"segmentation": entry["segmentation"]} if "segmentation" in entry else {}
            annotations.append(annotation | masks)

    def finish(self) -> Path:
        """Write the json; returns the folder of all results."""
        text = json.dumps(self.document, ensure_ascii=False)
        (self.out / DETECTIONS).write_text(text + "\n", encoding="utf-8")
        return self.out


class SubmissionWriter:
    """The result file of COCO's test server; UserError, at once, for pictures whose image id is not known."""

    def __init__(
        self, path: Path, info: ModelInfo, *, pictures: Sequence[Path], annotations: str | None = None
    ) -> None:
        """`annotations` is a COCO json that says which file has which id; None: the file names are the ids."""
        self.path = path
        self.category_ids = category_ids_of(info)
        names = None if annotations is None else read_image_ids(annotations)
        self.ids: dict[Path, int] = {}
        seen: dict[int, Path] = {}
        for picture in pictures:
            number = self.ids[picture] = image_id_of(picture, names)
            if seen.setdefault(number, picture) != picture:
                raise UserError(f"{seen[number]} and {picture} are both image {number}; predict them separately")
        self.entries: list[dict[str, Any]] = []

    def add(self, path: Path, result: Detections) -> None:
        """Keep the objects of the picture at `path`."""
        self.entries += image_results(
            boxes=result.boxes,
            labels=result.labels,
            scores=result.scores,
            masks=result.masks,
            image_id=self.ids[path],
            category_ids=self.category_ids,
        )

    def finish(self) -> Path:
        """Write the file; returns it."""
        write_results(self.entries, self.path)
        return self.path


def category_ids_of(info: ModelInfo) -> tuple[int, ...]:
    """Ids of a model's classes in the json of its data set; 1 .. K if it does not know them."""
    return info.category_ids or tuple(range(1, len(info.classes) + 1))
