"""The tasks that can be trained, by name: what differs between them, the loop being the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from densevit.training.classification import ClassificationTask
from densevit.training.classification_data import ClassificationData
from densevit.training.config import TrainConfig
from densevit.training.data import SegmentationData
from densevit.training.detection import DetectionTask
from densevit.training.detection_data import DetectionData
from densevit.training.detection_pictures import detection_pictures
from densevit.training.pictures import SamplePictures
from densevit.training.segmentation import SegmentationTask
from densevit.training.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """The parts of one task."""

    task: type[Task]
    """Losses and validation."""
    data: Callable[..., Any]
    """(experiment, num_batches=, seed=) -> a data module with `classes`."""
    callbacks: Callable[[TrainConfig, Path], list[L.Callback]] = lambda train, run_dir: []
    """What else a training into a run folder does."""


def _sample_pictures(train: TrainConfig, run_dir: Path) -> list[L.Callback]:
    return [SamplePictures(run_dir / "pictures", num_pictures=train.num_sample_pictures)]


def _segmentation_data(experiment: Any, **place: int) -> SegmentationData:
    return SegmentationData(experiment.data, **place)


def _classification_data(experiment: Any, **place: int) -> ClassificationData:
    return ClassificationData(experiment.data, **place)


def _detection_data(experiment: Any, **place: int) -> DetectionData:
    sides = {"short_side": experiment.eval.short_side, "long_side": experiment.eval.long_side}
    return DetectionData(experiment.data, **place, **sides)


TASKS: dict[str, TaskKind] = {
    "segmentation": TaskKind(task=SegmentationTask, data=_segmentation_data, callbacks=_sample_pictures),
    "detection": TaskKind(task=DetectionTask, data=_detection_data, callbacks=detection_pictures),
    "classification": TaskKind(task=ClassificationTask, data=_classification_data),
}
