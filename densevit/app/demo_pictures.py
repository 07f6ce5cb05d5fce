"""The pictures of the demo: held-out scenes with truth and prediction, street pictures, and one sheet of all of it."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.scenes import ScenesDetection, ScenesSegmentation
from densevit.object_detector import Detections, ObjectDetector
from densevit.predict_files import find_pictures
from densevit.predictor import Predictor
from densevit.visualize.boxes import draw_objects, scale_to_width
from densevit.visualize.overlay import Picture
from densevit.visualize.strip import picture_grid, prediction_strip

NUM_HELD_OUT = 6
NUM_STREETS = 4
STREET_SIZE = (360, 480)
DAYLIGHT = (0, 2, 3, 6)
"""Test scenes by day: the packaged model has only ever seen daylight."""
CELL = 384


def segmentation_strip(run_dir: Path, *, image_size: tuple[int, int]) -> Picture:
    """Segment held-out scenes from files (`street/`), keep the predictions: image | truth | prediction."""
    scenes = ScenesSegmentation(split="test", image_size=image_size, num_images=NUM_HELD_OUT)
    predictor = Predictor.from_pretrained(run_dir)
    images, truths, predictions = [], [], []
    for index in range(len(scenes)):
        sample = scenes[index]
        path = run_dir / "street" / f"{sample['id']}.jpg"
        _save(sample["image"].permute(1, 2, 0).numpy(), path)
        prediction = predictor(path)
        prediction.save(run_dir / "predictions", path.stem)
        images.append(prediction.image)
        truths.append(np.asarray(sample["mask"]))
        predictions.append(prediction.labels)
    return prediction_strip(images, truths, predictions, classes=scenes.classes, palette=scenes.palette)


def find_streets(given: Sequence[str], *, out: Path) -> tuple[list[Path], str]:
    """Street pictures and what they are: the user's, CamVid's validation images if they are at hand, else scenes."""
    if given:
        return find_pictures(given, out=out)[:NUM_STREETS], "your pictures"
    camvid = Path(os.environ.get("DENSEVIT_TEST_DATA", "../shared/data")) / "camvid" / "images" / "val"
    if camvid.is_dir():
        files = sorted(camvid.iterdir())
        return files[:: max(len(files) // NUM_STREETS, 1)][:NUM_STREETS], "validation images of CamVid"
    scenes = ScenesSegmentation(split="test", image_size=STREET_SIZE, num_images=max(DAYLIGHT) + 1)
    files = [out / "streets" / f"{index:05d}.jpg" for index in DAYLIGHT]
    for index, path in zip(DAYLIGHT, files, strict=True):
        _save(scenes[index]["image"].permute(1, 2, 0).numpy(), path)
    return files, "generated scenes by day, which it has never seen the like of"


def street_strip(files: Sequence[Path]) -> Picture:
    """The packaged model on street pictures: image | prediction."""
    predictor = Predictor.from_pretrained()
    results = [predictor(path, probabilities=False, confidence=False) for path in files]
    return prediction_strip(
        [result.image for result in results],
        [None] * len(results),
        [result.labels for result in results],
        classes=predictor.info.classes,
        palette=predictor.info.palette,
        captions=[path.name for path in files],
        cell_width=CELL * 5 // 4,
    )


def detection_strip(run_dir: Path, *, image_size: tuple[int, int]) -> Picture:
    """Objects and their masks in held-out scenes: image | truth | found."""
    scenes = ScenesDetection(split="test", image_size=image_size, num_images=NUM_HELD_OUT)
    detector = ObjectDetector.from_pretrained(run_dir)
    rows = []
    for index in range(len(scenes)):
        sample = scenes[index]
        image = sample["image"].permute(1, 2, 0).numpy()
        truth = Detections(
            boxes=sample["boxes"].numpy(),
            labels=sample["labels"].numpy(),
            scores=np.ones(len(sample["labels"]), dtype=np.float32),
            masks=sample["masks"].numpy().astype(bool),
            classes=scenes.classes,
            palette=scenes.palette,
            image=image,
        )
        rows.append([_drawn(each) for each in (truth, detector(Image.fromarray(image)))])
        rows[-1].insert(0, image)
    return picture_grid(rows, titles=["image", "truth", "found"], cell_width=CELL)


def _drawn(found: Detections) -> Picture:
    """The objects with their names, on the picture at the width of a cell."""
    picture, boxes, masks = scale_to_width(found.image, boxes=found.boxes, masks=found.masks, width=CELL)
    return draw_objects(
        picture, boxes=boxes, labels=found.labels, texts=found.names, palette=found.palette, masks=masks, text_size=11
    )


def contact_sheet(parts: Sequence[Picture]) -> Picture:
    """Pictures of any sizes beside each other, brought to one height."""
    height = min(part.shape[0] for part in parts)
    return np.concatenate(
        [
            np.asarray(Image.fromarray(part).resize((round(part.shape[1] * height / part.shape[0]), height)))
            for part in parts
        ],
        axis=1,
    )


def _save(picture: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=92)
