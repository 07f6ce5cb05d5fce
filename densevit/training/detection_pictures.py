"""Sample detections as pictures at every validation: truth beside prediction, into the run folder and TensorBoard."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from densevit.training.config import TrainConfig
from densevit.training.detection import DetectionTask
from densevit.training.pictures import SamplePictures, denormalise
from densevit.visualize.boxes import draw_objects, scale_to_width
from densevit.visualize.overlay import Picture
from densevit.visualize.strip import picture_grid

SHOWN_FROM = 0.3
"""Objects of a lower score are not drawn ..."""
MOST = 20
"""... nor more than so many, which an untrained model finds everywhere."""
MOST_TRUE = 100
"""More true objects hide each other; their tags would take minutes to place."""
CELL_WIDTH = 480


class DetectionPictures(SamplePictures):
    """Draws truth | prediction for `num_pictures` validation images, evenly spread over the split."""

    def draw(self, task: L.LightningModule, dataset: Any) -> NDArray[np.uint8]:
        """The strip of pictures, (H, W, 3)."""
        assert isinstance(task, DetectionTask)
        samples = self.samples(dataset)
        rows: list[list[Picture | None]] = []
        for sample in samples:
            image = sample["image"].as_subclass(Tensor).to(task.device)
            found = task.detect({"image": [image], "size": [sample["size"]]})[0]
            kept = found["scores"] >= SHOWN_FROM
            found = {name: values[kept][:MOST] for name, values in found.items()}
            truth = {name: values[:MOST_TRUE] for name, values in sample["truth"].items()}
            rows.append([self._cell(task, sample, truth), self._cell(task, sample, found)])
        return picture_grid(
            rows, titles=["truth", "prediction"], captions=[sample["id"] for sample in samples], cell_width=CELL_WIDTH
        )

    def _cell(self, task: DetectionTask, sample: dict[str, Any], objects: dict[str, Tensor]) -> Picture:
        """One picture with the objects of the truth or of a prediction, which are in pixels of the stored image."""
        data = task.experiment.data
        arrays = {name: values.as_subclass(Tensor).float().cpu().numpy() for name, values in objects.items()}
        with_masks = task.val_scores.with_masks and "masks" in objects
        picture, boxes, masks = scale_to_width(
            denormalise(sample["image"].as_subclass(Tensor), mean=data.mean, std=data.std),
            boxes=arrays["boxes"].reshape(-1, 4),
            masks=arrays["masks"].astype(bool) if with_masks else None,
            width=CELL_WIDTH,
            size=sample["size"],
        )
        labels = arrays["labels"].astype(int)
        if "scores" in arrays:
            after = [f" {100 * score:.0f} %" for score in arrays["scores"]]
        else:
            after = [" (crowd)" if crowd else "" for crowd in arrays["iscrowd"]]
        texts = [f"{task.classes[label]}{more}" for label, more in zip(labels, after, strict=True)]
        return draw_objects(picture, boxes=boxes, labels=labels, texts=texts, palette=task.palette, masks=masks)


def detection_pictures(train: TrainConfig, run_dir: Path) -> list[L.Callback]:
    """What a training of detectors does besides, for `TaskKind.callbacks`."""
    return [DetectionPictures(run_dir / "pictures", num_pictures=train.num_sample_pictures)]
